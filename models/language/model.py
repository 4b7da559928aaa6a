"""Language models: tokens and hidden states, without the unembedding."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latentbank.errors import ModelError
from latentbank.identity import Identity
from latentbank.models.language import packing, prepacked
from latentbank.models.language.collecting import check_layers, collecting
from latentbank.models.language.devices import count, device_of
from latentbank.models.language.fingerprint import identify
from latentbank.models.language.layout import find_blocks, first_position, max_positions
from latentbank.models.language.loading import find_model, load_parts
from latentbank.models.language.sampling import packed_in
from latentbank.models.language.tokens import check_ids
from latentbank.models.language.transfers import to_device
from latentbank.text import check_text


def load_language_model(
    name: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    load_in: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a language model.

    Args:
        name: a hub id, a directory, the path of a .gguf file, or `org/repo:file.gguf` for a GGUF file on the hub. Of a
            vision-language model only the language model is kept. A path is made absolute.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`, which spreads the model over all GPUs and leaves in the CPU's
            memory what does not fit; by default `cuda`, or `mps` on a Mac, if there is a GPU.
        dtype: `float32`, `bfloat16` or `float16`; by default, and for `auto`, bfloat16 on a GPU and float32 on the CPU.
            float16 overflows in many models, whose hidden states have a few very large dimensions.
        revision: branch, tag or commit on the hub.
        deepest_layer: the deepest layer that will be read, or a function that returns it for the model's number of
            layers. Blocks after it are not kept in memory; for the usual architectures they are not read at all.
        load_in: `4bit` or `8bit` quantizes the weights while they are read, with bitsandbytes (extra `quantized`).
        adapter: a LoRA adapter, a directory that PEFT saved or a hub id, whose changes are added to the weights.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: the model cannot be loaded, is not a decoder, or has no fast tokenizer.
        LayerNotFound: the model has no layer `deepest_layer`.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M", device="cpu", deepest_layer=8)
        >>> model.hidden_size == model.hidden_states([[1, 2, 3]], layers=[8])[0][8].shape[-1]
        True
    """
    files = find_model(name, revision=revision, trust_remote_code=trust_remote_code)
    parts = load_parts(
        files, device=device, dtype=dtype, deepest_layer=deepest_layer, load_in=load_in, adapter=adapter
    )
    model = LanguageModel(
        files.name,
        parts.decoder,
        parts.tokenizer,
        num_layers=parts.num_layers,
        revision=parts.revision,
        adapter=parts.adapter,
        trust_remote_code=trust_remote_code,
    )
    if not model.is_causal():
        raise ModelError(
            f"Tokens of {name} depend on later ones: latentbank needs a decoder-only language model."
        )
    return model


