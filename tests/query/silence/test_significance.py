"""p-values and the procedure of Benjamini and Hochberg, against scipy; pictures with nothing to see."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.stats import false_discovery_control

from latentbank.errors import QueryError
from latentbank.query.silence.null_pictures import KINDS, null_picture, null_pictures, within
from latentbank.query.silence.significance import checked_fdr, p_values, significant
from tests.query.patch_vlm import picture


def test_a_p_value_counts_the_nulls_that_are_as_large_and_is_never_0() -> None:
    assert p_values([5, 2, 0, 2.5], [1, 2, 3, 4]).tolist() == [1 / 5, 4 / 5, 1.0, 3 / 5]
    assert p_values([5.0], []).tolist() == [1.0]


@pytest.mark.parametrize("fdr", [0.01, 0.05, 0.3])
def test_significant_is_what_scipy_says(fdr: float) -> None:
    chance = np.random.default_rng(0)
    for count in (1, 7, 49):
        values = chance.uniform(size=count) ** chance.uniform(1, 6)
        values[: count // 3] = values[0]  # equal ones are kept or left out together
        assert significant(values, fdr).tolist() == (false_discovery_control(values) <= fdr).tolist()
    assert significant([], fdr).tolist() == []


@pytest.mark.parametrize("fdr", [0, 1, -0.1, 1.5, "much"])
def test_a_level_is_between_0_and_1(fdr: object) -> None:
    with pytest.raises(QueryError, match="fdr is"):
        checked_fdr(fdr)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_with_nothing_to_see_have_the_size_of_their_source(kind: str) -> None:
    made = null_picture(picture(0), kind, np.random.default_rng(0))
    assert (made.size, made.mode) == (picture(0).size, "RGB")
    again = null_picture(picture(0), kind, np.random.default_rng(0))
    assert made.tobytes() == again.tobytes()
    assert made.tobytes() != null_picture(picture(0), kind, np.random.default_rng(1)).tobytes()


def test_shuffled_pixels_are_those_of_the_picture_and_shuffled_phases_keep_its_spectrum() -> None:
    source = np.asarray(picture(3).convert("RGB"), dtype=np.float64)
    shuffled = KINDS["shuffled pixels"](source, np.random.default_rng(0))
    assert sorted(map(tuple, shuffled.reshape(-1, 3))) == sorted(map(tuple, source.reshape(-1, 3)))
    phases = KINDS["shuffled phases"](source, np.random.default_rng(0))
    assert not np.allclose(phases, source)
    for channel in range(3):
        assert np.abs(np.fft.fft2(phases[..., channel])) == pytest.approx(
            np.abs(np.fft.fft2(source[..., channel])), rel=1e-6, abs=1e-6
        )


def test_a_picture_of_one_pixel_has_all_kinds() -> None:
    made = list(null_pictures([Image.new("RGB", (1, 1))], len(KINDS)))
    assert [one.size for one in made] == [(1, 1)] * len(KINDS)


@pytest.mark.parametrize(
    ("size", "small"),
    [((40, 30), (40, 30)), ((400, 300), (40, 30)), ((1, 9000), (1, 1200)), ((9000, 1), (1200, 1))],
)
def test_a_large_picture_is_shrunk_in_proportion(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert within(Image.new("RGB", size), 1200).size == small
