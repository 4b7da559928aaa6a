"""The rotation: orthogonal in any dimension, and always the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentbank.bank.rotation import ROTATION_SEED, rotate, rotated_units, unit, unrotate

DIMENSIONS = [1, 2, 3, 4, 5, 7, 8, 31, 64, 127, 576]
# The rotation of every bank stored so far.
SIGNS = "-+--++--+---+-+---++--++"


def matrix(n: int, signs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sign flips and an orthonormal DCT-II, written out: [n, n], to be multiplied with a column."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    dct = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    dct[0] = np.sqrt(1 / n)
    return dct * signs


def rows(n: int, count: int = 6, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, n)).astype(np.float32)


def test_stored_banks_stay_readable() -> None:
    """Fixed values: if they changed, every existing bank would give wrong answers."""
    assert ROTATION_SEED == 260200462
    np.testing.assert_allclose(
        rotate([[1, 2, 3, 4, 5]], ROTATION_SEED),
        [[-0.4472136, -1.3785175, 4.3349147, -5.8394938, -0.0922740]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(rotate([[3, 4]], ROTATION_SEED), [[0.70710678, -4.9497475]], rtol=1e-6)
    np.testing.assert_allclose(rotate([[1]], ROTATION_SEED), [[-1]])
    np.testing.assert_allclose(
        rotate(np.eye(576)[:3], ROTATION_SEED)[:, [0, 1, 575]],
        [
            [-0.04166667, -0.05892535, -0.00016069],
            [0.04166667, 0.05892359, -0.00048208],
            [-0.04166667, -0.05892009, -0.00080345],
        ],
        atol=1e-8,
    )


def by_fft(x: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """The rotation as versions before scipy's computed it: by a complex FFT of the entries in another order."""
    n = x.shape[-1]
    signs = np.where(np.random.PCG64(seed).random_raw(n) >> np.uint64(63), 1.0, -1.0)
    order = np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)[::-1]])
    spectrum = np.fft.fft((x * signs)[..., order]) * np.exp(-0.5j * np.pi * np.arange(n) / n)
    scale = np.full(n, np.sqrt(2 / n))
    scale[0] = np.sqrt(1 / n)
    rotated: npt.NDArray[np.float32] = (spectrum.real * scale).astype(np.float32)
    return rotated


@pytest.mark.parametrize("n", [7, 576, 4096])
def test_it_is_the_one_of_earlier_versions(n: int) -> None:
    given_rows = unit(rows(n, 200))
    earlier = by_fft(given_rows, ROTATION_SEED)
    exact = rotate(given_rows.astype(np.float64), ROTATION_SEED)
    np.testing.assert_allclose(exact, earlier, rtol=2e-7, atol=1e-12)
    # In float32 they are the same to rounding, and so is what is stored.
    turned = rotate(given_rows, ROTATION_SEED)
    np.testing.assert_allclose(turned, earlier, rtol=0, atol=2e-6 / np.sqrt(n))
    stored, then = turned.astype(np.float16), earlier.astype(np.float16)
    assert (stored != then).mean() < 2e-3
    assert (np.abs(stored - then) <= np.spacing(np.abs(np.maximum(stored, then)))).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5000), st.integers(1, 40), st.sampled_from([np.float16, np.float32, np.float64]))
def test_units_are_rotated_alike_alone_and_together(n: int, count: int, dtype: type) -> None:
    given_rows = rows(n, count).astype(dtype)
    together = rotated_units(given_rows, ROTATION_SEED)
    np.testing.assert_array_equal(together, rotate(unit(given_rows), ROTATION_SEED))
    alone = [rotated_units(row[None], ROTATION_SEED)[0] for row in given_rows]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("n", [n for n in DIMENSIONS if n <= len(SIGNS)])
def test_it_is_sign_flips_and_a_dct(n: int) -> None:
    signs = np.array([1.0 if sign == "+" else -1.0 for sign in SIGNS[:n]])
    np.testing.assert_allclose(rotate(rows(n), ROTATION_SEED), rows(n) @ matrix(n, signs).T, atol=1e-6)


@pytest.mark.parametrize("n", DIMENSIONS)
def test_it_is_orthogonal_in_any_dimension(n: int) -> None:
    whole = rotate(np.eye(n), ROTATION_SEED).astype(np.float64)
    np.testing.assert_allclose(whole @ whole.T, np.eye(n), atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 600), st.integers(0, 2**63), st.integers(0, 1000))
def test_lengths_and_cosines_stay_and_it_can_be_undone(n: int, seed: int, data: int) -> None:
    given_rows = rows(n, seed=data)
    turned = rotate(given_rows, seed)
    assert turned.dtype == np.float32
    assert turned.shape == given_rows.shape
    np.testing.assert_allclose(turned @ turned.T, given_rows @ given_rows.T, atol=1e-4 * n)
    np.testing.assert_allclose(unrotate(turned, seed), given_rows, atol=1e-5)


def test_other_seeds_are_other_rotations() -> None:
    first, other = rotate(rows(64), 1), rotate(rows(64), 2)
    assert np.abs(first - other).max() > 0.1


def test_it_spreads_an_outlier() -> None:
    """Its purpose: one huge dimension no longer determines the range of all."""
    spiky = np.full((1, 576), 0.01)
    spiky[0, 100] = 100.0
    turned = rotate(spiky, ROTATION_SEED)
    assert np.abs(turned).max() < 10


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.floats(1e-30, 1e30), st.sampled_from([np.float16, np.float32, np.float64]))
def test_unit_scales_to_length_one(n: int, scale: float, dtype: type) -> None:
    given_rows = rows(n).astype(dtype)
    given_rows[0] = 0
    scaled = unit(given_rows.astype(np.float64) * scale)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled[0], 0)
    np.testing.assert_allclose(np.linalg.norm(scaled[1:], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(scaled, unit(given_rows), atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "dtype"), [(3e37, np.float32), (1e-40, np.float32), (1e300, np.float64), (1e-300, np.float64)]
)
def test_no_length_is_too_large_or_too_small(scale: float, dtype: type) -> None:
    """Squares of these numbers, and in float32 the first length itself, are infinite or zero."""
    given_rows = np.array([[9, -9, 9], [0, 0, 0], [3, 4, 0]], dtype) * dtype(scale)
    third = 3**-0.5
    expected = [[third, -third, third], [0, 0, 0], [0.6, 0.8, 0]]
    np.testing.assert_allclose(unit(given_rows), expected, rtol=1e-4)


@pytest.mark.parametrize("number", [0, 3e38, 1e-44])
def test_a_row_of_extreme_length_changes_no_other(number: float) -> None:
    given_rows = rows(576, 200)
    expected = np.delete(rotated_units(given_rows, ROTATION_SEED), 7, axis=0)
    given_rows[7] = number
    np.testing.assert_array_equal(np.delete(rotated_units(given_rows, ROTATION_SEED), 7, axis=0), expected)
