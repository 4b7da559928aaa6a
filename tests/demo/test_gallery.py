"""The gallery: one file that needs no network, and the same readings as a page of the docs."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from latentbank.bank.points import Neighbor
from latentbank.demo.gallery import Entry, best_layer, told_words, words_of, write_gallery
from latentbank.query.reading.reading import Reading, TokenReading

DOCS = Path(__file__).parents[2] / "docs"


def _token(index: int, layer: int, *words: str) -> TokenReading:
    return TokenReading(index, f"0,{index}", layer, 1.0, tuple(Neighbor(word, word, 0.5) for word in words))


def test_words_are_told_as_they_are() -> None:
    tokens = [_token(0, 8, "cat", "dog"), _token(1, 8, "Cat"), _token(2, 8), _token(3, 8, "sun")]
    assert told_words(tokens) == "“cat” on 2, “sun” on 1"
    assert told_words(tokens[2:3]) == "no word at all"
    assert words_of(tokens)[:2] == [("row and column 0,0", "cat, dog"), ("row and column 0,1", "Cat")]
    silent = [_token(number, 0, "cat") if number == 0 else _token(number, 0) for number in range(4)]
    reading = Reading("x", "b", "m", ("latent",), (), (0, 8), (*silent, *tokens))
    assert best_layer(reading) == 8


def test_a_gallery(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2000, 50))
    entries = [
        Entry(name, f"<{name}>", "What one sees.", picture, "Nothing & all", "latentbank x", [("1", "<b>")])
        for name in ("first", "second")
    ]  # fmt: skip
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "of-before.jpg").write_bytes(b"")
    write_gallery(entries, "About.", tmp_path)
    page = (tmp_path / "gallery" / "all.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == page.count('alt="Nothing &amp; all"') == 2
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<b>|<first>", page)
    text = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert "![Nothing & all](gallery/first.jpg)" in text
    assert sorted(file.name for file in (tmp_path / "gallery").iterdir()) == [
        "all.html",
        "first.jpg",
        "second.jpg",
    ]
    assert Image.open(tmp_path / "gallery" / "first.jpg").width == 1100


def test_the_gallery_of_the_docs_is_ten_readings_and_small() -> None:
    page = DOCS / "gallery" / "all.html"
    assert page.stat().st_size < 3_000_000
    names = re.findall(r'<figure id="([\w-]+)">', page.read_text(encoding="utf-8"))
    assert len(names) == 10
    assert {f"{name}.jpg" for name in names} == {file.name for file in (DOCS / "gallery").glob("*.jpg")}
