"""Loading a language model by name: from the hub, a directory, a GGUF file, or out of a vision-language model."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from latentbank.errors import LayerNotFound, ModelError
from latentbank.memory import release_memory
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
from latentbank.text import first_line, is_hub_id, listed
from latentbank.values import whole

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        model: the whole model that `decoder` is a part of; None unless it was requested.
    """

    decoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    num_layers: int
    revision: str | None
    model: PreTrainedModel | None = None


def choose_device(device: str | None) -> torch.device:
    """Return the device asked for; by default CUDA if there is a GPU, otherwise the CPU.

    Raises:
        ModelError: there is no such device.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModelError(
            f"{device!r} is not a device: use cpu, cuda or cuda:1.", argument="device"
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"PyTorch finds no GPU for the device {device}: install PyTorch with CUDA, or use cpu.",
            argument="device",
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype asked for; by default bfloat16 on a GPU and float32 on the CPU.

    Raises:
        ModelError: models do not run in this dtype.
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ModelError(
            f"{dtype} is not a dtype to run a language model in: use {listed(_DTYPES)}.", argument="dtype"
        )
    return chosen


def absolute(name: str) -> str:
    """Return a model's name; a path is made absolute, because banks store it and are read from any directory."""
    if name.strip() and Path(name).expanduser().exists():
        return str(Path(name).expanduser().resolve())
    return name


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
    vision: bool = False,
    head: bool = False,
) -> Parts:
    """Load a model's decoder and tokenizer; see `load_language_model` for the arguments.

    Args:
        files: where the model is.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`.
        deepest_layer: as for `load_language_model`.
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
    num_layers, deepest = _count_layers(name, config, deepest_layer)
    # The fingerprint needs the first block, so it stays even if only layer 0 is asked for.
    blocks = max(1, min(deepest + vision, num_layers))
    revision = getattr(config, "_commit_hash", None)
    tokenizer = _load_tokenizer(files)
    inner = text_config(config)
    cut_config(inner, blocks)
    with plain_errors(name), quiet():
        model, missing = _read_weights(files, vision or inner is not config, head, chosen_dtype)
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
    with plain_errors(name):
        kept.to(place)
    kept.eval().requires_grad_(False)
    _unmark_gguf(decoder)
    # The unembedding is not prepacked, because it may share its weights with the input embedding.
    prepack(kept.base_model if vision else decoder)
    release_memory()  # reading a checkpoint frees as much memory as the weights take
    return Parts(decoder, tokenizer, num_layers, revision, kept if whole else None)


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
    if not 0 <= deepest_layer <= num_layers:
        raise LayerNotFound(f"{name} has no layer {deepest_layer}: it has layers 0 to {num_layers}.")
    return num_layers, deepest_layer


def _load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    with plain_errors(files.name), quiet():
        tokenizer = AutoTokenizer.from_pretrained(files.source, **files.options)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{files.name} has no fast tokenizer, which latentbank needs for the character offsets of tokens: "
            "use a model with a tokenizer.json."
        )
    return cast(PreTrainedTokenizerBase, tokenizer)


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
            raise ModelError(f"The directory {name} holds no config.json, so there is no model in it.")
        return str(path), None
    repository, _, file = name.partition(":")
    if file.lower().endswith(".gguf") and is_hub_id(repository, owner=True):
        return repository, file
    if not is_hub_id(name) or name.lower().endswith(".gguf"):
        raise ModelError(f"There is no model at {name}: give a hub id, a directory or a .gguf file.")
    return name, None


def _read_weights(
    files: ModelFiles, inside: bool, head: bool, dtype: torch.dtype
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model with its weights.

    Args:
        files: where the model is.
        inside: whether the LLM is part of a larger model.
        head: whether the unembedding is needed.
        dtype: of the weights.

    Returns:
        The model, and the names of the weights that the checkpoint lacks.
    """
    options = {**files.options, "config": files.config, "dtype": dtype, "output_loading_info": True}
    classes: tuple[Any, ...]
    if "gguf_file" in options:
        # By default weights stay packed in GGUF's blocks, and such a model cannot be saved.
        options["quantization_config"] = GgufConfig(dequantize=True)
        classes = (AutoModelForCausalLM,)
    elif inside:
        classes = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report of unused weights, such as the unembedding and later blocks."""
    before = logging.get_verbosity()
    cast(Any, logging).set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn any error of transformers, the hub or torch into a ModelError of one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise _explained(name, error) from error


def _explained(name: str, error: Exception) -> ModelError:
    """Return an error that says what a user can do about `error`, raised while loading the model `name`."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {type(e).__name__ for e in chain}
    text = " ".join(str(e) for e in chain)
    argument = None
    if isinstance(error, torch.OutOfMemoryError):
        advice = f"{name} does not fit into memory: use a GPU with more memory, bfloat16, or fewer layers."
    elif "GatedRepoError" in kinds:
        advice = f"{name} is gated: accept its licence on its hub page and set HF_TOKEN, then try again."
    elif "RevisionNotFoundError" in kinds:
        advice, argument = f"{name} has no such revision.", "revision"
    elif "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        advice = f"There is no model {name} on the hub, or it is private: check the name and HF_TOKEN."
    elif kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError"}:
        advice = (
            f"{name} is not on this machine and the hub cannot be reached: check the name and the network."
        )
    elif "operator torchvision::" in text or "torchvision extension" in text:
        advice = "The installed torchvision does not fit the installed torch: install both anew, or neither."
    elif package := _missing_of_extra(text):
        advice = f"The processor of {name} needs {package}: pip install 'latentbank[vision]'."
    elif "trust_remote_code" in text:
        advice = f"{name} comes with code of its own: if you trust its authors, allow it to run."
        argument = "trust_remote_code"
    else:
        advice = f"The model {name} cannot be loaded: {first_line(error)[:200].rstrip('. ')}."
    return ModelError(advice, argument=argument)


def _missing_of_extra(text: str) -> str | None:
    """Return the package of the extra `vision` that an error asks for, or None."""
    if "torchvision" in text.lower():
        return "torchvision"
    asked = re.search(
        r"(?i)(?:requires the |No module named '|install )(timm|torchaudio|mistral[-_]common|num2words)", text
    )
    return asked[1].replace("_", "-") if asked else None
