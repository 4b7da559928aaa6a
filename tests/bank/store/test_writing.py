"""How contexts get into an embedded layer: in the form the engine reads, and by processes that write for this one."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import qdrant_edge as edge

from latentbank.bank.opening import open_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.store.base import Points, Store
from latentbank.bank.store.embedded import indexing, writers
from latentbank.bank.store.embedded.engine import layer_config
from latentbank.bank.store.embedded.points import engine_points, row_views
from latentbank.errors import BankUnavailable
from tests.bank.samples import (
    HEAD,
    WIDTH,
    Place,
    Start,
    is_one_sentence,
    next_line,
    points,
    put_head,
    sample_bank,
    units,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_engine_reads_the_numbers_that_it_is_given(dtype: type) -> None:
    """Also of an array whose rows are not contiguous."""
    given = points(3)
    wide = np.repeat(given.vectors.astype(dtype), 2, axis=1)
    numbers = [point.vector for point in engine_points(given.ids, row_views(wide[:, ::2]), given.payloads)]
    np.testing.assert_array_equal(np.array(numbers), given.vectors.astype(dtype).astype(np.float32))


def test_bytes_are_no_numbers(tmp_path: Path) -> None:
    """Why `row_views` makes views: the engine takes bytes without a word, as four times as many numbers."""
    given = points(1)
    row = given.vectors[0]
    misread = edge.Point(given.ids[0], row.tobytes())
    assert misread.vector == list(row.tobytes())
    (point,) = engine_points(given.ids, row_views(given.vectors), given.payloads)
    assert len(point.vector) == len(row)
    shard = edge.EdgeShard.create(str(tmp_path), layer_config(len(row), "int8", 100))
    with pytest.raises(Exception, match="dimension"):
        shard.update(edge.UpdateOperation.upsert_points([misread]))
    shard.close()


# -- processes that write --------------------------------------------------------------------------

LAYERS = (4, 8, 12)


def write_elsewhere(monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Have two other processes write to layers, however few contexts they get."""
    for module, name, value in ((indexing, "MANY", 1), (writers, "_MOST", 2), (writers, "cores", lambda: 2)):
        if monkeypatch is None:
            setattr(module, name, value)
        else:
            monkeypatch.setattr(module, name, value)


@pytest.fixture
def place(data_dir: Path) -> Place:
    return Place("embedded", load_settings(data_dir=data_dir))


