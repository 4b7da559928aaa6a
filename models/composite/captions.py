"""Sequences of an image and a caption for a language model, the loss on the caption, and writing captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from latentbank.errors import ModelError
from latentbank.models.composite.layout import Frame
from latentbank.models.language import prepacked
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.unembedding import unembedding_of_language

_LOGITS = 1 << 26  # logits in memory at once (256 MiB in float32)
_CHUNK = 8192  # rows of the vocabulary in one matrix product


class CaptionLoss(nn.Module):
    """Cross-entropy of the next tokens, with a gradient to the hidden states only.

    Logits are computed for one part of the vocabulary at a time, and the gradient in the same pass, so only tensors as
    large as the hidden states are kept for the backward pass. On processors where that is faster, the weights are
    prepacked.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, scale: float = 1.0, softcap: float | None = None
    ) -> None:
        """Prepare the loss for an unembedding.

        Args:
            weight: [vocab, hidden], frozen.
            bias: [vocab], or None.
            scale: factor of the logits.
            softcap: if given, logits become `softcap * tanh(logits / softcap)`.
        """
        super().__init__()
        self.scale, self.softcap, self.vocab_size = scale, softcap, weight.shape[0]
        self._starts = range(0, self.vocab_size, _CHUNK)
        with torch.no_grad():
            self._chunks = [
                _Product(
                    weight.detach()[start : start + _CHUNK],
                    None if bias is None else bias.detach()[start : start + _CHUNK],
                )
                for start in self._starts
            ]

    def forward(self, states: Tensor, targets: Tensor, softmax_loss: float = 0.0) -> Tensor:
        """Return the sum over tokens of the negative log probability, a float32 scalar.

        Args:
            states: hidden states after the final norm, [tokens, hidden].
            targets: the ids of the tokens that follow, [tokens] long.
            softmax_loss: weight of the auxiliary loss of PaLM (arXiv 2204.02311), the square of the logarithm of the
                softmax's denominator, which keeps the logits from drifting; it is added for each token.
        """
        apply: Any = _CrossEntropy.apply  # torch has no type hints for it
        return cast(Tensor, apply(states, targets, self, softmax_loss))

    def logits(self, states: Tensor) -> Tensor:
        """Return the next token's logits, [tokens, vocab] float32, for states [tokens, hidden] after the final norm."""
        return torch.cat([self._transform(chunk(states)) for chunk in self._chunks], dim=-1)

    def passes(
        self, states: Tensor, targets: Tensor, softmax_loss: float, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient to `states`, computed in parts that bound the memory."""
        at_once = max(1, _LOGITS // self.vocab_size)
        losses, gradients = [], []
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            loss, gradient = self._pass(states[part], targets[part], softmax_loss, with_gradient)
            losses.append(loss)
            gradients.append(gradient)
        total = torch.stack(losses).sum() if losses else states.new_zeros((), dtype=torch.float32)
        if not with_gradient:
            return total, None
        return total, torch.cat([cast(Tensor, g) for g in gradients]) if gradients else torch.zeros_like(
            states
        )

    def _pass(
        self, states: Tensor, targets: Tensor, softmax_loss: float, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        logits = [self._transform(chunk(states)) for chunk in self._chunks]
        total = torch.stack([part.logsumexp(dim=1) for part in logits]).logsumexp(dim=0)
        rows = torch.arange(len(states), device=states.device)
        right = torch.empty_like(total)
        gradient = torch.zeros(states.shape, dtype=torch.float32, device=states.device)
        for number, (start, part) in enumerate(zip(self._starts, logits, strict=True)):
            here = (targets >= start) & (targets < start + part.shape[1])
            places = (rows[here], targets[here] - start)
            right[here] = part[places]
            if with_gradient:
                slope = None if self.softcap is None else 1 - (part / self.softcap) ** 2
                part.sub_(total[:, None]).exp_()  # now probabilities
                if softmax_loss:  # their derivative is that of the denominator's logarithm
                    part.mul_(1 + 2 * softmax_loss * total[:, None])
                part[places] -= 1
                if slope is not None:
                    part.mul_(slope)
                gradient += self._chunks[number].back(part.to(states.dtype)).float()
        loss = (total - right + softmax_loss * total**2).sum()
        return loss, gradient.mul_(self.scale).to(states.dtype) if with_gradient else None

    def _transform(self, logits: Tensor) -> Tensor:
        """Return logits with scale and softcap applied, in float32."""
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class _Product:
    """The products `x @ weight.T + bias` and `y @ weight` with a frozen matrix, prepacked where that is faster."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._forward, self._back = _linear(weight, bias), _linear(weight.T, None)

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, self._forward(x))

    def back(self, y: Tensor) -> Tensor:
        return cast(Tensor, self._back(y))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    layers = nn.Sequential(linear)
    prepacked.prepack(layers)
    return layers[0]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, loss: CaptionLoss, softmax_loss: float) -> Tensor:
        total, gradient = loss.passes(states.detach(), targets, softmax_loss, ctx.needs_input_grad[0])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None


