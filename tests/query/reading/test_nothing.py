"""Readings that find nothing say why: in Python, as JSON, in tables and on the page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.nothing import why_nothing
from latentbank.bank.opening import open_bank
from latentbank.bank.where import Filter, Where
from latentbank.cli.output.readings import show_grids, show_reading
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.evaluation.evaluate import evaluate
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.text import read_text
from latentbank.query.reading.visual import read_image
from latentbank.query.web.data import page_data
from tests.query.patch_vlm import PatchVLM, picture


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (Where(corpus="nosuch"), "The bank 'small' has no corpus nosuch; it has first, second."),
        (
            Where(word="dog") & Where(corpus=["a", "b"]),
            "The bank 'small' has no corpus a, b; it has first, second.",
        ),
        (
            Where(word="=bank"),
            "No context has the word '=bank'; words are compared letter by letter, and there is 'bank'.",
        ),
        (
            Where(word="DOG"),
            "No context has the word 'DOG'; words are compared letter by letter, and there is 'dog'.",
        ),
        (Where(word=["zebra", "gnu"]), "No context has the word 'zebra' or 'gnu'."),
        (Where(word="dog", sentence=999), "No context has the sentence 999."),
        (Where(position_min=500), "No context has a position of at least 500."),
        (Where(caption_contains="pink zebra"), "No context has a caption that contains 'pink zebra'."),
        (~Where(corpus=["first", "second"]), "No context passes the filter."),
        (
            Where(word="apple") & Where(corpus="second"),
            "No context passes all conditions of the filter at once.",
        ),
        (Where(word="dog"), ""),
        (None, ""),
    ],
)
def test_the_condition_that_selects_nothing_is_named(bank: Bank, where: Filter | None, reason: str) -> None:
    assert why_nothing(bank, where) == reason


def test_a_bank_without_complete_corpora_says_so(
    filled_dir: Path, tiny: LanguageModel, tmp_path: Path
) -> None:
    shutil.copytree(filled_dir / "small", tmp_path / "small")
    with open_bank("small", data_dir=tmp_path, url="") as bank:
        bank.record(replace(bank.corpora["first"], complete=False))
        assert why_nothing(bank, Where(corpus="first")).startswith("The corpus first is not complete")
        bank.record(replace(bank.corpora["second"], complete=False))
        reading = read_text(bank, tiny, "A dog.")
        assert not any(token.neighbors for token in reading.tokens)
        assert reading.note.startswith("The bank 'small' holds no complete corpus")
        assert "first, second" in reading.note
        bank.drop_corpus("first")
        bank.drop_corpus("second")
        assert why_nothing(bank, None) == "The bank 'small' holds no corpus yet; ingest one first."
    with open_bank("small", data_dir=tmp_path, url="", include_incomplete=True) as bank:
        assert why_nothing(bank, None)


def test_the_reason_stands_wherever_a_reading_is_shown(
    bank: Bank, tiny: LanguageModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    nothing = Where(corpus="nosuch")
    text = read_text(bank, tiny, "A dog.", where=nothing)
    image = read_image(bank, PatchVLM(tiny), picture(), [0], where=nothing)
    for reading in (text, image):
        assert reading.note == "The bank 'small' has no corpus nosuch; it has first, second."
        assert reading.note in repr(reading)
        assert reading.to_dict()["note"] == page_data(reading)["note"] == reading.note
    show_reading(text)
    assert capsys.readouterr().out.strip() == text.note  # no table without a row
    show_grids(image)
    assert image.note in capsys.readouterr().out
    show_reading(text, as_json=True)
    assert json.loads(capsys.readouterr().out)["note"] == text.note
    assert read_text(bank, tiny, "A dog.").note == ""


def test_nothing_is_not_scored(bank: Bank, tiny: LanguageModel) -> None:
    with pytest.raises(
        QueryError, match="LatentLens has nothing to find: The bank 'small' has no corpus nosuch"
    ):
        evaluate(PatchVLM(tiny), [LatentLens(bank, where=Where(corpus="nosuch"))], [], [0])
