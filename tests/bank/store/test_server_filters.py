"""Filters on a server whose graphs have no links of payload indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentbank.bank.store.backends import backend
from latentbank.bank.store.graphs import kib
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


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("added", [900, 1100, 4000], ids=["little", "half", "much"])
def test_a_corpus_that_is_added_to_a_graph_is_found(
    shared: QdrantDouble, transport: str, added: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is scanned, or the graph is built anew: a server finds nothing of it in a graph that it has continued."""
    monkeypatch.setattr("latentbank.bank.store.graphs.LEAST_SCAN", 10)
    store: Any = backend(settings(shared, transport, graph_from=1000)).open("bank")
    store.create(4, WIDTH, "int8")
    put_head(store, HEAD)
    store.upsert(4, points(2000))
    store.index(4)
    first = store._server.rest.get_collection("bank--L04").config.hnsw_config
    given = points(added, "plants", seed=1)
    store.upsert(4, given)
    store.index(4)
    now = store._server.rest.get_collection("bank--L04").config.hnsw_config
    assert (now.ef_construct != first.ef_construct) == (added > 1000)
    assert now.full_scan_threshold == kib((2000 + added if added > 1000 else 2000) // 2, WIDTH)
    queries = units(20, seed=9)
    found = store.search(4, queries, 5, Where(corpus="plants"))
    order, _ = nearest(given.vectors, queries, 5)
    expected = [{given.ids[row] for row in best} for best in order]
    right = sum(len({hit.id for hit in hits} & best) for hits, best in zip(found, expected, strict=True))
    assert right / 100 > 0.95
    store.close()
