"""Parts of speech by spaCy, of which a double stands here: it is not needed otherwise."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from latentbank.query.reproduction import speech

POS = {"dog": "NOUN", "Rex": "PROPN", "is": "AUX", "un": "ADV", "happy": "ADJ", "-": "PUNCT", "ah": "INTJ"}


def pipe(words: list[str]) -> Any:
    for word in words:
        parts = word.replace("-", " - ").split() if word != "-" else ["-"]
        yield [SimpleNamespace(pos_=POS[part], is_punct=part == "-", is_space=False) for part in parts]


def test_words_are_tagged_by_their_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str, **_: Any) -> Any:
        loaded.append(name)
        return SimpleNamespace(pipe=pipe)

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    tag = speech.tagger()
    assert tag is not None
    assert tag(["dog", "Rex", "is", "un-happy", "ah", "-"]) == [
        "noun", "proper noun", "verb", "adjective", "other", "other"
    ]  # fmt: skip
    assert loaded == [speech.MODEL]


def test_without_spacy_there_is_no_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert speech.tagger() is None
