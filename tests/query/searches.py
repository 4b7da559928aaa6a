"""Searches of a bank, recorded or blocked."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from latentbank.bank.bank import Bank


def record_candidates(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Return a list to which each search appends its `ef`, the candidates in a graph; no layer is scanned."""
    candidates: list[int | None] = []
    search = bank.store.search

    def spy(*given: Any) -> Any:
        candidates.append(given[-1])
        return search(*given)

    monkeypatch.setattr(bank.store, "search", spy)
    monkeypatch.setattr(bank.store, "work", lambda *_: None)
    return candidates


def block_second_layer(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event; the search of an image's second visual layer waits until it is set."""
    proceed, search, searched = threading.Event(), bank.store.scan, []

    def waiting(layer: int, *given: Any) -> Any:
        searched.append(layer)
        if len(searched) > len(bank.choose_layers("mid")):
            assert proceed.wait(600)
        return search(layer, *given)

    monkeypatch.setattr(bank.store, "scan", waiting)
    return proceed
