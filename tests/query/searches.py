"""Searches of a bank, watched or held up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from latentbank.bank.bank import Bank


def candidates_asked_for(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Give a list that grows by each search's candidates in a graph, `ef`."""
    asked: list[int | None] = []
    search = bank.store.search

    def spy(*given: Any) -> Any:
        asked.append(given[-1])
        return search(*given)

    monkeypatch.setattr(bank.store, "search", spy)
    return asked


def hold_second_layer(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let an image's second visual layer be searched only once the event is set."""
    go, search, searched = threading.Event(), bank.store.search, []

    def held(layer: int, *given: Any) -> Any:
        searched.append(layer)
        if len(searched) > len(bank.choose_layers("mid")):
            assert go.wait(20)
        return search(layer, *given)

    monkeypatch.setattr(bank.store, "search", held)
    return go
