"""Samples of weights, from which digests are made: of ordinary, prepacked, offloaded and quantized modules."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from latentbank.models.language.devices import in_memory

# Smaller weights count as zero, because float16 stores them with fewer bits than bfloat16.
TINY = 2.0**-13
_VALUES = 4096  # of each tensor, evenly spaced
_PEAKS = 16  # groups of rows of each tensor whose largest magnitude is kept
# bitsandbytes packs a matrix row by row into blocks of 64 or 128 weights with one scale. A group of rows is made of
# whole blocks, so that its largest magnitude is the largest scale.
_PACKED = 128

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """What a digest needs of one tensor.

    Attributes:
        digest: hash of its size and of evenly spaced values; None if they are quantized.
        peaks: the largest magnitudes of some groups of rows, or for a vector some magnitudes, float32.
        nested: whether the scales are quantized, too, so that the peaks are not exact.
    """

    digest: bytes | None
    peaks: Floats
    nested: bool = False


def hashed(weight: Tensor, samples: int = _VALUES) -> bytes:
    """Return a hash of the weight's size and of evenly spaced values, rounded to bfloat16."""
    flat = weight.detach().reshape(-1)
    values = flat[_spaced(flat.numel(), samples, flat.device)].float().cpu().bfloat16()
    values[values.abs() < TINY] = 0
    values += 0.0  # turns negative zeros into positive zeros
    data = values.view(torch.int16).numpy().astype("<i2").tobytes()
    return hashlib.blake2b(f"{flat.numel()} ".encode() + data, digest_size=16).digest()


def sampled(weight: Tensor) -> Sample:
    """Return the sample of a tensor of any dtype; integers and 8-bit floats give no peaks."""
    weight = weight.detach()
    if not weight.is_floating_point() or weight.element_size() == 1:
        flat = weight.reshape(-1).view(torch.uint8)
        data = flat[_spaced(flat.numel(), _VALUES, flat.device)].cpu().numpy().tobytes()
        raw = f"{weight.dtype} {weight.numel()} ".encode() + data
        return Sample(hashlib.blake2b(raw, digest_size=16).digest(), np.empty(0, np.float32))
    if weight.dim() < 2:
        flat = weight.reshape(-1)
        some = flat[_spaced(flat.numel(), _PEAKS, flat.device)].abs()
        return Sample(hashed(weight), _numpy(some))
    rows = weight.reshape(-1, weight.shape[-1])
    chosen = _groups(*rows.shape).to(rows.device)
    return Sample(hashed(weight), _numpy(rows[chosen].abs().float().amax(dim=(1, 2))))


def samples(module: nn.Module) -> Iterator[Sample]:
    """Yield a sample of every weight of a module as its checkpoint has it, in no fixed order.

    Raises:
        LookupError: a weight cannot be read, because it is on the meta device and nothing loads it.
    """
    seen: list[Tensor] = []
    for child in module.modules():
        if isinstance(kept := getattr(child, "packed_sample", None), Sample):
            yield kept
        with in_memory(child):
            for name, weight in _weights(child):
                if any(weight is other for other in seen):
                    continue  # tied to a weight of another module
                seen.append(weight)
                if weight.is_meta:
                    raise LookupError(name)
                if (quantized := _quantized(child, weight)) is not None:
                    yield quantized
                else:
                    yield sampled(
                        weight.T if type(child).__name__ == "Conv1D" and weight.dim() == 2 else weight
                    )


def packed_in(module: nn.Module) -> str:
    """Return "8bit" or "4bit" if bitsandbytes has packed a weight of the module, else ""."""
    kinds = {type(weight).__name__ for weight in module.parameters()}
    return "8bit" if "Int8Params" in kinds else "4bit" if "Params4bit" in kinds else ""


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters, and the buffers that hold packed weights of other quantizations."""
    yield from module.named_parameters(recurse=False)
    for name, buffer in module.named_buffers(recurse=False):
        packed = not buffer.is_floating_point() and buffer.dtype != torch.bool and buffer.dim() > 1
        if packed and name not in module._non_persistent_buffers_set:
            yield name, buffer


def _quantized(module: nn.Module, weight: Tensor) -> Sample | None:
    """Return the sample of a weight that bitsandbytes has packed; None for other weights.

    Raises:
        LookupError: its scales cannot be read, or its blocks do not divide into groups of rows.
    """
    packed = cast(Any, weight)
    if type(weight).__name__ == "Int8Params":
        state = getattr(module, "state", None)
        scales = packed.SCB if packed.SCB is not None else getattr(state, "SCB", None)
        if scales is None:
            raise LookupError("SCB")
        chosen = _groups(weight.shape[0], weight.shape[1]).to(scales.device)
        return Sample(None, _numpy(scales[chosen].float().amax(dim=1)))
    if type(weight).__name__ != "Params4bit" or packed.quant_state is None:
        return None
    state = packed.quant_state
    scales = state.absmax
    if state.nested:
        import bitsandbytes.functional

        scales = bitsandbytes.functional.dequantize_blockwise(scales, state.state2) + state.offset
    rows, columns = math.prod(state.shape[:-1]), state.shape[-1]
    groups = _groups(rows, columns)
    width = groups.shape[1] * columns
    if scales.dim() != 1 or (width % state.blocksize and len(groups) > 1):
        raise LookupError("absmax")
    each = -(-width // state.blocksize)
    starts = groups[:, 0] * columns // state.blocksize
    chosen = (starts[:, None] + torch.arange(each)).to(scales.device)
    return Sample(None, _numpy(scales[chosen].float().amax(dim=1)), bool(state.nested))


def _groups(rows: int, columns: int) -> Tensor:
    """Return the rows of evenly spaced groups, [groups, rows of a group] long."""
    size = min(rows, _PACKED // math.gcd(columns, _PACKED))
    count = rows // size
    return _spaced(count, _PEAKS, torch.device("cpu"))[:, None] * size + torch.arange(size)


def _spaced(count: int, most: int, device: torch.device) -> Tensor:
    """Return at most `most` evenly spaced indices below `count`."""
    number = min(count, most)
    return torch.arange(number, device=device) * count // max(1, number)


def _numpy(values: Tensor) -> Floats:
    return cast(Floats, values.float().cpu().numpy())
