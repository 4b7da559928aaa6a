"""Getting a language model from a name: the hub, a directory, a GGUF file, or out of a VLM."""

from __future__ import annotations

import contextlib
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
    cut_config,
    find_blocks,
    keep_blocks,
    text_config,
    without_mask_causal,
)
from latentbank.models.language.prepacked import prepack
from latentbank.models.vision.processing import load_processor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """The parts of a language model: its decoder (no unembedding, no vision tower) and its tokenizer.

    Of a vision-language model, where vision was asked for, the whole model and its processor too.
    """

    decoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    num_layers: int
    revision: str | None
    model: PreTrainedModel | None = (
        None  # the whole, of which `decoder` is a part; only where it was asked for
    )
    processor: Any = None  # a VLM's, which makes its inputs of images and text


def choose_device(device: str | None) -> torch.device:
    """The device asked for; by default CUDA where there is one, else the CPU."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModelError(f"{device!r} is no device: use cpu, cuda or cuda:1.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"PyTorch finds no GPU for the device {device}: use cpu, or install PyTorch with CUDA."
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for; by default bfloat16 on a GPU and float32 on the CPU."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ModelError(f"{dtype} is no dtype to run a language model in: use {', '.join(_DTYPES)}.")
    return chosen


def load_parts(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    revision: str | None,
    deepest_layer: int | Callable[[int], int] | None,
    trust_remote_code: bool,
    vision: bool = False,
    head: bool = False,
) -> Loaded:
    """Load the decoder and the tokenizer called `name`; see `load_language_model`.

    With `vision` the whole vision-language model and its processor come along, and one block more than the deepest
    layer needs, because some models add to the residual stream between blocks. With `head` the whole model comes
    along, its unembedding included.
    """
    source, gguf = _where(name)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        common["revision"] = revision
    if gguf is not None:
        common["gguf_file"] = gguf
    with plain_errors(name), quiet():
        config = AutoConfig.from_pretrained(source, **common)
    commit = getattr(config, "_commit_hash", None)
    if vision and not _sees(config):
        raise ModelError(
            f"{name} is no vision-language model (its type is {config.model_type}): it takes text alone, no images."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder: latentbank needs a decoder-only language model.")
    inner = text_config(config)
    num_layers = getattr(inner, "num_hidden_layers", None)
    if not isinstance(num_layers, int):
        raise ModelError(f"The configuration of {name} names no number of layers: is it a language model?")
    if callable(deepest_layer):
        deepest_layer = deepest_layer(num_layers)
    if deepest_layer is not None and not 0 <= deepest_layer <= num_layers:
        raise LayerNotFound(f"{name} has no layer {deepest_layer}: it has layers 0 to {num_layers}.")
    # The fingerprint looks at the first block, so one stays even if only layer 0 is asked for.
    blocks = num_layers if deepest_layer is None else max(1, min(deepest_layer + vision, num_layers))

    with plain_errors(name), quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name} has no fast tokenizer, which latentbank needs for the character offsets of tokens: "
            "use a model with a tokenizer.json."
        )
    processor = None
    if vision:
        with plain_errors(name), quiet():
            processor = load_processor(source, config, common)
    cut_config(inner, blocks)
    with plain_errors(name), quiet():
        model, missing = _read_weights(source, config, inner is not config, head, dtype, common)
        decoder = cast(Any, model).get_decoder()
        needed = {id(parameter) for parameter in (model if vision or head else decoder).parameters()}
        names = {key for key, parameter in model.named_parameters() if id(parameter) in needed}
    if lacking := sorted(names & missing):
        raise ModelError(
            f"The checkpoint of {name} lacks {len(lacking)} of its weights, {lacking[0]} among them."
        )
    if inner is not config:
        without_mask_causal(decoder)
    keep_blocks(find_blocks(decoder), blocks)
    decoder.config.num_hidden_layers = blocks
    kept: Any = model if vision or head else decoder
    del model  # with it go, unless they were asked for, the unembedding and a VLM's vision tower
    with plain_errors(name):
        kept.to(device)
    kept.eval().requires_grad_(False)
    _unmark_gguf(decoder)
    # The unembedding stays as it is: it may share its weights with the embedding.
    prepack(kept.base_model if vision else decoder)
    release_memory()  # reading a checkpoint leaves as much behind as it holds
    return Loaded(
        decoder,
        tokenizer,
        num_layers,
        revision=commit,
        model=kept if vision or head else None,
        processor=processor,
    )


def _where(name: str) -> tuple[str, str | None]:
    """Directory or hub id, and the GGUF file in it (None: safetensors or the like)."""
    if not name.strip():
        raise ModelError("The model's name is empty: give a hub id, a directory or a .gguf file.")
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{name} is a file but no .gguf: give the model's directory or a hub id.")
        return str(path.parent), path.name
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"The directory {name} holds no config.json, so there is no model in it.")
        return str(path), None
    if match := re.fullmatch(r"([\w.-]+/[\w.-]+):(.+\.gguf)", name, flags=re.IGNORECASE):
        return match[1], match[2]
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or name.lower().endswith(".gguf"):
        raise ModelError(f"There is no model at {name}: give a hub id, a directory or a .gguf file.")
    return name, None


def _read_weights(
    source: str, config: Any, composite: bool, head: bool, dtype: torch.dtype, common: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """The model with its weights, and the names of the weights the checkpoint did not have."""
    options = {**common, "config": config, "dtype": dtype, "output_loading_info": True}
    classes: tuple[Any, ...]
    if "gguf_file" in common:
        # By default weights stay packed in GGUF's blocks, which gives a model that cannot be saved.
        options["quantization_config"] = GgufConfig(dequantize=True)
        classes = (AutoModelForCausalLM,)
    elif composite:
        classes = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)
    else:
        classes = (AutoModelForCausalLM, AutoModel) if head else (AutoModel, AutoModelForCausalLM)
    knows = [c for c in classes if type(config) in c._model_mapping or _has_code_for(config, c)]
    if not knows:
        raise ValueError(f"transformers has no language model for the type {config.model_type}")
    model, info = cast(Any, knows[0]).from_pretrained(source, **options)
    return model, set(info["missing_keys"])


def _sees(config: Any) -> bool:
    """Whether transformers, or code that comes with the model, makes a vision-language model of this."""
    sees = AutoModelForImageTextToText
    return type(config) in cast(Any, sees)._model_mapping or _has_code_for(config, sees)


def _has_code_for(config: Any, auto_class: Any) -> bool:
    return auto_class.__name__ in (getattr(config, "auto_map", None) or {})


def _unmark_gguf(decoder: PreTrainedModel) -> None:
    """Take away the traces of the GGUF, so that the unpacked model can be saved like any other."""
    if getattr(decoder.config, "quantization_config", None) is not None and isinstance(
        decoder.config.quantization_config, GgufConfig
    ):
        del decoder.config.quantization_config
        for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
            vars(decoder).pop(mark, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' report of weights it did not need (the unembedding, later blocks) off the screen."""
    before = logging.get_verbosity()
    cast(Any, logging).set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn whatever goes wrong in transformers, the hub or torch into a ModelError of one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_sentence(name, error)) from error


def _sentence(name: str, error: Exception) -> str:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {type(e).__name__ for e in chain}
    text = " ".join(str(e) for e in chain)
    if isinstance(error, torch.OutOfMemoryError):
        return f"{name} does not fit into memory: use a GPU with more memory, bfloat16, or fewer layers."
    if "GatedRepoError" in kinds:
        return f"{name} is gated: accept its licence on its hub page and set HF_TOKEN, then try again."
    if "RevisionNotFoundError" in kinds:
        return f"{name} has no such revision."
    if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        return f"There is no model {name} on the hub, or it is private: check the name and HF_TOKEN."
    if kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError"}:
        return f"{name} is not on this machine and the hub cannot be reached: check the name and the network."
    if "torchvision" in text.lower():
        return f"The image processor of {name} needs torchvision: pip install torchvision."
    if "trust_remote_code" in text:
        return f"{name} comes with code of its own: pass trust_remote_code=True if you trust its authors."
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"The model {name} cannot be loaded: {first[:200].rstrip('. ')}."
