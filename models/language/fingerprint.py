"""Fingerprints of models: the same for every load of an LLM, different for different LLMs.

The rule for a model that is not loaded as its checkpoint is stored:

- float32 and bfloat16: samples of every weight, rounded to bfloat16, have to be equal.
- float16, and 8 and 4 bits of bitsandbytes: the largest magnitudes of some rows of every matrix have to be equal up to
  rounding. bitsandbytes takes them as the scales of its packed weights, and they are all that it leaves unchanged.
- 4 bits with quantized scales: the same, up to the rounding of the scales.
- Another quantization (GPTQ, AWQ, FP8) gives other weights, and thus another model.

`benchmarks/dtypes.py` measures how far hidden states differ, and what the rule takes for another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from latentbank.identity import Digest, Digests, Identity, write_sketch
from latentbank.models.language.prepacked import weights
from latentbank.models.language.sampling import hashed, packed_in, samples
from latentbank.text import public_name

_SAMPLES = 1024
_MAGNITUDES = 64  # of a block's sketch
# How far a weight may be from the checkpoint's, as a share of it: half of the distance between two numbers. A sketch is
# stored in float16, so no share is smaller than that.
_ROUNDING = {torch.bfloat16: 2.0**-8}
_LEAST_ROUNDING = 2.0**-11
_NESTED_ROUNDING = 2.0**-4  # of scales that are quantized, too


def fingerprint(vocabulary: Mapping[str, int], sizes: Iterable[int], weights: Iterable[Tensor]) -> str:
    """Return 32 hex digits from the vocabulary, the sizes and samples of the weights.

    The samples are rounded to bfloat16, so loads of one checkpoint in float32 and bfloat16 agree. A load in float16
    agrees if the checkpoint is stored in bfloat16 or float16. It may differ if the checkpoint is stored in float32,
    because rounding twice can give another value than rounding once. Order and names of the weights do not count, so
    renamed parameters in a release of transformers change nothing.
    """
    return _with_weights(_of_vocabulary(vocabulary, sizes), weights)


def _with_weights(whole: hashlib.blake2b, weights: Iterable[Tensor]) -> str:
    """Return the fingerprint, from the state after vocabulary and sizes, which is changed."""
    for part in sorted(hashed(weight, _SAMPLES) for weight in weights):
        whole.update(part)
    return whole.hexdigest()


def identify(
    vocabulary: Mapping[str, int],
    sizes: Iterable[int],
    embedding: nn.Module,
    blocks: Iterable[nn.Module],
    dtype: torch.dtype,
    adapter: str | None = None,
) -> Identity:
    """Return what tells an LLM, or the part of it that is loaded, from others.

    Args:
        vocabulary: the tokenizer's tokens and their ids.
        sizes: width, number of blocks of the whole LLM, rows of the embedding.
        embedding: the input embedding.
        blocks: the blocks that are loaded, from the first; at least one.
        dtype: of the weights that are not quantized.
        adapter: the directory or hub id of the adapter that was added to them; None: there is none.
    """
    every, shape = list(blocks), tuple(sizes)
    packed = max((packed_in(block) for block in every), default="")
    known = _of_vocabulary(vocabulary, shape)
    digests = Digests(
        dtype=packed or str(dtype).removeprefix("torch."),
        vocabulary=known.hexdigest()[:16],
        embedding=_digest(embedding, dtype),
        blocks=tuple(_digest(block, dtype) for block in every),
        adapter=public_name(adapter or ""),
    )
    first = (weight for module in (embedding, every[0]) for weight in weights(module) if not weight.is_meta)
    return Identity(_with_weights(known, first), digests)


def _of_vocabulary(vocabulary: Mapping[str, int], sizes: Iterable[int]) -> hashlib.blake2b:
    whole = hashlib.blake2b(digest_size=16)
    lines = "".join(f"{len(token)} {token} {vocabulary[token]}\n" for token in sorted(vocabulary))
    whole.update(lines.encode("utf-8", "surrogatepass"))
    whole.update(repr(list(sizes)).encode())
    return whole


def _digest(module: nn.Module, dtype: torch.dtype) -> Digest | None:
    """Return the digest of a module's weights; None if they cannot be read."""
    try:
        every = list(samples(module))
    except LookupError:
        return None
    peaks = np.sort(np.concatenate([sample.peaks for sample in every] or [np.empty(0, np.float32)]))
    count = min(len(peaks), _MAGNITUDES)
    spread = peaks[np.arange(count) * len(peaks) // max(1, count)]
    rounding = max(_LEAST_ROUNDING, _ROUNDING.get(dtype, 0.0))
    if any(sample.nested for sample in every):
        rounding = _NESTED_ROUNDING
    exact = ""
    hashes = [sample.digest for sample in every if sample.digest is not None]
    if len(hashes) == len(every) and dtype != torch.float16:
        exact = hashlib.blake2b(b"".join(sorted(hashes)), digest_size=8).hexdigest()
    return Digest(exact, write_sketch(spread), rounding)
