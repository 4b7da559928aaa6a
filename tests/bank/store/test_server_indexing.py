"""Indexing on a server: waiting for what was requested, also while other jobs load the same layer."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Store
from latentbank.bank.store.graphs import kib
from latentbank.bank.where import Where
from latentbank.errors import BankUnavailable
from tests.bank.samples import HEAD, WIDTH, is_one_sentence, nearest, points, put_head, units
from tests.bank.servers import Doubles, settings
from tests.wire.double import QdrantDouble

LAYER = "bank--L04"
MANY = 200
INDEXING = "latentbank.bank.store.server.indexing"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the seconds between looks at a collection, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(f"{INDEXING}.time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def shared(double: Doubles) -> QdrantDouble:
    """A server whose nodes learn of changes at once, so that the values of the threshold can be listed."""
    return double(lag=0)


@pytest.fixture
def store(shared: QdrantDouble) -> Iterator[Store]:
    """A store whose layer 4 holds contexts that are not indexed."""
    opened = backend(settings(shared, "rest")).open("bank")
    load(opened)
    shared.requests.clear()
    yield opened
    opened.close()


@pytest.fixture
def other(shared: QdrantDouble) -> Iterator[Store]:
    """Another job's store of the same bank."""
    opened = backend(settings(shared, "rest")).open("bank")
    yield opened
    opened.close()


def load(store: Store) -> None:
    store.create(4, WIDTH, "int8")
    put_head(store, HEAD)
    store.upsert(4, points(MANY))


def thresholds(server: QdrantDouble) -> list[int]:
    """Return the values that the threshold was set to, in order."""
    return [change["optimizers_config"]["indexing_threshold"] for change in changes(server)]


def changes(server: QdrantDouble) -> list[dict[str, Any]]:
    """Return the changes of the layer's parameters."""
    made = [item.summary for item in server.requests if item.operation == "update_collection"]
    return [change for change in made if "optimizers_config" in change]


def unindexed(store: Store) -> int:
    state = store.info(4)
    return state.points - state.indexed


@pytest.mark.parametrize("graph_from", [1, 60_000], ids=["graph", "scan"])
@pytest.mark.parametrize("late", [0, 1, 5])
def test_a_layer_is_indexed_when_index_returns(shared: QdrantDouble, late: int, graph_from: int) -> None:
    """Also if the server looks green for some time, because its optimizers have not seen the change."""
    store = backend(settings(shared, "rest", graph_from=graph_from)).open("bank")
    load(store)
    shared.optimizers(LAYER).late = late
    store.index(4)
    assert unindexed(store) == 0
    assert thresholds(shared)[-1] == 1
    store.close()


