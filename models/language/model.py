"""Language models: their tokens and their hidden states, without the unembedding."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latentbank.errors import LayerNotFound, ModelError
from latentbank.models.language import packing, prepacked
from latentbank.models.language.fingerprint import fingerprint
from latentbank.models.language.layout import find_blocks
from latentbank.models.language.loading import choose_device, choose_dtype, load_parts


def absolute(name: str) -> str:
    """A model's name; if it is a path, the absolute one, because banks remember it and are read from anywhere."""
    if name.strip() and Path(name).expanduser().exists():
        return str(Path(name).expanduser().resolve())
    return name


def load_language_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a language model.

    Args:
        name: a hub id, a directory, the path of a .gguf file, or `org/repo:file.gguf` for one on the hub.
            Of a vision-language model only the language model is kept. A path is kept absolute.
        device: `cpu`, `cuda`, `cuda:1`; by default `cuda` where there is a GPU.
        dtype: `float32`, `bfloat16` or `float16`; by default bfloat16 on a GPU and float32 on the CPU.
            float16 overflows in many models, whose hidden states have a few huge dimensions.
        revision: branch, tag or commit on the hub.
        deepest_layer: the deepest layer that will be asked for, or what chooses it by the number of the
            model's layers; blocks above it are not kept in memory, and for the usual architectures not even read.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: the model cannot be loaded, is no decoder, or has no fast tokenizer.
        LayerNotFound: `deepest_layer` is none of the model's layers.

    Example:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M", device="cpu", deepest_layer=8)
        >>> model.hidden_size == model.hidden_states([[1, 2, 3]], layers=[8])[0][8].shape[-1]
        True
    """
    where = choose_device(device)
    name = absolute(name)
    parts = load_parts(
        name,
        device=where,
        dtype=choose_dtype(dtype, where),
        revision=revision,
        deepest_layer=deepest_layer,
        trust_remote_code=trust_remote_code,
    )
    model = LanguageModel(
        name,
        parts.decoder,
        parts.tokenizer,
        num_layers=parts.num_layers,
        revision=parts.revision,
        trust_remote_code=trust_remote_code,
    )
    if not model.is_causal():
        raise ModelError(
            f"{name} lets tokens see later ones: latentbank needs a decoder-only language model."
        )
    return model


class LanguageModel:
    """A decoder-only language model that gives hidden states, whole or cut after its deepest layer.

    Layer 0 is what enters the first block, layer l what enters block l+1 (the residual stream after block
    l), and the last layer is the output of the last block before the final norm. A forward stops after the
    deepest layer asked for. Safe to share between threads: forwards take turns.

    Attributes:
        name: as it was asked for.
        revision: the commit on the hub, where known.
        trust_remote_code: whether code that comes with the model may run, also when more of it is loaded.
        tokenizer: a fast transformers tokenizer.
        num_layers: of the whole LLM, also when only part of it is loaded.
        hidden_size: width of a hidden state.
        vocab_size: rows of the input embedding.
        max_length: the largest number of positions.
        device: where the weights are.
        dtype: of the weights and the hidden states.
        bos_token_id: the tokenizer's beginning-of-sequence token, if it has one.
        lock: whoever runs the decoder holds it.
    """

    def __init__(
        self,
        name: str,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_layers: int,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Wrap a decoder whose configuration counts the blocks it has, of `num_layers` in the whole LLM."""
        self.name = name
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.tokenizer = tokenizer
        self.num_layers = num_layers
        self.device: torch.device = decoder.device
        self.dtype: torch.dtype = decoder.dtype
        self.hidden_size: int = decoder.config.hidden_size
        self._embedding = cast(Tensor, decoder.get_input_embeddings().weight)
        self.max_length = _max_length(decoder.config, tokenizer)
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.vocab_size = self._embedding.shape[0]
        self._decoder = decoder
        self._blocks = find_blocks(decoder)
        self._takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
        self.lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._fingerprint: str | None = None
        self._trial: tuple[str | None] | None = None  # once tried: why it does not pack, None if it does

    def __repr__(self) -> str:
        """Name, layers, device and dtype."""
        return f"<LanguageModel {self.name}, {self.num_layers} layers, {self.device}, {self.dtype}>"

    @property
    def loaded_layers(self) -> int:
        """The deepest layer whose hidden states can be had; less than `num_layers` if part of the LLM is loaded."""
        return len(self._blocks)

    @property
    def decoder(self) -> PreTrainedModel:
        """The transformers model behind it, frozen, without the unembedding; its output is after the final norm."""
        return self._decoder

    @property
    def embedding(self) -> Tensor:
        """The input embedding, [vocab, hidden]."""
        return self._embedding

    def parameters_to(self, layer: int) -> int:
        """Count the parameters of the blocks up to a layer (which must be loaded): all that a forward multiplies."""
        return sum(weight.numel() for block in self._blocks[:layer] for weight in prepacked.weights(block))

    def fingerprint(self) -> str:
        """32 hex digits that tell this LLM from others, whatever dtype, device or depth it is loaded with.

        Hashes the tokenizer's vocabulary, the sizes, and samples of the input embedding and the first block,
        rounded to bfloat16. float32 and bfloat16 loads of one checkpoint agree. A float16 load agrees if the
        checkpoint is stored in 16 bits; of a float32 checkpoint it need not.
        """
        if self._fingerprint is None:
            self._fingerprint = fingerprint(
                self.tokenizer.get_vocab(),
                (self.hidden_size, self.num_layers, self.vocab_size),
                [self._embedding, *prepacked.weights(self._blocks[0])],
            )
        return self._fingerprint

    def encode(self, sentence: str, *, always_bos: bool = False) -> list[int]:
        """The token ids of `sentence`, with the special tokens the tokenizer adds.

        With `always_bos`, of special tokens the model's BOS alone comes before it, where there is one. A special
        token's name inside the sentence, such as `<|im_start|>`, is plain text.
        """
        return self._tokenize(sentence, always_bos)[0]

    def spans(self, sentence: str, *, always_bos: bool = False) -> list[tuple[int, int]]:
        """The span of each of `encode`'s tokens in `sentence`, in characters; (0, 0) for special tokens."""
        return self._tokenize(sentence, always_bos)[1]

    def _tokenize(self, sentence: str, always_bos: bool) -> tuple[list[int], list[tuple[int, int]]]:
        forced = [self.bos_token_id] if always_bos and self.bos_token_id is not None else []
        with self._tokenizer_lock:  # the options are a state of the tokenizer
            encoded = self.tokenizer(
                sentence,
                add_special_tokens=not forced,
                split_special_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
        return forced + encoded["input_ids"], [(0, 0)] * len(forced) + encoded["offset_mapping"]

    def text_hidden_states(self, sentence: str, layers: Sequence[int]) -> tuple[list[int], dict[int, Tensor]]:
        """The token ids of `sentence` and, per layer, their hidden states [tokens, hidden]."""
        ids = self.encode(sentence)
        return ids, self.hidden_states([ids], layers)[0]

    def hidden_states(
        self, sentences: Sequence[Sequence[int]], layers: Sequence[int]
    ) -> list[dict[int, Tensor]]:
        """Run sentences (lists of token ids) as one right-padded batch.

        Returns:
            For each sentence and layer [tokens, hidden], in the model's dtype, on its device.

        Raises:
            LayerNotFound: a layer the model does not have, or deeper than what was loaded.
            ModelError: a sentence is longer than `max_length`, or has ids outside the vocabulary.
        """
        wanted = self._checked(layers)
        lengths = [len(sentence) for sentence in sentences]
        longest = max(lengths, default=0)
        if longest > self.max_length:
            raise ModelError(
                f"A sentence has {longest} tokens, but {self.name} has {self.max_length} positions: cut it."
            )
        if any(not 0 <= token < self.vocab_size for sentence in sentences for token in sentence):
            raise ModelError(
                f"A token id lies outside the {self.vocab_size} of {self.name}: use its own tokenizer."
            )
        if not longest:
            nothing = torch.empty(0, self.hidden_size, dtype=self.dtype, device=self.device)
            return [dict.fromkeys(wanted, nothing) for _ in sentences]
        padding = self.tokenizer.pad_token_id
        fill = padding if padding is not None and padding < self.vocab_size else 0
        input_ids = torch.full((len(sentences), longest), fill, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, sentence in enumerate(sentences):
            input_ids[row, : lengths[row]] = torch.as_tensor(list(sentence), dtype=torch.long)
            attention_mask[row, : lengths[row]] = 1
        states = self.hidden_states_of(input_ids, attention_mask, wanted)
        return [
            {layer: states[layer][row, :length] for layer in wanted} for row, length in enumerate(lengths)
        ]

    def hidden_states_of(
        self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """Run a batch that is padded already, on the left or on the right.

        Args:
            input_ids: [batch, tokens] long.
            attention_mask: 1 for tokens and 0 for padding, [batch, tokens].
            layers: which layers' hidden states to return.

        Returns:
            Per layer [batch, tokens, hidden]; what stands at padding means nothing.

        Raises:
            LayerNotFound: a layer the model does not have, or deeper than what was loaded.
        """
        wanted = self._checked(layers)
        mask = attention_mask.to(self.device, torch.long)
        inputs: dict[str, Any] = {"input_ids": input_ids.to(self.device), "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return self._run(inputs, wanted)

    def packed_hidden_states(
        self, input_ids: Tensor, positions: Tensor, sees: Tensor, layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """Run prefix-packed rows, if the model `packs`.

        Args:
            input_ids: [rows, n] long.
            positions: depth of each token in its prefix tree, [rows, n] long.
            sees: whether query i sees key j, [rows, n, n] bool: its ancestors and itself. Padding sees
                itself.
            layers: which layers' hidden states to return.

        Returns:
            Per layer [rows, n, hidden]. Blocks with a sliding window see only the ancestors within it.

        Raises:
            LayerNotFound: a layer the model does not have, or deeper than what was loaded.
        """
        wanted = self._checked(layers)
        depth, visible = positions.to(self.device), sees.to(self.device)
        inputs = {
            "input_ids": input_ids.to(self.device),
            "position_ids": depth,
            "attention_mask": packing.masks(self._decoder.config, self.dtype, depth, visible),
        }
        return self._run(inputs, wanted)

    def is_causal(self) -> bool:
        """Whether a token's hidden state is the same whatever follows it (tried on one sentence)."""
        first, *rest = (token % self.vocab_size for token in range(11, 17))
        deepest = len(self._blocks)
        ends = (rest[-2], rest[-1])
        one, other = (
            states[deepest][:-1]
            for states in self.hidden_states([[first, *rest[:-2], end] for end in ends], [deepest])
        )
        # Hidden states that overflow tell nothing; whoever uses them reports that.
        return packing.difference(one, other) is None or not bool(one.isfinite().all())

    @property
    def packs(self) -> bool:
        """Whether `packed_hidden_states` gives this model's true hidden states.

        Found by running a small prefix tree of random ids both ways, once.
        """
        return self._why_not() is None

    @property
    def packing(self) -> str:
        """How sentences can be run, in one line for people: `prefix-packed`, or `padded` and why."""
        reason = self._why_not()
        return "prefix-packed" if reason is None else f"padded ({reason})"

    def save(self, directory: str | Path) -> None:
        """Write the decoder (safetensors, in the loaded dtype) and the tokenizer, for `load_language_model`.

        A GGUF, which loads slowly, is converted once this way. An unembedding of its own is not kept.

        Raises:
            ModelError: only part of the LLM is loaded, or the directory cannot be written.
        """
        if len(self._blocks) < self.num_layers:
            raise ModelError(
                f"Only {len(self._blocks)} of the {self.num_layers} layers of {self.name} are loaded: "
                "load it without deepest_layer to save it."
            )
        try:
            self._decoder.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
        except OSError as error:
            raise ModelError(
                f"{self.name} cannot be written to {directory}: {error.strerror or error}."
            ) from error

    def _why_not(self) -> str | None:
        if self._trial is None:
            self._trial = (packing.obstacle(self._decoder) or self._try_packing(),)
        return self._trial[0]

    def _try_packing(self) -> str | None:
        tree = packing.trial_row(self._decoder.config, self.vocab_size, self.max_length)
        paths = [tree.path(leaf) for leaf in tree.leaves()]
        deepest = len(self._blocks)
        plain = self.hidden_states([[tree.ids[node] for node in path] for path in paths], [deepest])
        try:
            row = packing.tensors(tree, self.device)
            packed = self.packed_hidden_states(*row, [deepest])[deepest][0]
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
            return f"it takes no mask of our own, {type(error).__name__}"
        return packing.difference(
            torch.cat([packed[path] for path in paths]), torch.cat([states[deepest] for states in plain])
        )

    def _checked(self, layers: Sequence[int]) -> list[int]:
        wanted = sorted(set(layers))
        for layer in wanted:
            if not 0 <= layer <= self.num_layers:
                raise LayerNotFound(
                    f"{self.name} has no layer {layer}: it has layers 0 to {self.num_layers}."
                )
            if layer > len(self._blocks):
                raise LayerNotFound(
                    f"Layer {layer} of {self.name} is not loaded, only 0 to {len(self._blocks)}: "
                    f"load it with deepest_layer={layer}."
                )
        return wanted

    def collect(self, forward: Callable[[], object], layers: Sequence[int], tokens: int) -> dict[int, Tensor]:
        """Call `forward`, which runs this LLM's decoder, and end it once the deepest of `layers` is there.

        Args:
            forward: runs the decoder, directly or through the vision-language model around it.
            layers: which layers' hidden states to return.
            tokens: how many tokens go through, padding counted.

        Returns:
            Per layer [batch, tokens, hidden]; nothing is run if no layer is asked for.

        Raises:
            LayerNotFound: a layer the model does not have, or deeper than what was loaded.
            ModelError: the memory is too small, or the model passes on several residual streams.
        """
        wanted = self._checked(layers)
        if not wanted:
            return {}
        with self.lock, torch.inference_mode(), _collecting(self._blocks, wanted) as states:
            try:
                forward()
            except torch.OutOfMemoryError:
                raise ModelError(
                    f"The memory of {self.device} is too small for {tokens:,} tokens of {self.name} in one forward "
                    "pass: use a smaller --batch or --dtype bfloat16."
                ) from None
        if any(
            state.dim() != 3 or state.shape[-1] != self.hidden_size or state.shape[:-1].numel() != tokens
            for state in states.values()
        ):
            raise ModelError(
                f"The blocks of {self.name} pass on more than one residual stream: use another model."
            )
        return states

    def _run(self, inputs: dict[str, Any], wanted: list[int]) -> dict[int, Tensor]:
        tokens = inputs["input_ids"].numel()
        return self.collect(lambda: self._decoder(**inputs, use_cache=False), wanted, tokens)


class _DeepEnough(Exception):
    """Raised in a hook to end a forward once the deepest layer is there."""


@contextlib.contextmanager
def _collecting(blocks: nn.ModuleList, wanted: list[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the layers `wanted` (ascending) during a forward, and end it after the deepest."""
    states: dict[int, Tensor] = {}

    def keep(layer: int, state: Tensor) -> None:
        states[layer] = state
        if layer == wanted[-1]:
            raise _DeepEnough

    def entering(layer: int) -> Any:
        def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(layer, args[0] if args else kwargs["hidden_states"])

        return hook

    def leaving(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        keep(len(blocks), output if isinstance(output, Tensor) else output[0])

    handles = [
        blocks[layer].register_forward_pre_hook(entering(layer), with_kwargs=True)
        if layer < len(blocks)
        else blocks[-1].register_forward_hook(leaving)
        for layer in wanted
    ]
    try:
        yield states
    except _DeepEnough:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _max_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many positions the configuration names; else the tokenizer's limit (ALiBi, recurrent models)."""
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    return min(int(tokenizer.model_max_length), 1_000_000)
