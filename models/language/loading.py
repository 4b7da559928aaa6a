"""Loading a language model by name: from the hub, a directory, a GGUF file, or out of a vision-language model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from latentbank.errors import LayerNotFound, ModelError
from latentbank.files import existing
from latentbank.layers import require_layers
from latentbank.memory import release_memory
from latentbank.models.language.adapters import base_of, check_adapter, merge_adapter
from latentbank.models.language.devices import AUTO, choose_device, choose_dtype, quantization, spread
from latentbank.models.language.explaining import plain_errors, quiet
from latentbank.models.language.layout import (
    count_blocks,
    cut_config,
    decoder_of,
    has_eyes,
    keep_blocks,
    text_config,
    without_mask_causal,
)
from latentbank.models.language.prepacked import prepack
from latentbank.models.language.tekken import load_tokenizer
from latentbank.text import is_hub_id
from latentbank.values import whole


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's files are, and its configuration.

    Attributes:
        name: the model's name; a path is absolute.
        source: the directory or hub id that transformers loads from.
        config: the configuration, of the whole model.
        options: what every `from_pretrained` call takes: `trust_remote_code`, `revision`, `gguf_file`.
    """

    name: str
    source: str
    config: Any
    options: dict[str, Any]

    @property
    def takes_images(self) -> bool:
        """Whether transformers, or code that comes with the model, loads it with its eyes.

        Phi-4-multimodal, and much code that comes with models, have the whole model under another Auto class.
        """
        if _can_load(AutoModelForImageTextToText, self.config):
            return True
        remote = getattr(self.config, "auto_map", None) or {}
        classes = (AutoModelForCausalLM, AutoModel) if remote else (AutoModelForCausalLM,)
        return has_eyes(self.config) and any(_can_load(auto_class, self.config) for auto_class in classes)


@dataclass(frozen=True)
class Parts:
    """A loaded language model in parts.

    Attributes:
        decoder: the blocks and the input embedding, without unembedding and vision tower.
        tokenizer: a fast tokenizer.
        num_layers: number of layers of the whole LLM, also if `decoder` has fewer blocks.
        revision: the commit on the hub, where known.
        adapter: the adapter's absolute directory or hub id; None: there is none.
        model: the whole model that `decoder` is a part of; None unless it was requested.
    """

    decoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    num_layers: int
    revision: str | None
    adapter: str | None = None
    model: PreTrainedModel | None = None


def absolute(name: str) -> str:
    """Return a model's name; a path is made absolute, because banks store it and are read from any directory."""
    return str(existing(name) or name)