def test_a_first_graph_scans_what_is_half_of_a_segment(
    shared: QdrantDouble, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would build a graph anew with another limit, so a layer keeps that of its graph."""
    monkeypatch.setattr("latentbank.bank.store.graphs.LEAST_SCAN", 10)
    store.index(4)
    store.upsert(4, points(1000))
    segments = store._server.rest.get_collection(LAYER).segments_count  # type: ignore[attr-defined]
    with_graph = backend(settings(shared, "rest", graph_from=1000)).open("bank")
    with_graph.index(4)
    with_graph.upsert(4, points(MANY, "plants"))
    with_graph.index(4)
    with_graph.close()
    graphs = [change["hnsw_config"] for change in changes(shared) if change.get("hnsw_config")]
    assert [graph["m"] for graph in graphs] == [0, 16]
    limits = [graph.get("full_scan_threshold") for graph in graphs]
    assert limits == [None, kib(1000 // (2 * (segments - 1)), WIDTH)]


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
    first = store._server.rest.get_collection(LAYER).config.hnsw_config
    given = points(added, "plants", seed=1)
    store.upsert(4, given)
    store.index(4)
    now = store._server.rest.get_collection(LAYER).config.hnsw_config
    assert (now.ef_construct != first.ef_construct) == (added > 1000)
    assert now.full_scan_threshold == kib((2000 + added if added > 1000 else 2000) // 2, WIDTH)
    queries = units(20, seed=9)
    found = store.search(4, queries, 5, Where(corpus="plants"))
    order, _ = nearest(given.vectors, queries, 5)
    expected = [{given.ids[row] for row in best} for best in order]
    right = sum(len({hit.id for hit in hits} & best) for hits, best in zip(found, expected, strict=True))
    assert right / 100 > 0.95
    store.close()


def test_a_server_that_does_not_index_is_not_believed(
    shared: QdrantDouble, store: Store, pauses: list[float]
) -> None:
    shared.optimizers(LAYER).late = 1_000
    with pytest.raises(BankUnavailable, match=r"is ready, but 200 of 200 contexts are not indexed") as found:
        store.index(4)
    assert is_one_sentence(found.value)
    assert 10 < sum(pauses) < 60


def test_a_server_that_fails_to_index(shared: QdrantDouble, store: Store) -> None:
    shared.optimizers(LAYER).failure = "No space left on device"
    with pytest.raises(
        BankUnavailable, match=r"failed to index bank--L04: No space left on device; see its"
    ) as f:
        store.index(4)
    assert is_one_sentence(f.value)
    assert store.info(4).failure == "No space left on device"
    shared.optimizers(LAYER).failure = None
    store.index(4)
    assert (unindexed(store), store.info(4).failure) == (0, None)


def test_a_server_that_was_restarted_goes_on(double: Doubles) -> None:
    """It looks grey, and waits for a change."""
    server = double()
    store = backend(settings(server, "rest")).open("bank")
    load(store)
    restarted: list[bool] = []

    def restart() -> None:
        optimizers = server.optimizers(LAYER)
        optimizers.restarted()
        restarted.append(True)

    server.when(4, restart)
    store.index(4)
    assert restarted
    assert unindexed(store) == 0
    store.close()


def test_a_job_that_begins_to_load_leaves_indexing_on(
    shared: QdrantDouble, store: Store, other: Store
) -> None:
    shared.optimizers(LAYER).late = 3
    shared.when(5, lambda: other.defer_index(4, 100))
    store.index(4)
    assert unindexed(store) == 0
    assert thresholds(shared) == [2, 1]
    other.defer_index(4, 100)
    assert thresholds(shared) == [2, 1, 0]


def test_a_job_that_waits_switches_indexing_on_again(
    shared: QdrantDouble, store: Store, other: Store
) -> None:
    """As two jobs do whose requests cross, and jobs of earlier versions."""

    def interfere() -> None:
        other._server.rest.update_collection(LAYER, optimizers_config={"indexing_threshold": 0})  # type: ignore[attr-defined]

    shared.optimizers(LAYER).late = 3
    shared.when(5, interfere)
    store.index(4)
    assert unindexed(store) == 0
    assert thresholds(shared) == [2, 0, 2, 1]


def test_a_job_that_loads_switches_indexing_off_again(
    shared: QdrantDouble, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("latentbank.bank.store.server.store.time", SimpleNamespace(monotonic=lambda: now))
    other.defer_index(4, 100)
    store.index(4)
    before = thresholds(shared)
    other.upsert(4, points(5, "plants"))
    assert thresholds(shared) == before  # not before half a minute is over
    now += 31.0
    other.upsert(4, points(5, "plants", first=5))
    assert thresholds(shared) == [*before, 0]
    other.index(4)
    now += 31.0
    other.upsert(4, points(5, "plants", first=10))  # this job loads no more
    assert thresholds(shared) == [*before, 0, 2, 1]


def test_a_job_need_not_wait_for_contexts_of_others(shared: QdrantDouble, store: Store, other: Store) -> None:
    shared.optimizers(LAYER).busy = True
    shared.when(5, lambda: other.upsert(4, points(MANY, "plants")))
    store.index(4)  # although the server is never green
    assert store.count(4) == 2 * MANY
    shared.optimizers(LAYER).busy = False


def test_a_graph_stays_when_a_smaller_count_is_behind(shared: QdrantDouble, store: Store) -> None:
    """A job that counted before others had stored their contexts does not remove the graph that those need."""
    large = backend(settings(shared, "rest", graph_from=MANY)).open("bank")
    large.index(4)
    shared.requests.clear()
    store.index(4)
    assert not any(change.get("hnsw_config") for change in changes(shared))
    assert store._server.rest.get_collection(LAYER).config.hnsw_config.m == 16  # type: ignore[attr-defined]
    large.close()


def test_segments_too_small_to_be_indexed_are_waited_for_by_nobody(
    shared: QdrantDouble, pauses: list[float]
) -> None:
    store = backend(settings(shared, "rest")).open("bank")
    store.create(4, WIDTH, "int8")
    put_head(store, HEAD)
    store.upsert(4, points(3))
    store.index(4)
    assert unindexed(store) == 3
    assert store.info(4).waiting == 0
    assert sum(pauses) < 1
    store.close()
