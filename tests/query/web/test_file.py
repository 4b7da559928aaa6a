"""The page as one file: self-contained, and safe against hostile captions."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from latentbank.bank.bank import Bank
from latentbank.errors import LatentBankError
from latentbank.models.language.model import LanguageModel
from latentbank.query.reading.text import read_text
from latentbank.query.web.file import framed, reading_html, save_html
from tests.query.web.readings import HOSTILE, reading_of


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of those that hold any."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.elements[-1][0], data))

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def test_nothing_comes_from_outside() -> None:
    page = Page(reading_html(reading_of()))
    assert {"main", "h1"} <= {tag for tag, _ in page.elements}
    assert not {"img", "link", "a", "iframe", "base"} & {tag for tag, _ in page.elements}
    assert not [attrs for _, attrs in page.elements if {"src", "href", "style"} & attrs.keys()]
    data, script = page.text_of("script")
    assert json.loads(data)["source"] == "a photo.png"
    assert not re.search(r"^\s*(import|export)\b", script, flags=re.MULTILINE)
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)|fetch\(|innerHTML|url\(", script + page.text_of("style")[0]
    )


def test_the_policy_names_the_script_and_the_style_by_their_hashes() -> None:
    page = Page(reading_html(reading_of()))
    (policy,) = (attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv"))
    assert policy is not None
    _, script = page.text_of("script")
    (style,) = page.text_of("style")
    for kind, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_hostile_names_and_captions_stay_text() -> None:
    page = Page(reading_html(reading_of(captions=(HOSTILE,), source=HOSTILE)))
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert page.text_of("title")[0].startswith(HOSTILE)
    data, script = page.text_of("script")
    assert HOSTILE in json.loads(data)["captions"]
    assert "onerror" not in script


def test_a_notebook_shows_the_page_in_a_frame_that_cannot_reach_it(bank: Bank, tiny: LanguageModel) -> None:
    reading = reading_of(source=HOSTILE)
    shown = reading._repr_html_()
    assert shown == framed(reading)
    ((tag, attrs),) = Page(shown).elements
    assert (tag, attrs["sandbox"]) == ("iframe", "allow-scripts")
    assert attrs["srcdoc"] == reading_html(reading)
    assert html.escape(HOSTILE) not in shown.replace(html.escape(html.escape(HOSTILE)), "").split("srcdoc")[1]
    assert reading_of(image=False)._repr_html_() is None
    text = read_text(bank, tiny, "The dog chased a cat.")._repr_html_()
    assert text is not None
    assert "The dog chased a cat." in text


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    reading = reading_of(source="a\udcff.png")  # a file name that is not UTF-8
    path = save_html(reading, tmp_path / "new" / "out.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["out.html"]
    with pytest.raises(LatentBankError, match="cannot be written"):
        save_html(reading, path / "below.html")
