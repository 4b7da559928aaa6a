"""The embedded engine's queries: converted once for all layers, and never those of an earlier search."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge

from latentbank.bank.opening import create_bank
from latentbank.bank.search import QUERY_BATCH
from latentbank.bank.store.embedded import queries as module
from latentbank.bank.store.embedded.queries import EngineQueries
from tests.bank.samples import ids, payload


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Return the queries that were converted, in order."""
    found: list[list[float]] = []

    def nearest(row: list[float]) -> Any:
        found.append(row)
        return edge.Query.Nearest(row)

    monkeypatch.setattr(module, "edge", SimpleNamespace(Query=SimpleNamespace(Nearest=nearest)))
    return found


def test_the_same_queries_are_converted_once(converted: list[list[float]]) -> None:
    kept, rows = EngineQueries(), np.eye(3, dtype=np.float32)
    first = kept.of(rows)
    assert kept.of(rows.copy()) is first
    assert converted == np.eye(3).tolist()


def test_others_are_converted_anew(converted: list[list[float]]) -> None:
    kept, rows = EngineQueries(), np.eye(3, dtype=np.float32)
    kept.of(rows)
    kept.of(rows[:2])
    rows[0] = [0, 0, 1]  # the caller's array has changed
    kept.of(rows[:2])
    assert converted == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_a_search_converts_each_query_once_for_all_layers(
    converted: list[list[float]], tmp_path: Path
) -> None:
    states = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)
    queries = np.random.default_rng(2).standard_normal((2 * QUERY_BATCH + 5, 8)).astype(np.float32)
    with create_bank(
        "bank",
        layers=[1, 2, 3],
        model="m",
        fingerprint="f00d",
        num_layers=4,
        hidden_size=8,
        data_dir=tmp_path,
    ) as bank:
        for layer in (1, 2, 3):
            bank.add(layer, ids(range(20)), states * layer, [payload(number) for number in range(20)])
        bank.commit()
        found = bank.search(queries, [1, 2, 3], 2, search="graph")
        assert len(converted) == len(queries)
        exact = bank.search(queries, [1, 2, 3], 2, search="exact")
    assert [[n.id for n in row] for row in found] == [[n.id for n in row] for row in exact]
