"""Reading image-caption pairs: folders with metadata.jsonl, Parquet, datasets, web addresses, and bad input."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from latentbank.errors import CorpusError
from latentbank.models.training.pairs import Pair, Skipped, open_pairs

COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def png(colour: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "png")
    return data.getvalue()


def captions_of(source: Any) -> list[Any]:
    """Return captions with the colour of their image, and the reasons of skipped rows."""
    return [
        (entry.caption, entry.image.getpixel((0, 0))) if isinstance(entry, Pair) else entry.reason
        for entry in source
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder: the second image is truncated, the third has no caption, the fourth is missing."""
    for number, colour in enumerate(COLOURS):
        (tmp_path / f"{number}.png").write_bytes(png(colour))
    (tmp_path / "1.png").write_bytes(png(COLOURS[1])[:40])
    rows = [
        {"file_name": "0.png", "text": "red"},
        {"file_name": "1.png", "text": "green"},
        {"file_name": "2.png", "text": " "},
        {"file_name": "3.png", "text": "nothing"},
        {"file_name": "2.png", "text": "blue"},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_folder_with_metadata(folder: Path) -> None:
    source = open_pairs(str(folder))
    expected = [("red", COLOURS[0]), "broken image", "no caption", "broken image", ("blue", COLOURS[2])]
    assert captions_of(source) == expected
    assert captions_of(source) == expected  # again, in the same order
    assert captions_of(open_pairs(str(folder), limit=2)) == expected[:2]
    before = source.data
    assert open_pairs(str(folder)).data == before
    assert open_pairs(str(folder), limit=2).data != before
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "0.png", "text": "red again"}\n')
    assert open_pairs(str(folder)).data != before


def test_a_split_of_a_folder(folder: Path) -> None:
    inner = folder / "val"
    inner.mkdir()
    (inner / "a.png").write_bytes(png(COLOURS[0]))
    (inner / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "held"}')
    (folder / "metadata.jsonl").unlink()
    assert captions_of(open_pairs(str(folder), split="val")) == [("held", COLOURS[0])]


def parquet(path: Path, rows: dict[str, list[Any]], image: bool = True) -> str:
    dataset = datasets.Dataset.from_dict(rows)
    if image:
        dataset = dataset.cast_column("image", datasets.Image())
    dataset.to_parquet(str(path))
    return str(path)


@pytest.mark.parametrize("whole", [False, True])
def test_parquet_with_pictures_in_it(tmp_path: Path, whole: bool) -> None:
    images = [{"bytes": png(COLOURS[0]), "path": None}, {"bytes": b"no image", "path": None}, None]
    rows = {"id": [1, 2, 3], "image": images, "caption": ["red", "green", "blue"]}
    file = parquet(tmp_path / "pairs.parquet", rows)
    source = open_pairs(str(tmp_path) if whole else file)
    assert captions_of(source) == [("red", COLOURS[0]), "broken image", "broken image"]
    before = source.data
    parquet(tmp_path / "pairs.parquet", {**rows, "caption": ["rot", "grün", "blau"]})
    assert open_pairs(str(tmp_path) if whole else file).data != before


def test_several_captions_share_an_image(tmp_path: Path) -> None:
    images = [{"bytes": png(COLOURS[0]), "path": None}, {"bytes": png(COLOURS[1]), "path": None}]
    rows = {"image": images, "captions": [["red", "a red field"], []]}
    pairs = list(open_pairs(parquet(tmp_path / "pairs.parquet", rows)))
    assert [pair.caption for pair in pairs if isinstance(pair, Pair)] == ["red", "a red field"]
    assert pairs[0].image is pairs[1].image  # type: ignore[union-attr]  # both are pairs
    assert pairs[2] == Skipped("no caption")


def test_neighboring_rows_of_one_file_share_its_image(folder: Path) -> None:
    rows = [("0.png", "red"), ("0.png", "a red field"), ("2.png", "blue"), ("1.png", "x"), ("1.png", "y")]
    lines = [json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows]
    (folder / "metadata.jsonl").write_text("".join(lines))
    entries = list(open_pairs(str(folder)))
    images = [entry.image for entry in entries if isinstance(entry, Pair)]
    assert images[0] is images[1]
    assert images[1] is not images[2]
    assert captions_of(entries)[3:] == ["broken image"] * 2


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/red.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png(COLOURS[0]))
        else:
            self.send_error(404)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Pictures) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_images_by_address_as_in_pixmo_cap(tmp_path: Path, server: str) -> None:
    addresses = [f"{server}/red.png", f"{server}/gone.png", "http://127.0.0.1:9/nobody", "http://[broken"]
    rows = {
        "image_url": addresses,
        "caption": ["red", "gone", "nobody", "broken"],
        "transcripts": [["x"]] * 4,
    }
    source = open_pairs(parquet(tmp_path / "pixmo.parquet", rows, image=False))
    assert captions_of(source) == [("red", COLOURS[0]), *["broken image"] * 3]


def test_columns_may_be_named(tmp_path: Path) -> None:
    rows = {"a": [str(tmp_path / "0.png")], "b": ["one"], "c": ["two"]}
    (tmp_path / "0.png").write_bytes(png(COLOURS[0]))
    file = parquet(tmp_path / "pairs.parquet", rows, image=False)
    assert captions_of(open_pairs(file, image="a", caption="c")) == [("two", COLOURS[0])]
    with pytest.raises(CorpusError, match=r"no column of images.*a, b, c"):
        open_pairs(file)
    with pytest.raises(CorpusError, match="no column of captions") as caught:
        open_pairs(file, image="a")
    assert caught.value.argument == "caption"
    with pytest.raises(CorpusError, match="no column 'd'"):
        open_pairs(file, image="a", caption="d")


def test_a_column_of_captions_that_is_empty_at_first(folder: Path) -> None:
    rows = [{"file_name": "0.png", "caption": None, "url": "http://x"}] * 100
    rows.append({"file_name": "0.png", "caption": "red", "url": "http://x"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    *missing, last = captions_of(open_pairs(str(folder)))
    assert missing == ["no caption"] * 100
    assert last == ("red", COLOURS[0])
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "page_url": "http://x", "doc_id": "a"}\n')
    with pytest.raises(CorpusError, match="no column of captions"):
        open_pairs(str(folder))


def test_data_without_captions(tmp_path: Path) -> None:
    images = [{"bytes": png(COLOURS[0]), "path": None}]
    with pytest.raises(CorpusError, match="no column of captions"):
        open_pairs(parquet(tmp_path / "pairs.parquet", {"image": images, "label": [3]}))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": 3}\n')
    with pytest.raises(CorpusError, match="no column of captions"):
        open_pairs(str(tmp_path))


def test_sources_that_hold_no_pairs(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(CorpusError, match="empty"):
        open_pairs(str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\nnot JSON\n')
    with pytest.raises(CorpusError, match="JSON"):
        open_pairs(str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n{"text": "b"}\n')
    with pytest.raises(CorpusError, match="line 2"):
        list(open_pairs(str(tmp_path)))
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(CorpusError, match="cannot be read"):
        open_pairs(str(tmp_path / "pairs.parquet"))
    (tmp_path / "pairs.csv").write_text("a,b\n")
    with pytest.raises(CorpusError, match="not a Parquet file"):
        open_pairs(str(tmp_path / "pairs.csv"))
    with pytest.raises(CorpusError, match="cannot be read"):
        open_pairs("nobody/has-this-dataset")
