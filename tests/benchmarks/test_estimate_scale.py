"""The tables of docs/scale.md are up to date."""

from __future__ import annotations

import pytest

from benchmarks import estimate_scale


def test_the_tables_are_those_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = estimate_scale.DOCUMENT.read_text(encoding="utf-8")
    assert estimate_scale.updated(text) == text, "run `python -m benchmarks.estimate_scale`"
    # A change in any of the tables is noticed.
    for name in estimate_scale.TABLES:
        monkeypatch.setitem(estimate_scale.TABLES, name, lambda: "| other |")
        assert estimate_scale.updated(text).count("| other |") == 1
        monkeypatch.undo()


def test_a_document_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="has 0 places for the table 'scenarios'"):
        estimate_scale.updated("nothing")