@torch.no_grad()
def write_captions(frame: Frame, head: CaptionLoss, visual: Sequence[Tensor], most: int = 64) -> list[str]:
    """Return the captions that a language model writes for images, by greedy decoding.

    Args:
        frame: what stands around the visual tokens, with the LLM, loaded whole.
        head: the loss with its unembedding.
        visual: the visual tokens of each image as they enter the LLM, [tokens, hidden].
        most: the largest number of tokens of a caption.
    """
    captions = [""] * len(visual)
    for length in sorted({len(tokens) for tokens in visual}):  # equal lengths need no padding
        numbers = [number for number, tokens in enumerate(visual) if len(tokens) == length]
        rows = torch.stack([visual[number] for number in numbers])
        for number, ids in zip(numbers, _greedy(frame, head, rows, most), strict=True):
            captions[number] = cast(str, frame.language.tokenizer.decode(ids)).strip()
    return captions


@torch.no_grad()
def answer_ids(frame: Frame, head: CaptionLoss, visual: Tensor, most: int) -> list[int]:
    """Return the token ids that a language model writes after an image, by greedy decoding, without the last EOS.

    Args:
        frame: what stands around the visual tokens, with the LLM, loaded whole.
        head: the loss with its unembedding.
        visual: the visual tokens of the image as they enter the LLM, [tokens, hidden].
        most: the largest number of tokens.
    """
    return answers_ids(frame, head, visual[None], most)[0]


@torch.no_grad()
def answers_ids(frame: Frame, head: CaptionLoss, visual: Tensor, most: int) -> list[list[int]]:
    """Return for images `[images, tokens, hidden]` the token ids that `answer_ids` returns for each."""
    return _greedy(frame, head, visual, most)


def _greedy(frame: Frame, head: CaptionLoss, visual: Tensor, most: int) -> list[list[int]]:
    language, end = frame.language, frame.layout.end
    sequence = frame.inputs(visual)
    most = min(most, language.max_length - sequence.shape[1])
    written = torch.empty(len(visual), 0, dtype=torch.long, device=language.device)
    cache: Any = None
    inputs: dict[str, Any] = {"inputs_embeds": sequence}
    for _ in range(most):
        output = language.decoder(**inputs, past_key_values=cache, use_cache=True)
        following = head.logits(output.last_hidden_state[:, -1]).argmax(dim=-1, keepdim=True)
        written = torch.cat([written, following], dim=1)
        if bool((written == end).any(dim=1).all()):
            break
        cache = output.past_key_values
        inputs = {"input_ids": following}
    rows = written.tolist()
    return [ids[: ids.index(end)] if end in ids else ids for ids in rows]


def caption_loss(language: LanguageModel) -> CaptionLoss:
    """Return the loss on captions with the unembedding of an LLM that is loaded whole.

    Raises:
        ModelError: the LLM has no unembedding, or transforms its logits in a way that is not supported.
    """
    unembedding = unembedding_of_language(language)
    config: Any = language.decoder.config
    head: Any = unembedding.head
    loss = CaptionLoss(
        head.weight,
        getattr(head, "bias", None),
        # Cohere multiplies, Granite divides.
        scale=getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1.0),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    ids = [token % language.vocab_size for token in range(11, 17)]
    deepest = language.num_layers
    expected = unembedding.logits(language.hidden_states([ids], [deepest])[0][deepest]).float()
    with torch.inference_mode():
        inputs = torch.tensor([ids], device=language.device)
        logits = loss.logits(language.decoder(input_ids=inputs, use_cache=False).last_hidden_state[0])
    if not bool((logits - expected).abs().max() <= 0.02 * expected.abs().max()):
        raise ModelError(
            f"{language.name} transforms its logits in a way that training does not support: use another LLM."
        )
    return loss
