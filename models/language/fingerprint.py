"""A model's fingerprint: the same for the same LLM however it was loaded, another for another LLM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Smaller weights count as zero: float16 holds them with fewer bits than bfloat16 does.
_TINY = 2.0**-13
_SAMPLES = 1024


def fingerprint(vocabulary: Mapping[str, int], sizes: Iterable[int], weights: Iterable[Tensor]) -> str:
    """32 hex digits from the vocabulary, the sizes and samples of the weights.

    The samples are rounded to bfloat16, so float32 and bfloat16 loads of one checkpoint agree. A float16
    load agrees too if the checkpoint itself is stored in bfloat16 or float16; of a float32 checkpoint it
    need not, because rounding twice is not rounding once. The order and the names of the weights do not
    count, so a release of transformers that renames parameters changes nothing.
    """
    whole = hashlib.blake2b(digest_size=16)
    for token, number in sorted(vocabulary.items()):
        whole.update(f"{len(token)} {token} {number}\n".encode("utf-8", "surrogatepass"))
    whole.update(repr(list(sizes)).encode())
    for part in sorted(_sampled(weight) for weight in weights):
        whole.update(part)
    return whole.hexdigest()


def _sampled(weight: Tensor) -> bytes:
    """A digest of the weight's size and of values spread evenly over it."""
    flat = weight.detach().reshape(-1)
    count = flat.numel()
    where = torch.arange(min(count, _SAMPLES), device=flat.device) * count // max(1, min(count, _SAMPLES))
    values = flat[where].float().cpu().bfloat16()
    values[values.abs() < _TINY] = 0
    values += 0.0  # a negative zero becomes a positive one
    data = values.view(torch.int16).numpy().astype("<i2").tobytes()
    return hashlib.blake2b(f"{count} ".encode() + data, digest_size=16).digest()
