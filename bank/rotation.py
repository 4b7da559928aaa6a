"""The rotation that spreads a hidden state's few outlier dimensions over all dimensions.

Qdrant's int8 range is one global interval, which a handful of huge dimensions would use up alone. A fixed orthogonal
matrix leaves every cosine unchanged and makes the coordinates similar in size: seeded sign flips, then an orthonormal
DCT-II. It is exact in any dimension, and there is no matrix to store.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# The seed of every new bank.
ROTATION_SEED = 2602_00462
# Numbers that `rotated_units` works on at once, which fit into the caches of a processor's core.
_AT_ONCE = 1 << 16
# Vectors with a greater length, or one smaller than its inverse, are scaled before their length is computed.
_LONGEST = 1e30


def rotate(vectors: npt.ArrayLike, seed: int) -> Floats:
    """Return each row of `vectors` `[n, hidden]` rotated: float32 `[n, hidden]`.

    Vectors of float32 are rotated in float32, in half the time of float64; of the float16 numbers that are stored, one
    in 1,300 comes out as the next one. Python's lock is free meanwhile, so threads rotate side by side.
    """
    from scipy.fft import dct  # a tenth of a second, which opening a bank does not need

    x = _floats(vectors)
    signed = x * _signs(x.shape[-1], seed).astype(x.dtype)
    turned: Floats = dct(signed, type=2, norm="ortho", axis=-1, overwrite_x=True).astype(
        np.float32, copy=False
    )
    return turned


def unrotate(vectors: npt.ArrayLike, seed: int) -> Floats:
    """Return what `rotate` has rotated: float32 `[n, hidden]`."""
    from scipy.fft import idct

    y = np.array(vectors, dtype=np.float64)
    x = idct(y, type=2, norm="ortho", axis=-1, overwrite_x=True) * _signs(y.shape[-1], seed)
    plain: Floats = x.astype(np.float32)
    return plain


def unit(vectors: npt.ArrayLike) -> Floats:
    """Return each row of `vectors` `[n, hidden]` scaled to length 1 (float32); rows of length 0 stay 0."""
    x = _floats(vectors)
    lengths = _lengths(x)
    extreme = (lengths > _LONGEST) | (lengths < 1 / _LONGEST)
    if extreme.any():
        largest = np.abs(x).max(axis=-1, keepdims=True)
        x = x / np.where(extreme & (largest > 0), largest, 1).astype(x.dtype)  # other rows stay as they are
        lengths = _lengths(x)
    scaled: Floats = (x / np.where(lengths == 0, 1.0, lengths).astype(x.dtype)).astype(np.float32, copy=False)
    return scaled


def _lengths(x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.sqrt(np.einsum("...i,...i->...", x, x, dtype=np.float64))[..., None]
    return lengths


def rotated_units(vectors: npt.ArrayLike, seed: int) -> Floats:
    """Return each row of `vectors` `[n, hidden]` scaled to length 1 and rotated, as banks store it: float32.

    The numbers are those of `rotate(unit(vectors), seed)`, computed some rows at a time in the processor's caches.
    """
    rows = np.asarray(vectors)
    turned = np.empty(rows.shape, np.float32)
    step = max(1, _AT_ONCE // rows.shape[1])
    for at in range(0, len(rows), step):
        turned[at : at + step] = rotate(unit(rows[at : at + step]), seed)
    return turned


def _floats(vectors: npt.ArrayLike) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
    """Return vectors of float32 as they are, others as float64."""
    x = np.asarray(vectors)
    return x if x.dtype == np.float32 else x.astype(np.float64)


@lru_cache(maxsize=8)
def _signs(n: int, seed: int) -> npt.NDArray[np.float64]:
    # Raw generator words, not a distribution's method: their stream is fixed across numpy versions.
    words = np.random.PCG64(seed).random_raw(n)
    return np.where(words >> np.uint64(63), 1.0, -1.0)
