"""How a server is asked for the payloads of what a search finds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from latentbank.bank.store.server.store import ServerStore
from tests.bank.samples import Place, fill, sample_bank, units
from tests.bank.servers import settings
from tests.wire.double import QdrantDouble


@pytest.mark.parametrize("unique", [None, "context", "word"])
@pytest.mark.parametrize(("rows", "requests"), [(1, 0), (10, 0), (11, 2), (60, 2)])
def test_those_of_few_hits_come_with_them(
    shared: QdrantDouble, rows: int, requests: int, unique: Any
) -> None:
    """A hundred hits: ten queries, two layers, five neighbors of each."""
    queries = units(rows, seed=3)
    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 30)
        shared.requests.clear()
        found = bank.search(queries, [4, 8], 5, unique=unique)
        asked = [request.operation for request in shared.requests]
        assert asked.count("query_batch") == 2 or unique == "word"
        assert asked.count("retrieve") == (0 if unique == "word" else requests)
        alone = [bank.search(query, [4, 8], 5, unique=unique)[0] for query in queries]
    assert [[(one.id, one.caption) for one in row] for row in found] == [
        [(one.id, one.caption) for one in row] for row in alone
    ]


def test_those_of_several_layers_are_asked_for_side_by_side(
    shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, read = threading.Barrier(2, timeout=60), ServerStore.payloads

    def payloads(store: ServerStore, layer: int, ids: Sequence[str]) -> dict[str, Any]:
        both.wait()  # for the other layer's request; raises if there is none
        return read(store, layer, ids)

    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 30)
        monkeypatch.setattr(ServerStore, "payloads", payloads)
        found = bank.search(units(60, seed=3), [4, 8], 5)
    assert all(len(row) == 5 and all(one.caption for one in row) for row in found)
    assert {one.bank_layer for row in found for one in row} == {4, 8}
