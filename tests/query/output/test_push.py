"""Readings pushed to a hub, over a real socket."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from latentbank.errors import LatentBankError
from latentbank.models.vision.sources import ImageSource
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.output.push import prepare_readings, push_readings
from latentbank.query.output.stored import open_stored
from tests.hub import HubDouble, serving, use
from tests.query.web.readings import reading_of

ID = "lab/readings"
SETTINGS = {
    "model": "patch-vlm",
    "lenses": ["latent"],
    "visual_layers": [0, 2],
    "bank": "c",
    "bank_layers": [8],
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with serving() as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        yield hub


def write(folder: Path, *names: str) -> ReadingFolder:
    """Write a reading of each image into a folder."""
    readings = ReadingFolder(folder, SETTINGS)
    for name in names:
        readings.write(ImageSource(name, name, Path(name)), replace(reading_of(), source=name))
    return readings


def test_readings_are_pushed_without_paths(hub: HubDouble, tmp_path: Path) -> None:
    out, private = tmp_path / "out", "/home/somebody/photos/cat.jpg"
    write(out, private, "dog.jpg")
    pushed = push_readings(out, prepare_readings(ID))
    stored = hub.repositories["datasets", ID]
    assert (pushed.private, pushed.files) == (True, 3)
    tables = [
        pq.read_table(io.BytesIO(data)) for name, data in stored.files.items() if name.endswith(".parquet")
    ]
    assert {name for table in tables for name in table["source"].to_pylist()} == {"cat.jpg", "dog.jpg"}
    assert not any(b"somebody" in data for data in stored.files.values())
    assert any(
        private in str(pq.read_table(path)["source"]) for path in out.glob("*.parquet")
    )  # ours keep it
    card = stored.files["README.md"].decode()
    for word in ("patch-vlm", "c, layers 8", "| images | 2 |", "data_files: '*.parquet'", "2602.00462"):
        assert word in card
    back = tmp_path / "back"
    back.mkdir()
    for name, data in stored.files.items():
        (back / name).write_bytes(data)
    assert {open_stored(path).head["source"] for path in back.glob("*.parquet")} == {"cat.jpg", "dog.jpg"}


def test_more_readings_are_added(hub: HubDouble, tmp_path: Path) -> None:
    write(tmp_path / "one", "a.jpg")
    push_readings(tmp_path / "one", prepare_readings(ID))
    write(tmp_path / "two", "b.jpg")
    push_readings(tmp_path / "two", prepare_readings(ID))
    files = hub.repositories["datasets", ID].files
    assert len([name for name in files if name.endswith(".parquet")]) == 2
    assert "| images | 2 |" in files["README.md"].decode()


def test_readings_that_cannot_be_pushed(hub: HubDouble, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    with pytest.raises(LatentBankError, match="has no readings to push"):
        push_readings(out, prepare_readings(ID))
    write(out, "a.jpg")
    push_readings(out, prepare_readings(ID))
    (out / "_settings.json").write_text(json.dumps({**SETTINGS, "visual_layers": [4]}))
    with pytest.raises(
        LatentBankError, match=r"another visual_layers \(\[0, 2\], not \[4\]\); choose another rep"
    ):
        push_readings(out, prepare_readings(ID))
    with pytest.raises(LatentBankError, match="'readings' is no repository on the hub"):
        prepare_readings("readings")
