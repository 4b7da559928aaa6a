"""Silence: which tokens keep their words, against nulls computed directly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.bank.points import Neighbor
from latentbank.bank.rotation import rotate, unit
from latentbank.bank.where import Where
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Silent
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction
from latentbank.query.calibration.numbers import HUBS, pack_ids
from latentbank.query.evaluation.experiments.silence import score_silence
from latentbank.query.evaluation.labelled import LabelledImage, LabelledObject
from latentbank.query.evaluation.patches import WholeScenes, whole_scenes
from latentbank.query.evaluation.scoring import truths_of
from latentbank.query.evaluation.silence import Heard, hear, silence_rows
from latentbank.query.evaluation.silence_figures import draw_silence
from latentbank.query.lenses.base import Lens, Queries
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.grids import grid_lines
from latentbank.query.output.pictures import png_bytes
from latentbank.query.reading.visual import read_images
from latentbank.query.silence.null_tokens import keep_null_tokens, null_tokens
from latentbank.query.silence.significance import significant
from latentbank.query.silence.silence import Silence, open_silence
from latentbank.query.web.data import page_data
from latentbank.query.web.jobs import ReadingRequest
from latentbank.query.web.service import ReadingService
from tests.query.banks import TWO, fill
from tests.query.patch_vlm import PatchVLM, picture

LAYERS = [0, 2]


@dataclass(frozen=True)
class World:
    """A calibrated VLM."""

    vlm: PatchVLM
    data_dir: Path


@pytest.fixture(scope="module")
def world(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> World:
    made, vlm = tmp_path_factory.mktemp("calibrated"), PatchVLM(tiny)
    with fill("small", made, tiny, TWO, (1, 2)) as bank:
        calibrate(bank, vlm, [picture(seed) for seed in range(100, 121)], LAYERS)
    return World(vlm, made)


@pytest.fixture
def bank(world: World) -> Iterator[Bank]:
    with open_bank("small", data_dir=world.data_dir, url="") as opened:
        yield opened


def _evidence(lens: LatentLens, silence: Silence, layer: int, states: Any) -> list[float]:
    """2 q'c' - h(c) of each token's best neighbor, from vectors and the kept numbers."""
    bank, calibration = lens.bank, silence.calibration
    seed = bank.manifest.rotation_seed
    vectors = {
        (layer, p.id): p.vector for layer in bank.layers for p in bank.store.scroll(layer, vectors=True)
    }
    found = []
    units = rotate(unit(states), seed)
    for q, (best, *_) in zip(units, lens.read(Queries(states, layer, "visual"), 1), strict=True):
        centre = calibration.centre(bank.manifest, best.bank_layer, layer)
        first, second = q - centre.mean, vectors[best.bank_layer, best.id] - centre.text_mean
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        kept = calibration.numbers(bank.manifest, best.bank_layer, layer, pack_ids([best.id]))
        found.append(float(2 * cosine - kept.numbers[0, HUBS]))
    return found


@pytest.mark.parametrize("corrects", [False, True])
def test_tokens_keep_their_words_where_they_say_more_than_the_nulls(
    world: World, bank: Bank, corrects: bool
) -> None:
    silence = open_silence(bank, world.vlm, 0.3)
    lens = LatentLens(bank, "all", exact=True)
    if corrects:
        lens = lens.corrected(Correction(silence.calibration, "both"))
    images = [picture(1), picture(2)]
    plain = list(read_images(world.vlm, images, [lens], LAYERS))
    quiet = list(read_images(world.vlm, images, [lens], LAYERS, silence=silence))
    for before, after in zip(plain, quiet, strict=True):
        assert after.fdr == 0.3
        assert before.fdr is None
        for layer in LAYERS:
            states = null_tokens(silence.calibration.pictures_folder, layer)
            nulls = _evidence(lens, silence, layer, np.array(states))
            (tokens,) = world.vlm.visual_tokens([images[plain.index(before)]], [layer])
            own = _evidence(lens, silence, layer, tokens.states[layer].numpy())
            expected = [(1 + sum(null >= one - 1e-6 for null in nulls)) / (1 + len(nulls)) for one in own]
            shown = after.at(layer)
            assert [token.p_value for token in shown] == pytest.approx(expected, abs=0.1)  # the engine rounds
            assert silence.nulls(lens, layer).tolist() == pytest.approx(sorted(nulls), abs=0.03)
            heard = significant([token.p_value for token in shown], 0.3)
            assert [not token.silent for token in shown] == heard.tolist()
            for token, other in zip(shown, before.at(layer), strict=True):
                assert token.neighbors == (() if token.silent else other.neighbors)


