"""Filters on a server whose graphs have no links of payload indexes."""

from __future__ import annotations

import numpy as np
import pytest

from latentbank.bank.store.backends import backend
from latentbank.bank.where import Where
from tests.bank.samples import HEAD, WIDTH, nearest, points, put_head, units
from tests.bank.servers import settings
from tests.wire.double import QdrantDouble


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_what_a_filter_selects_is_found_in_a_graph(
    shared: QdrantDouble, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One context in six, in a graph: without ACORN a search finds two of three of the nearest, or fewer."""
    monkeypatch.setattr("latentbank.bank.store.server.indexing.scan_for", lambda *_: 10)
    given, word, count = points(6000), "fire", 5
    store = backend(settings(shared, transport, graph_from=1000)).open("bank")
    store.create(4, WIDTH, "int8")
    put_head(store, HEAD)
    store.upsert(4, given)
    store.index(4)
    selected = np.array([row for row, one in enumerate(given.payloads) if one["word"] == word])
    queries = units(40, seed=9)
    found = store.search(4, queries, count, Where(word=word), ef=64)
    order, _ = nearest(given.vectors[selected], queries, count)
    expected = [{given.ids[row] for row in selected[best]} for best in order]
    right = sum(len({hit.id for hit in hits} & best) for hits, best in zip(found, expected, strict=True))
    assert right / (count * len(queries)) > 0.97
    store.close()
