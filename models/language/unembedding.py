"""The unembedding, which turns the output of an LLM's last block into logits; LogitLens applies it to any layer."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from latentbank.errors import ModelError
from latentbank.models.language.devices import device_of
from latentbank.models.language.layout import decoder_of, find_blocks, text_config
from latentbank.models.language.loading import find_model, load_parts
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.prepacked import prepack


def load_unembedding(
    name: str,
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    adapter: str | None = None,
    trust_remote_code: bool = False,
) -> Unembedding:
    """Load the unembedding of a language model, or of the one in a vision-language model.

    Args:
        name: as for `load_language_model`. Only one block is kept.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`.
        revision: branch, tag or commit on the hub.
        adapter: as for `load_language_model`.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: the model cannot be loaded, or has no unembedding.
    """
    files = find_model(name, revision=revision, trust_remote_code=trust_remote_code)
    parts = load_parts(files, device=device, dtype=dtype, deepest_layer=0, adapter=adapter, head=True)
    return unembedding_of_model(files.name, cast(PreTrainedModel, parts.model))


def unembedding_of_model(
    name: str, model: PreTrainedModel, lock: threading.Lock | None = None
) -> Unembedding:
    """Return the unembedding of a loaded model; it shares the weights.

    For a vision-language model it is that of the LLM inside: some classes leave out what their LLM does to its logits,
    as LLaVA-NeXT's does with Granite's division.

    Args:
        name: the model's name.
        model: a causal LLM, or a vision-language model, with at least one block.
        lock: held while the model runs, here and in other threads; None: a lock of its own.

    Raises:
        ModelError: the model has no unembedding.
    """
    head = cast(Any, model).get_output_embeddings()
    if head is not None and text_config(model.config) is not model.config:
        model = causal_around(decoder_of(model), head) or model
    return Unembedding(name, model, lock)


def unembedding_of_language(language: LanguageModel) -> Unembedding:
    """Return the unembedding of an LLM whose decoder is already loaded.

    If it is tied to the input embedding, it shares the weights where that is possible; otherwise it is loaded.

    Raises:
        ModelError: the LLM has no unembedding, or it cannot be loaded.
    """
    if getattr(language.decoder.config, "tie_word_embeddings", False):
        embedding = language.embedding
        head = nn.Linear(embedding.shape[1], embedding.shape[0], bias=False, device="meta")
        head.weight = nn.Parameter(embedding, requires_grad=False)
        causal = causal_around(language.decoder, head, trust_remote_code=language.trust_remote_code)
        if causal is not None:
            return Unembedding(language.name, causal, language.lock)
    return load_unembedding(
        language.name,
        device=str(language.device),
        dtype=language.dtype,
        revision=language.revision,
        adapter=language.adapter,
        trust_remote_code=language.trust_remote_code,
    )


def causal_around(
    decoder: PreTrainedModel, head: nn.Module, *, trust_remote_code: bool = False
) -> PreTrainedModel | None:
    """Return the causal LLM around a decoder and an unembedding; nothing is copied.

    Returns:
        None if transformers has no such LLM, or if it has more weights than those of the decoder and `head`.
    """
    auto: Any = AutoModelForCausalLM  # its functions have no type hints
    try:
        with torch.device("meta"):  # tensors without memory
            whole = auto.from_config(
                copy.deepcopy(decoder.config), dtype=decoder.dtype, trust_remote_code=trust_remote_code
            )
    except (
        ValueError,
        ImportError,
    ):  # the text models of some vision-language models have no class of their own
        return None
    own = decoder_of(whole)
    path = next(name for name, module in whole.named_modules() if module is own)
    parent, _, name = path.rpartition(".")
    if not path or type(own) is not type(decoder):
        return None
    setattr(whole.get_submodule(parent), name, decoder)
    whole.set_output_embeddings(head)
    if any(part.is_meta for part in (*whole.parameters(), *whole.buffers())):
        return None
    return cast(PreTrainedModel, whole.eval())


class Unembedding:
    """Final norm, unembedding, and what the model does to its logits after that.

    The model runs on one token, and the output of its last block is replaced by the hidden states. So softcaps (Gemma
    2), scales (Cohere, Granite) and tied weights are handled by the model's own code.

    Attributes:
        name: the model's name.
        head: the linear layer that computes the logits.
        hidden_size: width of a hidden state.
        vocab_size: number of logits; may exceed the tokenizer's number of tokens.
    """

    def __init__(self, name: str, model: PreTrainedModel, lock: threading.Lock | None = None) -> None:
        """Wrap a model that has at least one block and its unembedding.

        Args:
            name: the model's name.
            model: the whole model.
            lock: held while the model runs, here and in other threads; None: a lock of its own.

        Raises:
            ModelError: the model has no unembedding.
        """
        head = cast(Any, model).get_output_embeddings()
        if head is None:
            raise ModelError(f"{name} has no unembedding, so LogitLens cannot read it: use another lens.")
        self.name = name
        self._model = model
        self.head = cast(nn.Module, head)
        decoder = decoder_of(model)
        self._last, self._device = find_blocks(decoder)[-1], device_of(decoder)
        self._lock = lock or threading.Lock()
        # Not the head's width: some OPT models project the last block's output to fewer dimensions.
        self.hidden_size: int = decoder.config.hidden_size
        self.vocab_size: int = head.weight.shape[0]
        # Any token except the one that stands for an image.
        self._token = int(getattr(model.config, "image_token_id", None) == 0)

    @contextlib.contextmanager
    def prepacked(self) -> Iterator[None]:
        """Compute logits and their gradients faster in the block, where the processor has a layout for it.

        This takes memory for two copies of the head's weights.
        """
        packed = nn.Sequential(self.head)
        prepack(packed)
        whole = cast(Any, self._model)
        whole.set_output_embeddings(packed[0])
        try:
            yield
        finally:
            whole.set_output_embeddings(self.head)

    def logits(self, states: Tensor, *, gradient: bool = False) -> Tensor:
        """Return the logits of hidden states of any layer, as if they were the last block's output.

        Args:
            states: [n, hidden], before the final norm.
            gradient: let gradients flow back to the states; weights get none.

        Returns:
            [n, vocab] in the model's dtype, on the unembedding's device. This takes much memory: pass a few hundred
            states at a time.

        Raises:
            ModelError: the states have another width than the model's, its blocks pass on several residual streams, or
                its logits depend on more than the last block's output.
        """
        if states.dim() != 2 or states.shape[1] != self.hidden_size:
            raise ModelError(
                f"Hidden states [n, {self.hidden_size}] belong to {self.name}, not {list(states.shape)}: "
                "use the model they come from."
            )
        # At least two rows beside one token: a model that puts them together with others' states fails.
        rows = states if len(states) != 1 else states.expand(2, -1)
        replacement = rows.to(dtype=self._model.dtype)[None]

        def replace_output(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            state = output if isinstance(output, Tensor) else output[0]
            if state.shape != (1, 1, self.hidden_size):
                raise ModelError(
                    f"The blocks of {self.name} pass on more than one residual stream: use another model."
                )
            here = replacement.to(state.device)  # of a model on several devices, that of the last block
            return here if isinstance(output, Tensor) else (here, *output[1:])

        token = torch.full((1, 1), self._token, dtype=torch.long, device=self._device)
        with self._lock, torch.inference_mode(not gradient), torch.set_grad_enabled(gradient):
            hook = self._last.register_forward_hook(replace_output)
            try:
                logits = self._model(input_ids=token, use_cache=False).logits
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ModelError(
                    f"The logits of {self.name} depend on more than its last block's output, so LogitLens cannot read "
                    "it: use another lens."
                ) from error
            finally:
                hook.remove()
        return cast(Tensor, logits.reshape(len(rows), logits.shape[-1])[: len(states)])