def test_what_was_measured_is_kept_and_depends_on_what_is_searched(
    world: World, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = LatentLens(bank, "all")
    unread = open_silence(bank, world.vlm, 0.05)
    assert not unread.is_measured(lens, [0])
    first = unread.nulls(lens, 0)
    assert unread.is_measured(lens, [0])
    assert not unread.is_measured(lens, [0, 77])  # not calibrated
    filtered = open_silence(bank, world.vlm, 0.05).nulls(replace(lens, where=Where(word="dog")), 0)
    assert first.tolist() != filtered.tolist()
    read: list[int] = []

    def counted(self: LatentLens, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        read.append(len(queries))
        raise AssertionError

    monkeypatch.setattr(LatentLens, "read", counted)
    assert open_silence(bank, world.vlm, 0.05).nulls(lens, 0).tolist() == first.tolist()
    assert not read


def test_a_lens_without_a_bank_is_judged_by_its_score(world: World, bank: Bank, tiny: LanguageModel) -> None:
    lens = EmbeddingLens(tiny.embedding, tiny.tokenizer)
    silence = open_silence(bank, world.vlm, 0.05)
    states = np.array(null_tokens(silence.calibration.pictures_folder, 2))
    expected = sorted(found[0].score for found in lens.read(Queries(states, 2, "visual"), 1))
    assert silence.nulls(lens, 2).tolist() == pytest.approx(expected)


def test_without_a_calibration_one_sentence_says_what_to_do(
    world: World, tiny: LanguageModel, tmp_path: Path
) -> None:
    told = r"not measured what patch-vlm finds .* calibrate it"
    with fill("other", tmp_path, tiny, TWO, (1,)) as other, pytest.raises(QueryError, match=told):
        open_silence(other, world.vlm, 0.05)


def test_a_layer_without_nulls_is_named(world: World, bank: Bank) -> None:
    silence = open_silence(bank, world.vlm, 0.05)
    with pytest.raises(QueryError, match=r"layer 1 .*calibrate"):
        list(read_images(world.vlm, [picture()], [LatentLens(bank)], [1], silence=silence))


def test_pictures_with_nothing_to_see_are_small_also_where_photos_are_large(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, int]] = set()

    class Seeing(PatchVLM):
        def visual_tokens(self, images: Any, layers: Any, prompt: str | None = None) -> Any:
            seen.update(image.size for image in images)
            return super().visual_tokens(images, layers, prompt)

    monkeypatch.setattr("latentbank.query.silence.null_tokens.PIXELS", 1200)
    photos = [Image.new("RGB", (400, 300)), Image.new("RGB", (20, 10))]
    keep_null_tokens(tmp_path, Seeing(tiny), photos, [0], progress=Silent())
    assert seen == {(40, 30), (20, 10)}


def test_silent_tokens_are_blank_in_grids_and_told_in_pages(world: World, bank: Bank) -> None:
    silence = open_silence(bank, world.vlm, 1e-9)  # no p-value is as small
    (reading,) = read_images(world.vlm, [picture()], [LatentLens(bank, "all")], [0], silence=silence)
    assert all(token.silent for token in reading.tokens)
    assert reading.note == ""
    assert reading.grid(0) == [[""] * 3] * 2
    assert [line for line in grid_lines(reading) if line] == ["latent lens, visual layer 0"]
    data = page_data(reading)
    assert data["fdr"] == 1e-9
    assert data["found"]["latent"] == [[[]] * 6]
    assert all(0 < value <= 1 for value in data["p_values"]["latent"][0])


def test_scores_of_silence_count_words_and_patches() -> None:
    """Two scenes of four patches: a dog on the first, half named; the last two are background."""

    class Named(Lens, register=False):
        name = "named"
        title = "Named"
        score = "cosine"

        @classmethod
        def make(cls, options: Any) -> Named:
            raise NotImplementedError

        def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
            raise NotImplementedError

    scenes = _scenes()
    values = np.array([[0.001, 0.9, 0.9, 0.9], [0.001, 0.9, 0.002, 0.9]])
    heard = Heard(values, np.array([True, False]), np.array([[0.9] * 4, [0.001] * 4]))
    at_5, at_1 = silence_rows(Named(), {0: heard}, scenes, [0.05], resamples=10)
    for row in (at_5, at_1):
        assert (row.words, row.fdr, row.chance and row.chance.value) == (3, 0.05, 0.5)
        assert row.background.value == pytest.approx(1 / 3)
        assert row.silent_background.value == 3 / 4
        assert (row.coverage.value, row.precision.value, row.kept.value) == (1, 0.5, 1)
    everything, _ = silence_rows(Named(), {0: heard}, scenes, [1.0], resamples=10)
    assert (everything.words, everything.silent_background.value) == (8, 0)


def _scenes() -> WholeScenes:
    dog = LabelledObject("dog", (0, 0, 1, 1), np.array([1, 0.2, 0, 0], np.float32))
    image = LabelledImage(Image.new("RGB", (2, 2)), (dog,))
    truths = tuple(truth for number in (0, 1) for truth in truths_of(image, number))
    background = np.array([[False, False, True, True]] * 2)
    return WholeScenes(truths, {0: np.zeros((2, 4, 3), np.float32)}, background)


def test_labelled_images_are_read_whole(world: World, bank: Bank) -> None:
    dog = LabelledObject("dog", (0, 0, 20, 20), np.array([1, 0, 0, 0, 0, 0], np.float32))
    scenes = [LabelledImage(picture(seed), (dog,)) for seed in (1, 2)]
    whole = whole_scenes(world.vlm, scenes, [0])
    assert whole.background.tolist() == [[False] + [True] * 5] * 2
    assert whole.labelled().states[0].tolist() == whole.states[0][:, 0].tolist()
    silence = open_silence(bank, world.vlm, 0.05)
    heard = hear(LatentLens(bank, "all"), silence, 0, whole, chance=whole.states[0])
    readings = read_images(
        world.vlm, [scene.image for scene in scenes], [LatentLens(bank, "all")], [0], silence=silence
    )
    expected = [[token.p_value for token in reading.tokens] for reading in readings]
    assert heard.values == pytest.approx(np.array(expected))
    assert heard.chance is not None


def test_levels_are_compared_without_and_with_correction(world: World, bank: Bank, tmp_path: Path) -> None:
    correction = Correction(load_calibration(bank, world.vlm), "both")
    dog = LabelledObject("dog", (0, 0, 20, 20), np.array([1, 0, 0, 0, 0, 0], np.float32))
    scenes = [LabelledImage(picture(seed), (dog,)) for seed in (1, 2)]
    levels = (0.05, 0.5, 1.0)
    scores = score_silence(world.vlm, [LatentLens(bank, "all")], scenes, [0], correction, levels=levels)
    assert [(row.correction, row.fdr, row.layer) for row in scores.rows] == [
        (mode, level, layer) for mode in ("", "both") for level in levels for layer in (0, None)
    ]
    for mode in ("", "both"):
        words = [row.words for row in scores.of("latent", mode)]
        assert words == sorted(words)
        assert words[-1] == 12  # at 1, every token has words
    assert scores.about["chance_images"] == 2
    assert json.loads(json.dumps(scores.to_dict(), allow_nan=False))["rows"][-1]["fdr"] == 1
    assert draw_silence(scores, tmp_path / "silence.png").read_bytes().startswith(b"\x89PNG")


def test_the_live_page_reads_with_silence(world: World, bank: Bank) -> None:
    service = ReadingService(bank, world.vlm)
    request = ReadingRequest("a.png", png_bytes(picture(1)), layers=(0,), bank_layers="all", fdr=1e-9)
    job = service.submit(request)
    while not job.finished:
        job.cancelled.wait(0.01)
    stored = service.reading(job.reading or "")
    service.close()
    assert (job.state, job.error) == ("done", "")
    assert stored is not None
    data = json.loads(stored.data)
    assert (data["fdr"], data["found"]["latent"]) == (1e-9, [[[]] * 6])
