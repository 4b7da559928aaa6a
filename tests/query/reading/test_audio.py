"""Readings of sound: each token has its seconds, in JSON, tables, figures and on the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.rotation import unit
from latentbank.errors import LatentBankError, ModelError, QueryError, SoundError
from latentbank.models.audio.sounds import RATE, Sound
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.sources import ImageSource
from latentbank.models.vision.tokens import VisualTokens
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.grids import grid_lines
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.output.pictures import draw_reading
from latentbank.query.output.plots import plot_reading, save_plot
from latentbank.query.reading.audio import read_audio, read_sounds
from latentbank.query.web.data import page_data
from tests.query.banks import ONE_CORPUS, fill
from tests.query.patch_vlm import PatchVLM, picture

SAMPLES = np.random.default_rng(0).normal(0, 0.1, RATE * 3 // 2).astype(np.float32)
SPANS = [(n / 4, (n + 1) / 4) for n in range(6)]


class HearingVLM(PatchVLM):
    """It reads a sound as six tokens of equal length, whose states are those of the patches of one image."""

    def audio_tokens(
        self, sound: Sound, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        none = np.full(6, -1)
        seconds = np.array(SPANS, np.float32) * sound.duration / 1.5
        return replace(
            self.tokens_with_text(picture(), layers, prompt, answer),
            boxes=np.full((6, 4), np.nan, np.float32),
            rows=none,
            columns=none,
            size=(0, 0),
            seconds=seconds,
        )


@pytest.fixture(scope="module")
def model(tiny: LanguageModel) -> HearingVLM:
    return HearingVLM(tiny)


def test_each_token_has_its_seconds(bank: Bank, model: HearingVLM) -> None:
    reading = read_audio(bank, model, SAMPLES, [1, 2], rate=RATE, top_k=2)
    assert (reading.size, reading.image, reading.duration, reading.tiles) == (None, None, 1.5, [])
    (image,) = model.visual_tokens([picture()], [1, 2])
    for layer in (1, 2):
        own = reading.at(layer)
        assert [t.seconds for t in own] == SPANS
        assert {t.kind for t in own} == {"audio"}
        assert own[3].label == "0.75 s"
        assert all(t.place is None for t in own)
        plain = bank.search(image.states[layer].numpy(), "mid", 2)
        assert [[n.id for n in t.neighbors] for t in own] == [[n.id for n in row] for row in plain]


def test_a_centred_bank_centres_sound_by_its_own_mean(
    tiny: LanguageModel, model: HearingVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Queries] = []
    read = LatentLens.read

    def kept(self: LatentLens, queries: Queries, top_k: int = 5) -> Any:
        received.append(queries)
        return read(self, queries, top_k)

    monkeypatch.setattr(LatentLens, "read", kept)
    # Means of images that are kept with the model are not those of sound; this file cannot even be read.
    monkeypatch.setattr(model, "means_file", tmp_path / "means.safetensors", raising=False)
    (tmp_path / "means.safetensors").write_bytes(b"of images")
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        reading = read_audio(bank, model, SAMPLES, 2, rate=RATE, tokens="all")
        assert reading.query_mean == "their own mean"
        sound, text = received
        assert (sound.kind, text.kind) == ("other", "text")
        states: Any = sound.states
        np.testing.assert_allclose(np.asarray(sound.mean)[0], unit(states).mean(axis=0), rtol=1e-4)
        np.testing.assert_array_equal(np.asarray(text.mean), bank.text_mean(2))


def test_seconds_are_in_json_tables_figures_and_pages(bank: Bank, model: HearingVLM, tmp_path: Path) -> None:
    reading = read_audio(bank, model, SAMPLES, [1], rate=RATE, tokens="all", answer=2)
    data = json.loads(json.dumps(reading.to_dict()))
    assert (data["duration"], data["geometry"]) == (1.5, "exact, 2 x 3 patches")
    assert data["answer"] == reading.answer != ""
    assert "size" not in data
    assert data["tokens"][1]["seconds"] == [0, 0.25]
    assert "row" not in data["tokens"][1]
    frame = pandas.read_parquet(
        ReadingFolder(tmp_path / "out", {}).write(ImageSource("a", "a", b""), reading)
    )
    assert sorted(set(frame["start_second"].dropna())) == [start for start, _ in SPANS]
    assert frame["row"].isna().all()
    lines = grid_lines(reading)
    assert lines[0] == "latent lens, layer 1"
    words = [t.neighbors[0].word for t in reading.tokens if t.kind == "audio"]
    assert lines[1:3] == [f"  0 s: {' '.join(words[:4])}", f"  1 s: {' '.join(words[4:])}"]
    axis = plot_reading(reading, axis=Figure().subplots())
    assert [text.get_text().strip() for text in axis.texts] == words
    assert [bar.get_x() for bar in axis.patches] == [start for start, _ in SPANS]
    assert axis.get_xlim() == (0, 1.5)
    assert axis.get_xlabel().startswith("seconds\n")
    assert Image.open(save_plot(reading, tmp_path / "sound.png")).width > 1000
    with pytest.raises(QueryError, match="use save_plot"):
        draw_reading(reading)
    page = page_data(reading)
    assert page["seconds"][:2] == [None, [0, 0.25]]
    assert [kind for kind, _ in page["around"]][:2] == ["prompt", "audio"]
    assert "frames" not in page


def test_a_sound_that_cannot_be_read_is_left_out(bank: Bank, model: HearingVLM) -> None:
    left_out: list[tuple[str, LatentBankError]] = []
    given = [np.zeros((2, 3, 4), np.float32), SAMPLES]
    readings = list(
        read_sounds(
            model,
            given,
            [LatentLens(bank)],
            [1],
            rate=RATE,
            broken=lambda name, error: left_out.append((name, error)),
        )
    )
    assert len(readings) == len(left_out) == 1
    with pytest.raises(SoundError, match="it must be"):
        list(read_sounds(model, given, [LatentLens(bank)], [1], rate=RATE))


def test_what_is_refused(bank: Bank, tiny: LanguageModel, model: HearingVLM) -> None:
    with pytest.raises(ModelError, match="patch-vlm takes no sound"):
        read_audio(bank, PatchVLM(tiny), SAMPLES, 1, rate=RATE)
    with pytest.raises(SoundError, match="need their rate"):
        read_audio(bank, model, SAMPLES, 1)