class LanguageModel:
    """A decoder-only language model that computes hidden states, whole or cut after its deepest layer.

    Layer 0 is what enters the first block, layer l is what enters block l+1 (the residual stream after block l), and
    the last layer is the output of the last block before the final norm. A forward pass stops after the deepest layer
    asked for. Threads can share a model: forward passes take turns.

    Attributes:
        name: the name it was loaded by; a path is absolute.
        revision: the commit on the hub, where known.
        adapter: the adapter whose changes were added to the weights; None: there was none.
        trust_remote_code: whether code that comes with the model may run when more of it is loaded.
        tokenizer: a fast transformers tokenizer.
        num_layers: number of layers of the whole LLM, also if only part of it is loaded.
        hidden_size: width of a hidden state.
        vocab_size: number of rows of the input embedding.
        max_length: the largest number of positions.
        device: the device of the inputs and the hidden states.
        dtype: the dtype of the weights and the hidden states.
        bos_token_id: the tokenizer's beginning-of-sequence token, or None.
        lock: held while the decoder runs.
    """

    def __init__(
        self,
        name: str,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_layers: int,
        revision: str | None = None,
        adapter: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Wrap a decoder whose configuration counts its own blocks; the whole LLM has `num_layers`."""
        self.name = name
        self.revision = revision
        self.adapter = adapter
        self.trust_remote_code = trust_remote_code
        self.tokenizer = tokenizer
        self.num_layers = num_layers
        self.device: torch.device = device_of(decoder)
        self.dtype: torch.dtype = decoder.dtype
        self.hidden_size: int = decoder.config.hidden_size
        self._embedding = cast(Tensor, decoder.get_input_embeddings().weight)
        self._first_position = first_position(decoder)
        self.max_length = max_positions(decoder.config, tokenizer) - self._first_position
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.vocab_size = self._embedding.shape[0]
        self._decoder = decoder
        self._blocks = find_blocks(decoder)
        self._takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
        self.lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._identity: Identity | None = None
        if packed_in(decoder):
            self.identity()  # bitsandbytes may store its scales in another way when the model first runs
        # After the trial: why the model cannot pack, or None if it can.
        self._trial: tuple[str | None] | None = None

    def __repr__(self) -> str:
        """Return name, layers, device and dtype."""
        return f"<LanguageModel {self.name}, {self.num_layers} layers, {self.device}, {self.dtype}>"

    @property
    def loaded_layers(self) -> int:
        """The deepest layer that can be read; less than `num_layers` if only part of the LLM is loaded."""
        return len(self._blocks)

    @property
    def decoder(self) -> PreTrainedModel:
        """The frozen transformers model without the unembedding; its output is after the final norm."""
        return self._decoder

    @property
    def embedding(self) -> Tensor:
        """The input embedding, [vocab, hidden]."""
        return self._embedding

    def parameters_to(self, layer: int) -> int:
        """Return the number of parameters that a forward pass to a layer uses; the layer must be loaded."""
        return sum(count(weight) for block in self._blocks[:layer] for weight in prepacked.weights(block))

    def fingerprint(self) -> str:
        """Return 32 hex digits of vocabulary, sizes, embedding and first block, for people; `identity` tells more."""
        return self.identity().fingerprint

    def identity(self) -> Identity:
        """Return what tells this LLM from others, whatever dtype or quantization it is loaded in."""
        if self._identity is None:
            sizes = (self.hidden_size, self.num_layers, self.vocab_size)
            embedding = cast(Any, self._decoder).get_input_embeddings()
            self._identity = identify(
                self.tokenizer.get_vocab(), sizes, embedding, self._blocks, self.dtype, self.adapter
            )
        return self._identity

    def changed(self) -> None:
        """Forget what was known of the weights, which are others now: this is another LLM."""
        self._identity = None

    def encode(self, sentence: str, *, always_bos: bool = False) -> list[int]:
        """Return the token ids of a sentence.

        The name of a special token in the sentence, such as `<|im_start|>`, is plain text.

        Args:
            sentence: the text.
            always_bos: put the model's BOS first, if it has one, and add no other special token. By default the special
                tokens are those that the tokenizer adds.
        """
        return self._tokenize(sentence, always_bos)[0]

    def spans(self, sentence: str, *, always_bos: bool = False) -> list[tuple[int, int]]:
        """Return the character span of each token of `encode` in the sentence; (0, 0) for special tokens."""
        return self._tokenize(sentence, always_bos)[1]

    def _tokenize(self, sentence: str, always_bos: bool) -> tuple[list[int], list[tuple[int, int]]]:
        check_text(sentence, "sentence")
        forced = [self.bos_token_id] if always_bos and self.bos_token_id is not None else []
        with self._tokenizer_lock:  # the tokenizer keeps these options as its state
            encoded = self.tokenizer(
                sentence,
                add_special_tokens=not forced,
                split_special_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
        return forced + encoded["input_ids"], [(0, 0)] * len(forced) + encoded["offset_mapping"]

    def text_hidden_states(self, sentence: str, layers: Sequence[int]) -> tuple[list[int], dict[int, Tensor]]:
        """Return the token ids of a sentence and, by layer, their hidden states [tokens, hidden]."""
        ids = self.encode(sentence)
        return ids, self.hidden_states([ids], layers)[0]

    def hidden_states(
        self, sentences: Sequence[Sequence[int]], layers: Sequence[int]
    ) -> list[dict[int, Tensor]]:
        """Run sentences (lists of token ids) as one right-padded batch.

        Returns:
            For each sentence the hidden states by layer, [tokens, hidden] in the model's dtype, on its device.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
            ModelError: a sentence is longer than `max_length`, or has ids outside the vocabulary.
        """
        requested = self._check(layers)
        lengths = [len(sentence) for sentence in sentences]
        longest = max(lengths, default=0)
        if longest > self.max_length:
            raise ModelError(
                f"A sentence has {longest} tokens, but {self.name} has {self.max_length} positions: shorten it."
            )
        check_ids(self, (token for sentence in sentences for token in sentence))
        if not longest:
            nothing = torch.empty(0, self.hidden_size, dtype=self.dtype, device=self.device)
            return [dict.fromkeys(requested, nothing) for _ in sentences]
        padding = self.tokenizer.pad_token_id
        fill = padding if padding is not None and padding < self.vocab_size else 0
        input_ids = torch.full((len(sentences), longest), fill, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, sentence in enumerate(sentences):
            input_ids[row, : lengths[row]] = torch.as_tensor(list(sentence), dtype=torch.long)
            attention_mask[row, : lengths[row]] = 1
        states = self.hidden_states_of(input_ids, attention_mask, requested)
        return [
            {layer: states[layer][row, :length] for layer in requested} for row, length in enumerate(lengths)
        ]

    def hidden_states_of(
        self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """Run a batch that is already padded, on the left or on the right.

        Args:
            input_ids: [batch, tokens] long.
            attention_mask: 1 for tokens and 0 for padding, [batch, tokens].
            layers: which layers' hidden states to return.

        Returns:
            By layer [batch, tokens, hidden]; values at padding are meaningless.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
        """
        requested = self._check(layers)
        mask = to_device(attention_mask, self.device).long()
        inputs: dict[str, Any] = {"input_ids": to_device(input_ids, self.device), "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0) + self._first_position
        return self._run(inputs, requested)

    def packed_hidden_states(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """Run prefix-packed rows; only for a model that `packs`.

        Args:
            input_ids: [rows, n] long.
            positions: depth of each token in its prefix tree, [rows, n] long.
            visible: whether query i attends to key j, [rows, n, n] bool: a token attends to its ancestors and itself,
                padding to itself.
            layers: which layers' hidden states to return.

        Returns:
            By layer [rows, n, hidden]. Blocks with a sliding window attend only to the ancestors within it.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
        """
        requested = self._check(layers)
        depth, mask = to_device(positions, self.device), to_device(visible, self.device)
        inputs = {
            "input_ids": to_device(input_ids, self.device),
            "position_ids": depth + self._first_position,
            "attention_mask": packing.masks(self._decoder.config, self.dtype, depth, mask),
        }
        return self._run(inputs, requested)

    def is_causal(self) -> bool:
        """Return whether a token's hidden state is the same whatever follows it, as tried on one sentence."""
        first, *rest = (token % self.vocab_size for token in range(11, 17))
        deepest = len(self._blocks)
        ends = (rest[-2], rest[-1])
        a, b = (
            states[deepest][:-1]
            for states in self.hidden_states([[first, *rest[:-2], end] for end in ends], [deepest])
        )
        # Hidden states that overflow cannot be compared; an error is raised where they are used.
        return packing.difference(a, b) is None or not bool(a.isfinite().all())

    @property
    def packs(self) -> bool:
        """Whether `packed_hidden_states` returns the same hidden states as `hidden_states`.

        This is tried once, on a small prefix tree of random ids.
        """
        return self._why_not() is None

    @property
    def packing(self) -> str:
        """How sentences are run, as one line for people: `prefix-packed`, or `padded` and why."""
        reason = self._why_not()
        return "prefix-packed" if reason is None else f"padded ({reason})"

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the decoder (safetensors, in the loaded dtype) and the tokenizer, for `load_language_model`.

        This converts a GGUF file, which loads slowly. An unembedding that is not tied to the input embedding is not
        written.

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
            self._trial = (packing.obstacle(self._decoder) or packing.try_packing(self),)
        return self._trial[0]

    def collect(self, forward: Callable[[], object], layers: Sequence[int], tokens: int) -> dict[int, Tensor]:
        """Call `forward`, which runs this LLM's decoder, and end it once the deepest layer is computed.

        Args:
            forward: runs the decoder, directly or through the vision-language model around it.
            layers: which layers' hidden states to return.
            tokens: number of tokens that are run, including padding.

        Returns:
            By layer [batch, tokens, hidden]. Nothing is run if no layer is asked for.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
            ModelError: the memory is too small, or the model passes on several residual streams.
        """
        requested = self._check(layers)
        if not requested:
            return {}
        with self.lock, torch.inference_mode(), collecting(self._blocks, requested) as states:
            try:
                forward()
            except torch.OutOfMemoryError:
                raise ModelError(
                    f"The memory of {self.device} is too small for {tokens:,} tokens of {self.name} in one forward "
                    "pass: use bfloat16, or a smaller batch.",
                    argument="batch",
                ) from None
        if any(
            state.dim() != 3 or state.shape[-1] != self.hidden_size or state.shape[:-1].numel() != tokens
            for state in states.values()
        ):
            raise ModelError(
                f"The blocks of {self.name} pass on more than one residual stream: use another model."
            )
        return {layer: state.to(self.device) for layer, state in states.items()}

    def _check(self, layers: Sequence[int]) -> list[int]:
        return check_layers(self.name, layers, self.num_layers, self.loaded_layers)

    def _run(self, inputs: dict[str, Any], requested: list[int]) -> dict[int, Tensor]:
        tokens = inputs["input_ids"].numel()
        return self.collect(lambda: self._decoder(**inputs, use_cache=False), requested, tokens)
