"""Fingerprints of models: the same for every load of an LLM, different for different LLMs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Smaller weights count as zero, because float16 stores them with fewer bits than bfloat16.
_TINY = 2.0**-13
_SAMPLES = 1024


def fingerprint(vocabulary: Mapping[str, int], sizes: Iterable[int], weights: Iterable[Tensor]) -> str:
    """Return 32 hex digits from the vocabulary, the sizes and samples of the weights.

    The samples are rounded to bfloat16, so loads of one checkpoint in float32 and bfloat16 agree. A load in float16
    agrees if the checkpoint is stored in bfloat16 or float16. It may differ if the checkpoint is stored in float32,
    because rounding twice can give another value than rounding once. Order and names of the weights do not count, so
    renamed parameters in a release of transformers change nothing.
    """
    whole = hashlib.blake2b(digest_size=16)
    for token, number in sorted(vocabulary.items()):
        whole.update(f"{len(token)} {token} {number}\n".encode("utf-8", "surrogatepass"))
    whole.update(repr(list(sizes)).encode())
    for part in sorted(_sampled(weight) for weight in weights):
        whole.update(part)
    return whole.hexdigest()


def _sampled(weight: Tensor) -> bytes:
    """Return a digest of the weight's size and of evenly spaced values."""
    flat = weight.detach().reshape(-1)
    count = flat.numel()
    where = torch.arange(min(count, _SAMPLES), device=flat.device) * count // max(1, min(count, _SAMPLES))
    values = flat[where].float().cpu().bfloat16()
    values[values.abs() < _TINY] = 0
    values += 0.0  # turns negative zeros into positive zeros
    data = values.view(torch.int16).numpy().astype("<i2").tobytes()
    return hashlib.blake2b(f"{count} ".encode() + data, digest_size=16).digest()
