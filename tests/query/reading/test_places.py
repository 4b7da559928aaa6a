"""Tokens whose place is not known, and tokens that see a whole crop: readings, JSON, tables, pictures and pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.points import Neighbor
from latentbank.cli.output.readings import show_grids
from latentbank.errors import ModelError, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.sources import find_images
from latentbank.models.vision.tokens import VisualTokens
from latentbank.query.evaluation.patches import grid_of
from latentbank.query.output.grids import grid_lines
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.output.pictures import draw_reading, save_reading
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.visual import read_image
from latentbank.query.web.data import page_data, page_json
from tests.query.patch_vlm import PatchVLM, picture

WHY = "unknown, new: there are no rules for models of this type"


class Placeless(PatchVLM):
    """Where its tokens look is not known."""

    geometry = WHY

    def _places(self, size: tuple[int, int]) -> dict[str, Any]:
        places = super()._places(size)
        places["boxes"][:] = np.nan
        places["rows"][:] = places["columns"][:] = -1
        return places


class Mixing(PatchVLM):
    """Each of its tokens sees all of its tile."""

    def _places(self, size: tuple[int, int]) -> dict[str, Any]:
        places = super()._places(size)
        for tile, right in [(0, size[0]), (1, size[0] / 2)]:
            places["boxes"][places["tiles"] == tile] = [0, 0, right, size[1]]
        places["rows"][:] = places["columns"][:] = -1
        return places


@pytest.fixture
def placeless(bank: Bank, tiny: LanguageModel) -> Reading:
    return read_image(bank, Placeless(tiny), picture(), [0, 2], top_k=2)


@pytest.fixture
def mixing(bank: Bank, tiny: LanguageModel) -> Reading:
    return read_image(bank, Mixing(tiny, tiles=2), picture(), [0], top_k=2)


def words(reading: Reading, layer: int = 0) -> list[str]:
    return [token.neighbors[0].word for token in reading.at(layer)]


def test_a_token_without_a_place_has_none_in_json_and_tables(placeless: Reading, tmp_path: Path) -> None:
    data = json.loads(json.dumps(placeless.to_dict(), allow_nan=False))
    assert data["geometry"] == WHY
    assert [token["label"] for token in data["tokens"]] == [str(number) for number in range(6)] * 2
    assert all((t["tile"], t["row"], t["column"], t["box"]) == (0, None, None, None) for t in data["tokens"])
    frame = placeless.to_pandas()
    assert frame[["row", "column", "left", "top", "right", "bottom"]].isna().all(axis=None)
    picture().save(tmp_path / "a.png")
    (image,) = find_images([tmp_path / "a.png"])
    table = pandas.read_parquet(ReadingFolder(tmp_path / "out", {}).write(image, placeless))
    assert table[["row", "column", "left"]].isna().all(axis=None)
    assert table["word"].tolist() == frame["word"].tolist()


def test_a_token_of_a_mixed_crop_has_the_crop_as_its_box(mixing: Reading) -> None:
    tokens = mixing.to_dict()["tokens"]
    assert [(t["tile"], t["row"], t["column"]) for t in tokens] == [(0, -1, -1)] * 6 + [(1, -1, -1)] * 6
    assert [t["box"] for t in tokens] == [[0, 0, 30, 20]] * 6 + [[0, 0, 15, 20]] * 6


def test_the_geometry_of_an_image_comes_before_its_models(bank: Bank, tiny: LanguageModel) -> None:
    class One(PatchVLM):
        def _places(self, size: tuple[int, int]) -> dict[str, Any]:
            return {**super()._places(size), "geometry": "unknown, this image"}

    assert read_image(bank, One(tiny), picture(), 0).geometry == "unknown, this image"
    assert VisualTokens({}, *[np.zeros(0)] * 4, (1, 1)).geometry is None


def test_there_is_no_grid(placeless: Reading, mixing: Reading) -> None:
    assert placeless.tiles == mixing.tiles == []
    for reading in (placeless, mixing):
        for read in (lambda r=reading: r.grid(0), lambda r=reading: r.plot(0)):
            with pytest.raises(QueryError, match=r"No token of .* reading has a place in a grid \(boxes: "):
                read()


def test_words_stand_in_the_order_of_tokens(
    placeless: Reading, mixing: Reading, capsys: pytest.CaptureFixture[str]
) -> None:
    heading, *lines = grid_lines(placeless)[: len(grid_lines(placeless)) // 2]
    assert heading == "latent lens, visual layer 0, 6 tokens without a place in the image"
    assert " ".join(lines).split() == words(placeless)
    assert "6 tokens that each see all of tile 1" in "\n".join(grid_lines(mixing))
    show_grids(placeless)
    assert f"boxes: {WHY}" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("size", [(30, 20), (1, 900), (900, 1)])
def test_pictures_show_the_image_and_below_it_the_words(
    bank: Bank, tiny: LanguageModel, tmp_path: Path, size: tuple[int, int]
) -> None:
    reading = read_image(bank, Placeless(tiny), picture(0, size), [0, 2])
    page = draw_reading(reading)
    assert page.height <= 2 * 2600
    panel = np.asarray(draw_reading(reading, layers=[0]))
    assert (panel[-26 - 10 : -10] < 128).any()  # the words
    with Image.open(save_reading(reading, tmp_path / "page.png")) as saved:
        assert saved.size == page.size
    with pytest.raises(QueryError, match="has a place in a grid"):
        draw_reading(reading, tile=1)


def test_words_below_an_image_are_not_cut(placeless: Reading) -> None:
    token = placeless.tokens[0]
    words = [Neighbor(word, word, 0.5) for word in ["extraordinarily"] * 400]
    many = tuple(replace(token, index=n, neighbors=(word,)) for n, word in enumerate(words))
    page = np.asarray(draw_reading(replace(placeless, tokens=many, layers=(0,))))
    below = page[-13 * 26 : -10, 10:-10]
    assert (below[:, -6:] == 255).all()
    assert (below < 128).any(axis=(1, 2)).sum() > 12 * 8


def test_a_page_has_tokens_without_boxes(placeless: Reading, mixing: Reading) -> None:
    page_json(placeless)  # there is no NaN in it
    assert page_data(placeless)["tokens"][5] == ["5", 0, -1, -1]
    assert page_data(mixing)["tokens"][6] == ["6", 1, -1, -1, 0.0, 0.0, 15.0, 20.0]


def test_scenes_cannot_be_scored(tiny: LanguageModel) -> None:
    with pytest.raises(ModelError, match=r"no place in a grid \(boxes: unknown, new: there are no rules"):
        grid_of(Placeless(tiny))