def find_model(name: str | os.PathLike[str], *, revision: str | None, trust_remote_code: bool) -> ModelFiles:
    """Find a model by its name and read its configuration; see `load_language_model` for the arguments.

    Raises:
        ModelError: there is no such model, or its configuration cannot be read.
    """
    name = absolute(str(os.fspath(name)))
    source, gguf = _locate(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    if gguf is not None:
        options["gguf_file"] = gguf
    with plain_errors(name), quiet():
        config = AutoConfig.from_pretrained(source, **options)
    if (thinker := getattr(config, "thinker_config", None)) is not None:
        # An Omni model's part that reads; the rest speaks.
        thinker._commit_hash = getattr(config, "_commit_hash", None)
        config = thinker
    return ModelFiles(name, source, config, options)


def load_parts(
    files: ModelFiles,
    *,
    device: str | None,
    dtype: str | torch.dtype | None,
    deepest_layer: int | Callable[[int], int] | None,
    load_in: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    vision: bool = False,
    head: bool = False,
) -> Parts:
    """Load a model's decoder and tokenizer; see `load_language_model` for the arguments.

    Args:
        files: where the model is.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`.
        deepest_layer: as for `load_language_model`.
        load_in: as for `load_language_model`.
        adapter: as for `load_language_model`.
        vision: keep the whole vision-language model, and one block more than the deepest layer needs, because some
            models add to the residual stream between blocks.
        head: keep the whole model, with its unembedding.

    Raises:
        ModelError: the model cannot be loaded, is not a decoder, or has no fast tokenizer.
        LayerNotFound: the model has no layer `deepest_layer`.
    """
    name, config, whole = files.name, files.config, vision or head
    place = choose_device(device)
    chosen_dtype = choose_dtype(dtype, place)
    quantized = quantization(name, config, load_in, chosen_dtype)
    added = None if adapter is None else check_adapter(os.fspath(adapter))
    num_layers, deepest = _count_layers(name, config, deepest_layer)
    # The fingerprint needs the first block, so it stays even if only layer 0 is asked for.
    blocks = max(1, min(deepest + vision, num_layers))
    revision = getattr(config, "_commit_hash", None)
    tokenizer = _load_tokenizer(files)
    inner = text_config(config)
    cut_config(inner, blocks)
    more: dict[str, Any] = {"dtype": chosen_dtype}
    if placed := quantized is not None or _is_quantized(config):  # then they are placed while they are read
        more["device_map"] = AUTO if device == AUTO else {"": place}
    if quantized is not None:
        more["quantization_config"] = quantized
    with plain_errors(name), quiet():
        model, missing = _read_weights(files, vision or inner is not config, head or added is not None, more)
        if added is not None:
            model = merge_adapter(model, added, name)
        decoder = decoder_of(model)
        needed = {id(parameter) for parameter in (model if whole else decoder).parameters()}
        # A pooler comes after the last block, and checkpoints of causal LLMs have none.
        names = {
            key
            for key, parameter in model.named_parameters()
            if id(parameter) in needed and "pooler" not in key.split(".")
        }
    if lacking := sorted(names & missing):
        raise ModelError(
            f"The checkpoint of {name} lacks {len(lacking)} of its weights, {lacking[0]} among them."
        )
    if inner is not config:
        without_mask_causal(decoder)
    with plain_errors(name):
        keep_blocks(decoder, blocks)
    kept: Any = model if whole else decoder
    del model  # frees the unembedding and the vision tower, unless the whole model is kept
    kept.eval().requires_grad_(False)
    with plain_errors(name):
        if not placed:
            _place(kept, device, place)
    _unmark_gguf(decoder)
    # The unembedding is not prepacked, because it may share its weights with the input embedding.
    prepack(kept.base_model if vision else decoder)
    release_memory()  # reading a checkpoint frees as much memory as the weights take
    return Parts(decoder, tokenizer, num_layers, revision, added, kept if whole else None)


def _place(model: PreTrainedModel, device: str | None, place: torch.device) -> None:
    if device == AUTO and place.type != "mps":
        spread(model)
    else:
        cast(Any, model).to(place)


def _is_quantized(config: Any) -> bool:
    """Return whether a checkpoint's weights are quantized; not so for those of a GGUF file, which are unpacked."""
    return getattr(config, "quantization_config", None) is not None


def _count_layers(
    name: str, config: Any, deepest_layer: int | Callable[[int], int] | None
) -> tuple[int, int]:
    """Return the LLM's number of layers, and the deepest layer to load."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder: latentbank needs a decoder-only language model.")
    num_layers = count_blocks(text_config(config))
    if num_layers is None:
        raise ModelError(f"The configuration of {name} has no number of layers: is it a language model?")
    if callable(deepest_layer):
        deepest_layer = deepest_layer(num_layers)
    if deepest_layer is None:
        return num_layers, num_layers
    deepest_layer = whole(deepest_layer, "deepest_layer", error=LayerNotFound)
    require_layers(name, [deepest_layer], num_layers)
    return num_layers, deepest_layer


def _load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    with plain_errors(files.name), quiet():
        tokenizer = load_tokenizer(files.source, files.options)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{files.name} has no fast tokenizer, which latentbank needs for the character offsets of tokens: "
            "use a model with a tokenizer.json."
        )
    return tokenizer


def _locate(name: str) -> tuple[str, str | None]:
    """Return a model's directory or hub id, and the name of its GGUF file if it has one."""
    if not name.strip():
        raise ModelError("The model's name is empty: give a hub id, a directory or a .gguf file.")
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(
                f"{name} is a file, but not a .gguf file: give the model's directory or a hub id."
            )
        return str(path.parent), path.name
    if path.is_dir():
        if not (path / "config.json").is_file():
            if base := base_of(path):
                raise ModelError(
                    f"The directory {name} holds an adapter, not a model: load its model, {base}, with this adapter.",
                    argument="adapter",
                )
            raise ModelError(f"The directory {name} holds no config.json, so there is no model in it.")
        return str(path), None
    repository, _, file = name.partition(":")
    if file.lower().endswith(".gguf") and is_hub_id(repository, owner=True):
        return repository, file
    if not is_hub_id(name) or name.lower().endswith(".gguf"):
        raise ModelError(f"There is no model at {name}: give a hub id, a directory or a .gguf file.")
    return name, None


def _read_weights(
    files: ModelFiles, inside: bool, head: bool, more: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model with its weights.

    Args:
        files: where the model is.
        inside: whether the LLM is part of a larger model.
        head: whether the class with the unembedding is needed.
        more: arguments of `from_pretrained`.

    Returns:
        The model, and the names of the weights that the checkpoint lacks.
    """
    options = {**files.options, "config": files.config, "output_loading_info": True, **more}
    classes: tuple[Any, ...]
    if "gguf_file" in options:
        # By default weights stay packed in GGUF's blocks, and such a model cannot be saved.
        options["quantization_config"] = GgufConfig(dequantize=True)
        classes = (AutoModelForCausalLM,)
    elif inside:
        classes = (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM, AutoModel)
    else:
        classes = (AutoModelForCausalLM, AutoModel) if head else (AutoModel, AutoModelForCausalLM)
    able = [auto_class for auto_class in classes if _can_load(auto_class, files.config)]
    if not able:
        raise ValueError(f"transformers has no language model for the type {files.config.model_type}")
    model, info = cast(Any, able[0]).from_pretrained(files.source, **options)
    return model, set(info["missing_keys"])


def _can_load(auto_class: Any, config: Any) -> bool:
    """Return whether one of transformers' Auto classes has a class for this model, its own code included."""
    return type(config) in auto_class._model_mapping or auto_class.__name__ in (
        getattr(config, "auto_map", None) or {}
    )


def _unmark_gguf(decoder: PreTrainedModel) -> None:
    """Remove the marks of a GGUF file, so that the unpacked model can be saved like any other."""
    if getattr(decoder.config, "quantization_config", None) is not None and isinstance(
        decoder.config.quantization_config, GgufConfig
    ):
        del decoder.config.quantization_config
        for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
            vars(decoder).pop(mark, None)
