"""Where a model runs, and in which numbers: devices, dtypes, quantized weights, models spread over several devices."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import platform
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from latentbank.errors import ModelError
from latentbank.models.language.layout import PER_BLOCK, setting, text_config
from latentbank.text import listed

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOAD_IN = ("4bit", "8bit")
# How much faster SmolLM2-135M was in bfloat16 than in float32, prefix-packed, by instruction set.
_BFLOAT16_GAINS = {
    "AMX": "3.0 times as fast on an Intel Xeon (Sapphire Rapids)",
    "AVX512_BF16": "1.6 to 1.8 times as fast on an AMD EPYC (Zen 4)",
}
# The rest is for hidden states and attention.
_FOR_WEIGHTS = 0.9


def choose_device(device: str | None) -> torch.device:
    """Return the device asked for, the first one for `auto`; by default CUDA, Apple's GPU (MPS) or the CPU.

    Raises:
        ModelError: there is no such device.
    """
    try:
        chosen = torch.device(_best() if device is None or device == AUTO else device)
    except RuntimeError as error:
        raise ModelError(
            f"{device!r} is not a device: use cpu, cuda, cuda:1, mps or auto.", argument="device"
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"PyTorch finds no GPU for the device {device}: install PyTorch with CUDA, or use cpu.",
            argument="device",
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(
            f"PyTorch finds no GPU of Apple's for the device {device}: use cpu.", argument="device"
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype asked for; by default, and for `auto`, bfloat16 on a GPU and float32 on the CPU.

    Raises:
        ModelError: models do not run in this dtype.
    """
    if dtype is None or dtype == AUTO:
        plain = device.type == "cpu" or (device.type == "mps" and not _mps_knows_bfloat16())
        return torch.float32 if plain else torch.bfloat16
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ModelError(
            f"{dtype} is not a dtype to run a language model in: use {listed([*DTYPES, AUTO])}.",
            argument="dtype",
        )
    return chosen


def bfloat16_hint(dtype: str | torch.dtype | None, device: torch.device) -> str | None:
    """Return what bfloat16 would give on this processor, in one line; None if there is nothing to say.

    Nothing is measured: the figures are those of `benchmarks/ingest.py` on the processors that they name.

    Args:
        dtype: what the user asked for; who asks for a dtype is told nothing.
        device: where the model runs.
    """
    if dtype not in (None, AUTO) or device.type != "cpu" or (fast := fast_bfloat16()) is None:
        return None
    return (
        f"this processor multiplies in bfloat16 with {fast}: SmolLM2-135M was {_BFLOAT16_GAINS[fast]} as in "
        "float32, hidden states within 1 - cosine 1e-4 on average."
    )


def fast_bfloat16() -> str | None:
    """Return with which instruction set this processor multiplies bfloat16: `AMX`, `AVX512_BF16`, or None."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    if _supported("_is_amx_tile_supported"):
        return "AMX"
    return "AVX512_BF16" if _supported("_is_avx512_bf16_supported") else None


def quantization(
    name: str, config: Any, load_in: str | None, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """Return how the weights of a model are quantized while it is loaded, or None if they are not.

    Args:
        name: the model's name, for the message.
        config: the model's configuration.
        load_in: `4bit`, `8bit` or None.
        dtype: what products are computed in.

    Raises:
        ModelError: there is no such quantization, the model is quantized already, or bitsandbytes is missing.
    """
    if load_in is None:
        return None
    if load_in not in LOAD_IN:
        raise ModelError(
            f"{load_in!r} is not a way to load weights: use {listed(LOAD_IN)}.", argument="load_in"
        )
    if getattr(config, "quantization_config", None) is not None or name.lower().endswith(".gguf"):
        raise ModelError(f"{name} is quantized already: load it as it is.", argument="load_in")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"Loading in {load_in} needs bitsandbytes: pip install 'latentbank[quantized]'.",
            argument="load_in",
        )
    # It says at each layer that 8-bit products are computed in float16, and which faster code it did not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # What holds a part for each block is cut with the blocks; None: the unembedding alone stays as it is.
    kept = [*PER_BLOCK, "lm_head"] if setting(text_config(config), "hidden_size_per_layer_input") else None
    how: Any = BitsAndBytesConfig  # it has no type hints
    if load_in == "8bit":
        return cast(BitsAndBytesConfig, how(load_in_8bit=True, llm_int8_skip_modules=kept))
    found = how(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )
    return cast(BitsAndBytesConfig, found)


def spread(model: PreTrainedModel, memory: dict[int | str, Any] | None = None) -> None:
    """Spread a model that is in the CPU's memory over all GPUs, in place; what does not fit stays in that memory.

    Blocks stay whole. A block in the CPU's memory is copied to the first GPU each time it runs. Without a GPU nothing
    is done.

    Args:
        model: the model, cut to what will run.
        memory: the memory of each device, as accelerate takes it; None: 90 % of what is free, shared evenly.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if memory is None:
        if not torch.cuda.is_available():
            return
        split = list(model._no_split_modules or [])
        memory = get_balanced_memory(model, no_split_module_classes=split)
        memory = {key: size if key == "cpu" else int(size * _FOR_WEIGHTS) for key, size in memory.items()}
        memory["cpu"] = 1 << 62  # the weights are there already
    embedding = model.get_input_embeddings()
    places = infer_auto_device_map(
        model, max_memory=memory, no_split_module_classes=list(model._no_split_modules or [])
    )
    gpus = [place for place in places.values() if isinstance(place, int)]
    own = next(name for name, module in model.named_modules() if module is embedding)
    if gpus and own in places:  # lenses read the input embedding
        places[own] = gpus[0]
    dispatch_model(model, places)


def device_of(decoder: PreTrainedModel) -> torch.device:
    """Return the device that a decoder's inputs go to."""
    embedding = cast(Any, decoder.get_input_embeddings())
    if embedding.weight.is_meta:  # in the CPU's memory until it runs
        return torch.device(embedding._hf_hook.execution_device)
    return cast(torch.device, embedding.weight.device)


@contextlib.contextmanager
def in_memory(module: nn.Module) -> Iterator[nn.Module]:
    """Hold the weights of a spread model's module, without those of its parts, in memory during the block."""
    if hasattr(module, "_hf_hook") and any(weight.is_meta for weight in module.parameters(recurse=False)):
        from accelerate.utils import align_module_device

        with align_module_device(module, torch.device("cpu")):
            yield module
    else:
        yield module


def count(weight: torch.Tensor) -> int:
    """Return the number of a weight's values; two of 4 bits are packed into one."""
    packed = getattr(weight, "quant_state", None)
    return weight.numel() if packed is None else int(packed.shape.numel())


def _supported(question: str) -> bool:
    """Return the answer of one of PyTorch's private questions about the processor; False where it is not known."""
    ask = getattr(torch.cpu, question, None)
    return bool(ask is not None and ask())


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _mps_knows_bfloat16() -> bool:
    return bool(torch.backends.mps.is_macos_or_newer(14, 0))
