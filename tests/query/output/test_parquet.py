"""Readings in Parquet files: written atomically, and never with different settings in one folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest

from latentbank.bank.bank import Bank
from latentbank.errors import LatentBankError
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.sources import ImageSource, find_images
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.output.stored import open_stored, stored_files
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.visual import read_images
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.web.readings import reading_of

SETTINGS = {"model": "patch-vlm", "visual_layers": [0, 2], "where": [], "prompt": None}


@pytest.fixture
def reading(bank: Bank, tiny: LanguageModel) -> Reading:
    lenses = [LatentLens(bank), EmbeddingLens(tiny.embedding, tiny.tokenizer)]
    (made,) = read_images(PatchVLM(tiny), [picture()], lenses, [0, 2], top_k=2)
    return made


def test_files_read_back_as_one_table(reading: Reading, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / name)
    folder = ReadingFolder(tmp_path / "out", SETTINGS)
    images = list(find_images([tmp_path]))
    assert [folder.write(image, reading) for image in images] == [folder.path(image) for image in images]
    frame = pandas.read_parquet(tmp_path / "out")
    assert len(frame) == 2 * 2 * 2 * 6 * 2
    table = pandas.read_parquet(folder.path(images[0]))
    expected = reading.to_pandas()
    assert set(table.columns) == {"source", "start_second", "end_second", *expected.columns}
    for column in ("lens", "layer", "row", "column", "rank", "word", "caption", "token_id", "neighbor_id"):
        assert table[column].tolist() == expected[column].tolist()
    assert table["cosine"].tolist() == pytest.approx(expected["cosine"].tolist())
    head = json.loads(pq.read_schema(folder.path(images[0])).metadata[b"reading"])
    assert head["layers"] == [0, 2]
    assert head["geometry"] == "exact, 2 x 3 patches"
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".json", ".parquet", ".parquet"]


def test_a_folder_is_opened_again_with_the_same_settings_only(tmp_path: Path) -> None:
    ReadingFolder(tmp_path / "out", SETTINGS)
    ReadingFolder(tmp_path / "out", {**SETTINGS, "visual_layers": (0, 2)})
    with pytest.raises(LatentBankError, match=r"another visual_layers \(\[0, 2\], not \[0\]\)"):
        ReadingFolder(tmp_path / "out", {**SETTINGS, "visual_layers": [0]})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_settings.json"]
    (tmp_path / "out" / "_settings.json").write_text("{")
    with pytest.raises(LatentBankError, match="choose another folder"):
        ReadingFolder(tmp_path / "out", SETTINGS)


def test_other_layers_are_named_and_not_the_digest_that_follows_from_them(tmp_path: Path) -> None:
    ReadingFolder(tmp_path, {"weights": "f00d", "visual_layers": [8]})
    with pytest.raises(LatentBankError, match=r"another visual_layers \(\[8\], not \[0\]\)"):
        ReadingFolder(tmp_path, {"weights": "beef", "visual_layers": [0]})
    with pytest.raises(LatentBankError, match=r"another weights \(f00d, not beef\)"):
        ReadingFolder(tmp_path, {"weights": "beef", "visual_layers": [8]})


def test_a_name_that_is_not_utf_8_is_written_with_escapes(tmp_path: Path) -> None:
    reading = replace(reading_of(), source="caf\udce9.png")
    folder = ReadingFolder(tmp_path, {"model": "caf\udce9"})
    table = pq.read_table(folder.write(ImageSource(reading.source, reading.source, b""), reading))
    assert set(table["source"].to_pylist()) == {"caf\\udce9.png"}
    assert json.loads(table.schema.metadata[b"reading"])["source"] == reading.source
    ReadingFolder(tmp_path, {"model": "caf\udce9"})  # the same settings


def test_a_written_reading_is_read_back(reading: Reading, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (image,) = find_images([tmp_path / "a.png"])
    ReadingFolder(tmp_path / "out", SETTINGS).write(image, reading)
    (path,) = stored_files(tmp_path / "out")
    stored = open_stored(path)
    assert (stored.source, stored.model) == (reading.source, reading.model)
    for patch in reading.patches(2):
        assert patch.place is not None
        cell = stored.grid()[patch.place.row, patch.place.column]
        assert (cell.index, cell.box) == (patch.index, pytest.approx(patch.place.box))
        for (lens, layer), found in stored.neighbors(cell.index).items():
            (own,) = [token for token in reading.at(layer, lens) if token.index == cell.index]
            for kept, neighbor in zip(found, own.neighbors, strict=True):
                assert kept.cosine == pytest.approx(neighbor.cosine)
                assert replace(kept, cosine=0.0) == replace(neighbor, cosine=0.0)
    assert {lens for lens, _ in open_stored(path, ["embedding"]).neighbors(0)} == {"embedding"}


def test_a_silent_token_keeps_its_place_in_a_file(reading: Reading, tmp_path: Path) -> None:
    first, *others = reading.tokens
    silent = replace(first, neighbors=(), p_value=0.25, silent=True)
    quiet = replace(reading, tokens=(silent, *others), fdr=0.05)
    picture().save(tmp_path / "a.png")
    (image,) = find_images([tmp_path / "a.png"])
    path = ReadingFolder(tmp_path / "out", SETTINGS).write(image, quiet)
    stored = open_stored(path)
    assert stored.head["fdr"] == 0.05
    assert (
        stored.grid() == open_stored(ReadingFolder(tmp_path / "all", SETTINGS).write(image, reading)).grid()
    )
    found = stored.neighbors(first.index)
    assert found[first.lens, first.layer] == ()
    assert all(neighbors for key, neighbors in found.items() if key != (first.lens, first.layer))
    frame = pandas.read_parquet(path)
    assert frame["silent"].sum() == 1
    (row,) = frame[frame["silent"]].to_dict("records")
    assert row["p_value"] == 0.25
    assert pandas.isna(row["word"])


def test_corrected_scores_are_kept_and_files_without_them_are_read(tmp_path: Path) -> None:
    plain = reading_of(layers=(8,), lenses=("latent",))
    ranked = tuple(replace(neighbor, corrected=0.25) for neighbor in plain.tokens[0].neighbors)
    reading = replace(
        plain, correction="both", tokens=(replace(plain.tokens[0], neighbors=ranked), *plain.tokens[1:])
    )
    path = ReadingFolder(tmp_path, SETTINGS).write(ImageSource("a.png", "a", b""), reading)
    stored = open_stored(path)
    assert stored.head["correction"] == "both"
    assert [neighbor.score for neighbor in stored.neighbors(0)["latent", 8]] == [0.25, 0.25]
    assert [neighbor.score for neighbor in ranked] == [0.25, 0.25]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["corrected"]), path)
    assert stored_files(tmp_path) == [path]
    assert {neighbor.corrected for neighbor in open_stored(path).neighbors(0)["latent", 8]} == {None}
