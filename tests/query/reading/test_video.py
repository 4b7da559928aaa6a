"""Readings of videos: each token has its time, in JSON, tables, figures and on the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.errors import ImageError, LatentBankError, ModelError, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.clips import Clip
from latentbank.models.vision.sources import ImageSource
from latentbank.models.vision.tokens import TextTokens, VisualTokens
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.grids import grid_lines
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.output.pictures import draw_reading
from latentbank.query.output.plots import plot_reading, save_plot
from latentbank.query.reading.video import read_video, read_videos
from latentbank.query.reading.visual import read_images
from latentbank.query.silence.significance import significant
from latentbank.query.silence.silence import open_silence
from latentbank.query.web.data import page_data
from tests.query.banks import TWO, fill
from tests.query.patch_vlm import PatchVLM, picture

FRAMES = [picture(seed) for seed in range(5)]
STEPS = [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]


def _after(text: TextTokens | None, more: int) -> TextTokens | None:
    """Return text whose tokens after the image are `more` places later."""
    assert text is not None
    later = np.where(text.positions > 0, text.positions + more, 0)
    return replace(text, positions=later)


class FilmVLM(PatchVLM):
    """It reads every second frame of a video as if it were an image; text is read with the first."""

    def video_tokens(
        self, clip: Clip, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        merged = range(0, len(clip.frames), 2)
        parts = [self.tokens_with_text(clip.images()[at], layers, prompt, answer) for at in merged]
        count = len(parts[0])
        spans = [clip.span(at, min(at + 1, len(clip.frames) - 1)) for at in merged]
        return replace(
            parts[0],
            states={layer: torch.cat([part.states[layer] for part in parts]) for layer in layers},
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("boxes", "rows", "columns")
            },
            tiles=np.repeat(np.arange(len(parts)), count),
            positions=np.arange(1, 1 + count * len(parts)),
            text=_after(parts[0].text, 99),
            seconds=np.repeat(np.array(spans, np.float32), count, axis=0),
        )


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> FilmVLM:
    return FilmVLM(tiny)


def test_each_token_has_its_time_and_its_frame(bank: Bank, vlm: FilmVLM) -> None:
    reading = read_video(bank, vlm, FRAMES, [1, 2], top_k=2)
    assert (reading.size, reading.duration, reading.tiles) == ((30, 20), 5.0, [0, 1, 2])
    assert [np.asarray(frame).tolist() for frame in reading.frames] == [
        np.asarray(FRAMES[at]).tolist() for at in (0, 2, 4)
    ]
    for layer in (1, 2):
        assert [token.seconds for token in reading.at(layer)] == [span for span in STEPS for _ in range(6)]
        for tile, at in enumerate((0, 2, 4)):
            (alone,) = vlm.visual_tokens([FRAMES[at]], [layer])
            plain = bank.search(alone.states[layer].numpy(), "mid", 2)
            assert [t.neighbors[0].id for t in reading.patches(layer, tile=tile)] == [
                row[0].id for row in plain
            ]
    assert [reading.tile_name(tile) for tile in range(3)] == [
        "0.00 to 2.00 s",
        "2.00 to 4.00 s",
        "4.00 to 5.00 s",
    ]


def test_frames_are_chosen_and_timed(bank: Bank, vlm: FilmVLM) -> None:
    reading = read_video(bank, vlm, FRAMES, 1, frames=2, frame_rate=10)
    assert {token.seconds for token in reading.tokens} == {(0.0, 0.5)}
    assert len(reading.frames) == 1


def test_text_around_a_video_has_no_time(bank: Bank, vlm: FilmVLM) -> None:
    reading = read_video(bank, vlm, FRAMES, 1, tokens="all", answer=2)
    assert [t.kind for t in reading.tokens] == ["prompt", *["visual"] * 18, "prompt", "answer", "answer"]
    assert [t.seconds is None for t in reading.tokens] == [t.kind != "visual" for t in reading.tokens]
    assert {t.kind for t in read_video(bank, vlm, FRAMES, 1).tokens} == {"visual"}


def test_times_are_in_json_tables_figures_and_pages(bank: Bank, vlm: FilmVLM, tmp_path: Path) -> None:
    reading = read_video(bank, vlm, FRAMES, [1], tokens="all")
    data = json.loads(json.dumps(reading.to_dict()))
    assert data["duration"] == 5.0
    assert data["tokens"][7]["seconds"] == [2.0, 4.0]
    assert "seconds" not in data["tokens"][0]
    frame = pandas.read_parquet(
        ReadingFolder(tmp_path / "out", {}).write(ImageSource("a", "a", b""), reading)
    )
    assert sorted(set(frame["start_second"].dropna())) == [0, 2, 4]
    assert frame[frame["kind"] == "prompt"]["end_second"].isna().all()
    headings = [line for line in grid_lines(reading) if line.startswith("latent lens")]
    assert headings == [f"latent lens, visual layer 1, {a:.2f} to {b:.2f} s" for a, b in STEPS]
    wide, single = draw_reading(reading), draw_reading(reading, tile=1)
    assert wide.width > 2.9 * single.width  # a column for each step of time
    axis = plot_reading(reading, tile=2, axis=Figure().subplots())
    assert axis.get_title() == "LatentLens, visual layer 1, 4.00 to 5.00 s"
    np.testing.assert_array_equal(axis.images[0].get_array(), np.asarray(FRAMES[4]))
    file = save_plot(reading, tmp_path / "film.png")
    assert Image.open(file).width > 1500
    page = page_data(reading)
    assert (page["duration"], len(page["frames"])) == (5.0, 3)
    assert page["seconds"][0] is None
    assert page["seconds"][1] == [0, 2]


def test_a_video_that_cannot_be_read_is_left_out(bank: Bank, vlm: FilmVLM, tmp_path: Path) -> None:
    left_out: list[tuple[str, LatentBankError]] = []
    broken = [np.zeros((2, 4), np.uint8), FRAMES]
    readings = list(
        read_videos(
            vlm, broken, [LatentLens(bank)], [1], broken=lambda name, error: left_out.append((name, error))
        )
    )
    assert len(readings) == len(left_out) == 1
    with pytest.raises(ImageError, match="it must be"):
        list(read_videos(vlm, broken, [LatentLens(bank)], [1]))


def test_tokens_of_a_video_fall_silent_by_one_choice_among_all_frames(
    bank: Bank, vlm: FilmVLM, tmp_path: Path
) -> None:
    with fill("calibrated", tmp_path, vlm.language, TWO, (1,)) as small:
        calibrate(small, vlm, [picture(seed) for seed in range(100, 121)], [2])
        silence = open_silence(small, vlm, 0.6)
        reading = read_video(small, vlm, FRAMES, [2], silence=silence)
        frames = [FRAMES[at] for at in (0, 2, 4)]
        stills = list(read_images(vlm, frames, [LatentLens(small)], [2], silence=silence))
    values = [token.p_value for still in stills for token in still.tokens]
    assert reading.fdr == 0.6
    assert [token.p_value for token in reading.tokens] == values
    spoken = [not token.silent for token in reading.tokens]
    assert spoken == significant([value for value in values if value is not None], 0.6).tolist()
    assert len(set(spoken)) == 2


def test_what_is_refused(bank: Bank, tiny: LanguageModel, vlm: FilmVLM) -> None:
    with pytest.raises(ModelError, match="patch-vlm takes no videos"):
        read_video(bank, PatchVLM(tiny), FRAMES, 1)
    with pytest.raises(QueryError, match="frames is 0"):
        read_video(bank, vlm, FRAMES, 1, frames=0)
    given: Any = "text"
    with pytest.raises(QueryError, match="'text'"):
        read_video(bank, vlm, FRAMES, 1, tokens=given)