@pytest.fixture
def store(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    write_elsewhere(monkeypatch)
    opened = place.open()
    put_head(opened, HEAD)
    for layer in LAYERS:
        opened.create(layer, WIDTH, "int8")
        opened.defer_index(layer, 1000)
    yield opened
    opened.close()


def processes(store: Store) -> list[Any]:
    return list(store._layers._writers._processes)  # type: ignore[attr-defined]  # past the interface, on purpose


def content(store: Store, layer: int) -> dict[str, tuple[Any, bytes]]:
    stored = store.scroll(layer, vectors=True, payloads=True)
    return {one.id: (one.payload, b"" if one.vector is None else one.vector.tobytes()) for one in stored}


def test_other_processes_store_what_this_one_would(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads store layers at once; messages are cut; a context that is there already is replaced."""
    monkeypatch.setattr(writers, "_MESSAGE", WIDTH * 4 * 7)
    assert store.side_by_side
    given = {layer: [points(100, seed=layer), points(100, first=90, seed=layer + 1)] for layer in LAYERS}

    def fill(layer: int) -> None:
        for part in given[layer]:
            store.upsert(layer, part)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(fill, LAYERS))
    assert len(processes(store)) == 2
    asked = [*given[4][1].ids, "00000000-0000-4000-8000-000000000000"]
    assert store.present(4, asked) == set(given[4][1].ids)
    store.commit()
    assert len(store._layers._writers._owners) == 3  # type: ignore[attr-defined]  # neither took a layer back
    found = {layer: content(store, layer) for layer in LAYERS}
    assert not store._layers._writers._owners  # type: ignore[attr-defined]
    monkeypatch.setattr(indexing, "MANY", 10_000)
    for layer in LAYERS:
        store.create(layer, WIDTH, "int8")
        store.index(layer)
        store.defer_index(layer, 1000)
        fill(layer)
        assert content(store, layer) == found[layer]
    assert not processes(store)


def test_the_same_contexts_in_several_layers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process gets their ids and payloads once, and each layer its own vectors; also replaced ones."""
    sent: list[Any] = []
    dumps = pickle.dumps
    monkeypatch.setattr(writers.pickle, "dumps", lambda given: sent.append(given) or dumps(given))
    first, again = points(150), points(100, first=90, seed=1)
    given = {
        layer: [
            Points(part.ids, points(len(part.ids), seed=layer + at).vectors, part.payloads)
            for at, part in enumerate((first, again))
        ]
        for layer in LAYERS
    }
    for at in (0, 1):
        for layer in LAYERS:
            store.upsert(layer, given[layer][at])
    store.commit()
    assert [message[1] for message in sent if message[0] == "store" and message[3] is None] == [12, 12]
    found = {layer: content(store, layer) for layer in LAYERS}
    monkeypatch.setattr(indexing, "MANY", 10_000)
    for layer in LAYERS:
        store.create(layer, WIDTH, "int8")
        for part in given[layer]:
            store.upsert(layer, part)
        assert content(store, layer) == found[layer]
        assert len(found[layer]) == 190


def test_payloads_that_change_from_layer_to_layer(store: Store) -> None:
    given = points(20)
    kept = dict(given.payloads[0])
    for layer in LAYERS:
        store.upsert(layer, given)
        cast("dict[str, Any]", given.payloads[0])["caption"] = f"after layer {layer}"
    store.commit()
    captions = [store.payloads(layer, given.ids[:1])[given.ids[0]]["caption"] for layer in LAYERS]
    assert captions == [kept["caption"], "after layer 4", "after layer 8"]


def test_no_context_keeps_the_vector_of_another_layer(store: Store) -> None:
    """Of contexts that are stored again, the engine refuses the vectors: a layer has nothing of them then."""
    given = points(20)
    for layer in LAYERS:
        store.upsert(layer, given)
    store.commit()
    more = points(20, first=20)
    store.upsert(4, more)
    store.upsert(12, Points(more.ids, points(20, width=WIDTH + 1).vectors, more.payloads))
    with pytest.raises(BankUnavailable, match="dimension"):
        store.commit()
    assert [store.count(layer) for layer in LAYERS] == [20, 20, 20]
    assert store.present(12, more.ids) == set()


def test_a_layer_that_is_searched_is_written_to_here(store: Store) -> None:
    for first in (0, 50):
        store.upsert(4, points(50, first=first, seed=first))
        assert len(store.search(4, units(1), 5)[0]) == 5
        assert store.count(4) == first + 50
    store.commit()
    assert store.info(4).points == 100


def test_they_index_pieces_and_end_when_all_is_indexed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "PIECE", 20)
    for layer in LAYERS:
        store.defer_index(layer, 1000)
        store.upsert(layer, points(30))
    store.commit()
    begun = processes(store)
    assert len(begun) == 2
    assert [store._layers.flush(layer) for layer in LAYERS] == [(30, 30)] * 3  # type: ignore[attr-defined]
    for layer in LAYERS:
        store.upsert(layer, points(50))
    store.commit()
    assert processes(store) == begun
    for layer in LAYERS:
        store.index(layer)
    assert [process._child.returncode for process in begun] == [0, 0]
    assert {store.info(layer).indexed for layer in LAYERS} == {50}


def kill(process: Any) -> None:
    process._child.send_signal(signal.SIGKILL)
    process._child.wait()


@pytest.mark.parametrize("what", ["upsert", "present", "commit", "count"])
def test_a_process_that_was_killed(store: Store, what: str) -> None:
    """What was committed stays; that the rest is lost is said, at the latest by the commit."""
    store.upsert(4, points(50))
    store.commit()
    store.upsert(4, points(50, first=50))
    kill(processes(store)[0])
    actions: dict[str, Callable[[], object]] = {
        "upsert": lambda: store.upsert(4, points(50, first=100)),
        "present": lambda: store.present(4, points(1).ids),
        "commit": store.commit,
        "count": lambda: store.count(4),
    }
    with pytest.raises(BankUnavailable, match="SIGKILL") as failed:
        actions[what]()
    assert is_one_sentence(failed.value)
    if what != "commit":
        with pytest.raises(BankUnavailable, match="SIGKILL"):
            store.commit()
    store.upsert(4, points(50, first=50))
    store.commit()
    assert store.count(4) == 100


def test_what_the_engine_refuses_is_said(store: Store) -> None:
    store.upsert(4, points(1))
    store.upsert(4, points(1, width=WIDTH + 1))
    with pytest.raises(BankUnavailable, match="dimension"):
        store.commit()


def write_on(data_dir: str, first: str) -> None:
    """Write contexts to two layers in a job of its own, and print how many are committed."""
    write_elsewhere()
    with open_bank("bank", data_dir=data_dir) as bank:
        for layer in bank.layers:
            bank.store.defer_index(layer, 10**6)
        for at in range(int(first), 10**6, 40):
            for layer in bank.layers:
                part = points(40, first=at, seed=at + layer)
                bank.add(layer, part.ids, part.vectors, part.payloads)
            bank.commit()
            print(at + 40, flush=True)


def test_nothing_committed_is_lost_when_the_job_is_killed(place: Place, start: Start) -> None:
    """The bank is free at once, although the processes that write have the lock, too."""
    sample_bank(place).close()
    committed = 0
    for lines in (1, 4):
        job = start(write_on, place.settings.data_dir, committed)
        read = [next_line(job) for _ in range(lines)]
        job.send_signal(signal.SIGKILL)
        read += job.communicate()[0].split()
        committed = int(read[-1])
        with open_bank("bank", place.settings) as bank:
            for layer in bank.layers:
                assert bank.store.count(layer) >= committed
                given = points(40, first=committed - 40, seed=committed - 40 + layer)
                assert bank.store.payloads(layer, given.ids) == dict(
                    zip(given.ids, given.payloads, strict=True)
                )
