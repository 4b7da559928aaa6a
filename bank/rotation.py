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
    """Return each row of `vectors` `[n, hidden]` rotated: float32 `[n, hidden]`."""
    x = np.asarray(vectors, dtype=np.float64)
    signs, order, half, scale = _tables(x.shape[-1], seed)
    n = x.shape[-1]
    # DCT-II by an FFT of the same length (even entries ascending, odd entries descending; Makhoul 1980). The FFT of
    # real input is conjugate-symmetric: its first half also holds the upper coordinates, in reverse order.
    spectrum = np.fft.rfft((x * signs)[..., order], axis=-1) * half[: n // 2 + 1]
    upper = -spectrum[..., (n - 1) // 2 : 0 : -1].imag
    return (np.concatenate([spectrum.real, upper], axis=-1) * scale).astype(np.float32)


def unrotate(vectors: npt.ArrayLike, seed: int) -> Floats:
    """Return what `rotate` has rotated: float32 `[n, hidden]`."""
    y = np.asarray(vectors, dtype=np.float64)
    n = y.shape[-1]
    signs, order, half, scale = _tables(n, seed)
    y = y / scale
    # The FFT of real input is conjugate-symmetric, so y[k] - i y[n-k] holds its whole spectrum.
    mirrored = np.concatenate([np.zeros_like(y[..., :1]), y[..., :0:-1]], axis=-1)
    x = np.empty_like(y)
    x[..., order] = np.fft.ifft((y - 1j * mirrored) / half, axis=-1).real
    return (x * signs).astype(np.float32)


def unit(vectors: npt.ArrayLike) -> Floats:
    """Return each row of `vectors` `[n, hidden]` scaled to length 1 (float32); rows of length 0 stay 0."""
    x = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.where(norms == 0, 1.0, norms)).astype(np.float32)


@lru_cache(maxsize=8)
def _tables(
    n: int, seed: int
) -> tuple[
    npt.NDArray[np.float64], npt.NDArray[np.intp], npt.NDArray[np.complex128], npt.NDArray[np.float64]
]:
    # Raw generator words, not a distribution's method: their stream is fixed across numpy versions.
    words = np.random.PCG64(seed).random_raw(n)
    signs = np.where(words >> np.uint64(63), 1.0, -1.0)
    order = np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)[::-1]])
    half = np.exp(-0.5j * np.pi * np.arange(n) / n)
    scale = np.full(n, np.sqrt(2.0 / n))
    scale[0] = np.sqrt(1.0 / n)
    return signs, order, half, scale
