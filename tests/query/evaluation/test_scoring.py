"""Scoring: the matching rules for words, verdicts on patches, shares with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbank.query.evaluation.labelled import LabelledImage, LabelledObject
from latentbank.query.evaluation.scoring import (
    LEAST,
    Bootstrap,
    Truth,
    Verdict,
    by_thing,
    forms,
    judge,
    judge_all,
    names,
    shuffled,
    truths_of,
)


def truth(name: str = "dog", scene: int = 0, thing: int = 0, **given: Any) -> Truth:
    arguments: dict[str, Any] = {
        "token": 0,
        "coverage": 1.0,
        "others": ("fire truck",),
        "attributes": frozenset({"red", "top", "left"}),
    }
    return Truth(scene=scene, thing=thing, name=name, **{**arguments, **given})


def scene(
    coverage: Sequence[Sequence[float]], colours: Sequence[str | None] = ("red", None)
) -> LabelledImage:
    """A dog in the top left and a fire truck on the right, on a dotted pink background."""
    known = (("dog", "top left"), ("fire truck", "right"))
    objects = tuple(
        LabelledObject(
            name,
            (0, 0, 9, 9),
            np.array(rows, dtype=np.float32),
            frozenset([*place.split(), *([colour] if colour else [])]),
        )
        for (name, place), rows, colour in zip(known, coverage, colours, strict=False)
    )
    return LabelledImage(Image.new("RGB", (224, 224)), objects, frozenset(["pink"]))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("dog", "dog"),
        ("Dog", "dog"),
        ("DOGS", "dog"),
        ("dog's", "dog"),
        ("dogs’", "dog"),
        (" dog ", "dog"),
        ("cherry", "cherries"),
        ("Cherries", "cherries"),
        ("grape", "grapes"),
        ("mice", "mouse"),
        ("wolves", "wolf"),
        ("leaves", "leaf"),
        ("knives", "knife"),
        ("gloves", "gloves"),
        ("glove", "gloves"),
        ("buses", "bus"),
        ("boxes", "box"),
        ("watches", "watch"),
        ("brushes", "brush"),
        ("tomatoes", "tomato"),
        ("shoes", "shoe"),
        ("axes", "axe"),
        ("cookies", "cookie"),
        ("berries", "berry"),
        ("dresses", "dress"),
        ("cacti", "cactus"),
        ("donut", "doughnut"),
        ("Donuts", "doughnut"),
        ("truck", "fire truck"),
        ("Trucks", "fire truck"),
        ("firetruck", "fire truck"),
        ("fire truck", "fire truck"),
        ("bear", "teddy bear"),
        ("cream", "ice cream"),
        ("hotdogs", "hot dog"),
        ("glasses", "glasses"),
        ("Scissors", "scissors"),
    ],
)
def test_words_that_name(word: str, name: str) -> None:
    assert names(word, name)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("cat", "dog"),
        ("puppy", "dog"),
        ("animal", "dog"),
        ("do", "dog"),
        ("dogma", "dog"),
        ("fire", "fire truck"),
        ("ice", "ice cream"),
        ("dog", "hot dog"),
        ("hot", "hot dog"),
        ("glass", "glasses"),
        ("jean", "jeans"),
        ("fry", "fries"),
        ("sunglasses", "glasses"),
        ("dres", "dress"),
        ("bu", "bus"),
        ("a", "as"),
        ("leave", "leaf"),
        ("", "dog"),
        ("'s", "dog"),
        ("po", "poodle"),
    ],
)
def test_words_that_do_not_name(word: str, name: str) -> None:
    assert not names(word, name)


def test_forms_of_short_words_and_words_that_only_look_like_plurals() -> None:
    assert forms("gas") == {"gas"}
    assert forms("bus") == {"bus"}
    assert forms("Grey") == {"gray"}
    assert forms("glass") == {"glass"}


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (["cat", "dogs"], Verdict.CONCRETE),
        (["truck", "red", "dog"], Verdict.CONCRETE),
        (["red", "truck"], Verdict.GLOBAL),
        (["cat", "Red"], Verdict.ATTRIBUTE),
        (["left"], Verdict.ATTRIBUTE),
        (["green", "bottom", "cat"], Verdict.NOTHING),
        ([], Verdict.NOTHING),
    ],
)
def test_the_best_word_decides(words: list[str], verdict: Verdict) -> None:
    assert judge(words, truth()) is verdict
    assert judge_all([words, ["dog"]], [truth(), truth()]).tolist() == [verdict, Verdict.CONCRETE]


def test_a_patch_belongs_to_what_covers_most_of_it() -> None:
    given = scene([[1.0, 0.6, LEAST, 0.0, 0.0, 0.5], [0.0, 0.4, 0.0, LEAST - 0.01, 0.5, 0.3]])
    found = {truth.token: truth for truth in truths_of(given, 7)}
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert [found[token].name for token in (0, 1, 2, 4, 5)] == ["dog", "dog", "dog", "fire truck", "dog"]
    assert {truth.scene for truth in found.values()} == {7}
    assert [found[token].thing for token in (0, 4)] == [0, 1]
    assert found[1].coverage == pytest.approx(0.6)
    assert found[0].others == ("fire truck",)
    assert found[4].others == ("dog",)


def test_true_attributes_are_those_of_the_thing_and_of_the_background_where_it_shows() -> None:
    found = {truth.token: truth for truth in truths_of(scene([[1.0, 0.8, 0.55], [0.0, 0.0, 0.43]]), 0)}
    assert found[0].attributes == {"red", "top", "left"}
    assert found[1].attributes == {"red", "top", "left", "pink"}
    assert found[2].attributes == {"red", "top", "left"}  # 2 % of the background shows
    (truck,) = truths_of(scene([[0.0], [0.5]]), 0)
    assert truck.attributes == {"right", "pink"}  # it has no clear colour of its own


def test_a_scene_without_things_has_no_truths() -> None:
    assert truths_of(scene([]), 0) == []


def test_shuffling_gives_each_patch_one_of_the_next_scene() -> None:
    truths = [truth(scene=number) for number in (0, 0, 0, 2, 5, 5)]
    assert shuffled(truths) == [3, 3, 3, 4, 0, 1]
    with pytest.raises(ValueError, match="one scene alone"):
        shuffled(truths[:3])


def test_a_thing_is_named_if_one_of_its_patches_is() -> None:
    truths = [truth(scene=s, thing=t) for s, t in ((0, 0), (0, 1), (0, 0), (3, 0), (3, 0))]
    hits, scenes = by_thing([False, True, True, False, False], truths)
    assert hits.tolist() == [True, True, False]
    assert scenes.tolist() == [0, 0, 3]


class TestBootstrap:
    def test_the_share_is_the_mean(self) -> None:
        share = Bootstrap(4).share([True, False, True, True], [0, 1, 2, 3])
        assert (share.value, share.of) == (0.75, 4)
        assert 0 <= share.low < 0.75 < share.high <= 1

    def test_an_interval_without_variation_has_no_width(self) -> None:
        share = Bootstrap(3).share(np.ones(6), [0, 0, 1, 1, 2, 2])
        assert (share.low, share.value, share.high) == (1, 1, 1)

    def test_the_interval_is_that_of_the_normal_distribution_where_that_holds(self) -> None:
        rng = np.random.default_rng(5)
        hits = rng.random(2000) < 0.3
        share = Bootstrap(2000, resamples=2000).share(hits, np.arange(2000))
        width = 1.96 * np.sqrt(0.3 * 0.7 / 2000)
        assert share.high - share.value == pytest.approx(width, rel=0.15)
        assert share.value - share.low == pytest.approx(width, rel=0.15)

    def test_patches_of_one_scene_are_not_independent(self) -> None:
        """A hundred equal patches of a scene count as much as a single patch."""
        hits = np.arange(20) % 2 == 0
        single = Bootstrap(20).share(hits, np.arange(20))
        many = Bootstrap(20).share(np.repeat(hits, 100), np.repeat(np.arange(20), 100))
        assert (many.low, many.high) == pytest.approx((single.low, single.high))
        assert many.of == 2000

    def test_the_same_seed_gives_the_same_interval(self) -> None:
        hits = np.arange(10) % 3 == 0
        assert Bootstrap(10, seed=1).share(hits, np.arange(10)) == Bootstrap(10, seed=1).share(
            hits, np.arange(10)
        )

    def test_scenes_without_patches_count_as_drawn(self) -> None:
        share = Bootstrap(10).share([True, False], [3, 9])
        assert (share.low, share.value, share.high) == (0, 0.5, 1)

    def test_no_patches_have_no_share(self) -> None:
        share = Bootstrap(3).share([], [])
        assert share.of == 0
        assert np.isnan([share.value, share.low, share.high]).all()
