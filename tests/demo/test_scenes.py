"""Composed scenes: their labels agree with the pixels, and their captions are English."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from latentbank.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    EVALUATION,
    PLACES,
    SIDE,
    TRAINING,
    VALIDATION,
    Scene,
    Thing,
    background_phrase,
    load_things,
    make_scene,
    phrase,
)
from latentbank.errors import ModelError

SEEDS = range(200)


@pytest.fixture(scope="module")
def things() -> tuple[Thing, ...]:
    return load_things()


@pytest.fixture(scope="module")
def scenes(things: tuple[Thing, ...]) -> list[Scene]:
    return [make_scene(things, seed) for seed in SEEDS]


def test_there_are_250_things_with_their_own_names(things: tuple[Thing, ...]) -> None:
    assert len(things) == 250
    assert len({thing.name for thing in things}) == 250
    for thing in things:
        assert re.fullmatch(r"[a-z]+( [a-z]+)?", thing.name)
        assert thing.article in ("a", "an", "some")
        assert (thing.article == "an") <= (thing.name[0] in "aeiou")
        assert (thing.article == "a") <= (thing.name[0] not in "aeio")
        assert thing.pictures
        assert thing.tags
        for picture in thing.pictures:
            assert picture.image.mode == "RGBA"
            # Trimmed: all four edges of the picture are touched.
            assert picture.image.getchannel("A").getbbox() == (0, 0, *picture.image.size)
            assert picture.colour is None or picture.colour in {*COLOURS, "black"}


def test_names_are_no_words_of_captions_frame(things: tuple[Thing, ...]) -> None:
    frame = {*BACKGROUNDS, *COLOURS, *" ".join(PLACES.values()).split(), "background", "picture", "image"}
    assert not frame & {word for thing in things for word in thing.name.split()}


def test_a_seed_gives_the_same_scene_always(things: tuple[Thing, ...]) -> None:
    for seed in (0, 5, EVALUATION[7]):
        first, second = make_scene(things, seed), make_scene(things, seed)
        assert first.image.tobytes() == second.image.tobytes()
        assert first.caption == second.caption
        assert [o.box for o in first.objects] == [o.box for o in second.objects]
    assert make_scene(things, 0).image.tobytes() != make_scene(things, 1).image.tobytes()


def test_seeds_of_training_validation_and_evaluation_never_meet() -> None:
    for first, second in ((TRAINING, VALIDATION), (TRAINING, EVALUATION), (VALIDATION, EVALUATION)):
        assert first.stop <= second.start or second.stop <= first.start
    assert len(EVALUATION) == 300


def test_scenes_are_varied(scenes: list[Scene]) -> None:
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert {thing.place for scene in scenes for thing in scene.objects} == set(PLACES)
    assert len({thing.name for scene in scenes for thing in scene.objects}) > 150


def test_coverage_agrees_with_the_boxes(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.size == (SIDE, SIDE)
        assert scene.image.mode == "RGB"
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= SIDE
            assert 0 <= top < bottom <= SIDE
            assert thing.coverage.shape == (49,)
            assert thing.coverage.dtype == np.float32
            for patch, share in enumerate(thing.coverage):
                x, y = patch % 7 * 32, patch // 7 * 32
                across = max(0, min(right, x + 32) - max(left, x))
                down = max(0, min(bottom, y + 32) - max(top, y))
                assert 0 <= share <= across * down / 1024 + 1e-3
            # A picture fills a fair part of its box, so the shares add up to it.
            filled = thing.coverage.sum() * 1024 / ((right - left) * (bottom - top))
            assert 0.1 < filled <= 1.001


def test_coverage_is_where_the_pixels_differ_from_the_background(things: tuple[Thing, ...]) -> None:
    # A scene's background is the first that its seed decides: none is made in vain.
    plain = [seed for seed in range(400) if np.random.default_rng(seed).choice(BACKGROUNDS) == "plain"]
    assert len(plain) > 20
    for seed in plain:
        scene = make_scene(things, seed)
        assert scene.background == "plain"
        pixels = np.asarray(scene.image).astype(int)
        covered = sum(thing.coverage for thing in scene.objects).reshape(7, 7)
        values, counts = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_counts=True)
        tone = values[counts.argmax()] >> np.array([16, 8, 0]) & 255
        patches = (pixels != tone).any(-1).reshape(7, 32, 7, 32).mean((1, 3))
        # Smoothed edges mix both; a white thing on white differs by a shade.
        if scene.colour not in ("white",):
            assert np.abs(patches - covered).mean() < 0.05
        assert (covered[patches == 0] < 0.01).all() or scene.colour == "white"


def test_coverage_follows_the_grid(things: tuple[Thing, ...]) -> None:
    coarse, fine = make_scene(things, 3, (7, 7)), make_scene(things, 3, (14, 14))
    for coarse_thing, fine_thing in zip(coarse.objects, fine.objects, strict=True):
        pooled = fine_thing.coverage.reshape(7, 2, 7, 2).mean((1, 3)).reshape(-1)
        assert np.allclose(pooled, coarse_thing.coverage, atol=1e-3)


def test_things_do_not_overlap_and_have_their_own_places(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert len({thing.place for thing in scene.objects}) == len(scene.objects)
        assert (sum(thing.coverage for thing in scene.objects) <= 1.001).all()
        for thing in scene.objects:
            column, row = ((thing.box[i] + thing.box[i + 2]) / 2 / SIDE * 3 for i in (0, 1))
            assert list(PLACES).index(thing.place) == int(row) * 3 + int(column)


def test_captions_name_everything_in_reading_order(scenes: list[Scene]) -> None:
    for scene in scenes:
        names = [thing.name for thing in scene.objects]
        at = 0
        for name in names:
            match = re.compile(rf"\b{name}\b").search(scene.caption, at)
            assert match, (scene.caption, names)
            at = match.end()
        assert background_phrase(scene.background, scene.colour) in scene.caption
        order = [list(PLACES).index(thing.place) for thing in scene.objects]
        assert order == sorted(order)
        assert scene.caption == scene.caption.strip()
        assert "  " not in scene.caption


def test_captions_have_true_places_and_right_articles(scenes: list[Scene]) -> None:
    phrasings = set()
    for scene in scenes:
        mentioned = [place for place in PLACES.values() if re.search(rf"\b{place}\b", scene.caption)]
        true = {PLACES[thing.place] for thing in scene.objects}
        if mentioned:
            assert true <= set(mentioned)
        assert not re.search(r"\ba [aeio]", scene.caption), scene.caption
        assert not re.search(r"\ban [^aeiou]", scene.caption), scene.caption
        phrasings.add(" ".join(scene.caption.split()[:2]) if scene.caption[0] in "oi" else "plain")
    assert len(phrasings) >= 4


def test_evaluation_gets_true_colours_and_places(scenes: list[Scene]) -> None:
    for scene in scenes:
        labelled = scene.labelled()
        assert labelled.image is scene.image
        assert labelled.background == {scene.colour}
        assert [thing.name for thing in labelled.objects] == [thing.name for thing in scene.objects]
        for labelled_object, thing in zip(labelled.objects, scene.objects, strict=True):
            assert labelled_object.box == thing.box
            assert labelled_object.coverage is thing.coverage
            assert labelled_object.attributes == {*thing.place.split()} | ({thing.colour} - {None})


def test_a_phrase_is_english() -> None:
    assert phrase("an", "apple") == "an apple"
    assert phrase("an", "apple", "red") == "a red apple"
    assert phrase("a", "carrot", "orange") == "an orange carrot"
    assert phrase("some", "grapes", "purple") == "some purple grapes"


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="1F412"):
        load_things(tmp_path)
