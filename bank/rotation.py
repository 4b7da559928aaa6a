"""The rotation that spreads a hidden state's few outlier dimensions over all dimensions.

Qdrant's int8 range is one global interval, which a handful of huge dimensions would use up alone. A fixed orthogonal
matrix leaves every cosine unchanged and makes the coordinates similar in size: seeded sign flips, then an orthonormal
DCT-II. It is exact in any dimension, and there is no matrix to store.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# The seed of every new bank.
ROTATION_SEED = 2602_00462


def rotate(vectors: npt.ArrayLike, seed: int) -> Floats:
    """Return each row of `vectors` `[n, hidden]` rotated: float32 `[n, hidden]`.

    Computed in float64, so that rounding to float32 hides how: earlier versions' own FFT gave the same numbers.
    Python's lock is free meanwhile, so threads rotate side by side.
    """
    from scipy.fft import dct  # a tenth of a second, which opening a bank does not need

    x = np.array(vectors, dtype=np.float64)
    x *= _signs(x.shape[-1], seed)
    turned: Floats = dct(x, type=2, norm="ortho", axis=-1, overwrite_x=True).astype(np.float32)
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
    x = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.where(norms == 0, 1.0, norms)).astype(np.float32)


@lru_cache(maxsize=8)
def _signs(n: int, seed: int) -> npt.NDArray[np.float64]:
    # Raw generator words, not a distribution's method: their stream is fixed across numpy versions.
    words = np.random.PCG64(seed).random_raw(n)
    return np.where(words >> np.uint64(63), 1.0, -1.0)
