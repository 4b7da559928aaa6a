"""The layout of a layer in the embedded store: pieces during a load, segments with graphs, the index of captions."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import qdrant_edge as edge

from latentbank.bank.planning import Work
from latentbank.bank.settings import load_settings
from latentbank.bank.store.base import Points, Store
from latentbank.bank.store.embedded import optimizing, other_process
from latentbank.bank.where import Where
from latentbank.errors import BankUnavailable
from tests.bank.samples import HEAD, WIDTH, Place, is_one_sentence, points, put_head, units
from tests.bank.store.test_store import joined, recall, two_corpora


@pytest.fixture
def place(data_dir: Path) -> Place:
    return Place("embedded", load_settings(data_dir=data_dir))


def made(place: Place, **settings: Any) -> Store:
    """A store with an empty layer 4."""
    store = place.open(**settings)
    store.create(4, WIDTH, "int8")
    put_head(store, HEAD)
    return store


def test_pieces_of_a_layer_get_their_graph_at_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbank.bank.store.embedded.indexing.PIECE", 60)
    store = made(place, graph_from=400)
    layer = place.settings.data_dir / "bank" / "L04"

    def graphs() -> list[int]:
        return [json.loads(file.read_text())["m"] for file in layer.rglob("hnsw_config.json")]

    def load(first: int) -> Points:
        parts = [points(20, first=start, seed=start) for start in range(first, first + 600, 20)]
        store.defer_index(4, first + 600)
        for item in parts:
            store.upsert(4, item)
            store.commit()
        return joined(*parts)

    given = load(0)
    assert graphs() == [0] * 10
    store.index(4)
    assert graphs() == [16] * 2
    sizes = [file.stat().st_size for file in layer.rglob("matrix.dat")]
    assert max(sizes) <= 1.5 * min(sizes)
    # A second corpus is added: the existing graphs stay.
    given = joined(given, load(600))
    assert set(graphs()) == {16}
    store.index(4)
    assert (store.info(4).points, store.info(4).indexed) == (1200, 1200)
    assert recall(store, given, units(20, seed=9), exact=False) >= 0.99
    store.close()


def test_a_graph_is_searched_unless_its_segments_are_small(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters that select half of a segment are scanned; a query without a filter must not be."""
    store = made(place, graph_from=100)
    store.upsert(4, points(200))
    store.commit()
    store.index(4)
    assert store.work(4, None, WIDTH) == Work(200, 200, graph=False)  # small: the engine scans the segments
    monkeypatch.setattr("latentbank.bank.store.graphs.LEAST_SCAN", 1)
    store.create(8, WIDTH, "int8")
    store.upsert(8, points(200))
    store.commit()
    store.index(8)
    layer = place.settings.data_dir / "bank" / "L08"
    built = [json.loads(file.read_text()) for file in layer.rglob("hnsw_config.json")]
    assert built
    assert all(1 < segment["full_scan_threshold"] < segment["indexed_vector_count"] for segment in built)
    assert store.work(8, None, WIDTH) == Work(200, 64, graph=True)
    # What a filter selects is scanned up to the limit; beyond that it takes longer than a scan, until nearly all
    # are selected.
    few, more, nearly_all = (
        store.work(8, None, WIDTH, Where(sentence=range(count // 5))) for count in (40, 120, 190)
    )
    assert few == Work(200, 40, graph=False, selected=40)
    assert more == Work(200, 240, graph=False, selected=120)
    assert nearly_all == Work(200, 128, graph=True, selected=190)
    store.close()


def test_a_layer_of_an_earlier_version_is_not_built_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its graph was made with other settings; those of today would cost a new one."""
    store = made(place, graph_from=100, hnsw_ef_construct=200)
    store.upsert(4, points(200))
    store.commit()
    store.index(4)
    layer = place.settings.data_dir / "bank" / "L04"
    built = {file: file.stat().st_ino for file in layer.rglob("links*")}
    assert built
    monkeypatch.setattr("latentbank.bank.store.embedded.indexing.scan_for", lambda *_: 20_000)
    store.close()
    store = place.open(graph_from=100)
    store.index(4)
    assert {file: file.stat().st_ino for file in layer.rglob("links*")} == built
    store.close()


def test_captions_are_indexed_when_a_filter_first_reads_them(place: Place) -> None:
    store = made(place)
    two_corpora(store)
    store.index(4)
    layer = place.settings.data_dir / "bank" / "L04"
    assert not [*layer.rglob("*caption*")]
    assert store.count(4, Where(caption_contains="red dog") & ~Where(corpus="plants")) > 0
    assert [*layer.rglob("*caption*")]
    store.close()


def test_the_index_of_captions_is_made_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(place)
    two_corpora(store)
    store.count(4, Where(caption_contains="red"))
    store.close()
    again = place.open()
    monkeypatch.setattr("latentbank.bank.store.embedded.indexing.CAPTION_INDEX", None)  # another would fail
    assert again.count(4, Where(caption_contains="red")) > 0
    again.close()


def test_a_reader_never_meets_a_shard_that_was_closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """To index a layer, its shard is closed and opened again; a running search is finished first."""
    store: Any = made(place)
    store.upsert(4, points(50))
    store.commit()
    request, free = edge.QueryBatchRequest, store._layers._free
    wait_for, closing = free.wait_for, threading.Event()
    waited: list[bool] = []

    def index() -> None:
        try:
            store.index(4)
        finally:
            closing.set()

    def noted(ready: Callable[[], bool]) -> bool:
        if threading.current_thread() is writer and not ready():
            waited.append(True)
            closing.set()
        return bool(wait_for(ready))

    def while_it_is_indexed(requests: Any) -> Any:
        monkeypatch.setattr(edge, "QueryBatchRequest", request)
        writer.start()
        assert closing.wait(60)  # the writer waits for this reader, or has closed the shard
        return request(requests)

    writer = threading.Thread(target=index)
    monkeypatch.setattr(free, "wait_for", noted)
    monkeypatch.setattr(edge, "QueryBatchRequest", while_it_is_indexed)
    assert len(store.search(4, units(1), 5)[0]) == 5
    writer.join()
    assert waited == [True]
    assert store.info(4).indexed == 50
    assert len(store.search(4, units(1), 5)[0]) == 5
    store.close()


# -- in a process of its own ---------------------------------------------------------------------


@pytest.fixture
def in_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index even small layers in another process."""
    monkeypatch.setattr("latentbank.bank.store.embedded.optimizing._OTHER_PROCESS_FROM", 0)


def when_it_runs(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[int], object], *, goes_on: bool = True
) -> list[bool]:
    """Call `action` with the indexing process's pid before waiting for it; record whether readers have priority.

    The process stands still at its beginning, and goes on after `action` unless `goes_on` is not set.
    """
    lower_priority, notes = optimizing._lower_priority, []

    def standing_still(words: list[str], **given: Any) -> subprocess.Popen[str]:
        child = subprocess.Popen(["sh", "-c", 'kill -STOP $$; exec "$@"', "sh", *words], **given)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        return child

    def also(pid: int, *, read: bool) -> None:
        lower_priority(pid, read=read)
        notes.append(read)
        action(pid)
        if goes_on:
            os.kill(pid, signal.SIGCONT)

    started = SimpleNamespace(**vars(subprocess) | {"Popen": standing_still})
    monkeypatch.setattr(other_process, "subprocess", started)
    monkeypatch.setattr(optimizing, "_lower_priority", also)
    return notes


class Watched:
    """A lock that tells when threads begin to wait for it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._begun = threading.Semaphore(0)

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._begun.release()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait_for(self, threads: int) -> None:
        """Return when so many threads have begun to wait."""
        for _ in range(threads):
            assert self._begun.acquire(timeout=60)


def watched(store: Any) -> Watched:
    """Watch the lock on a store's layers that is held while they are written to."""
    store._layers.writing = lock = Watched(store._layers.writing)
    return lock


@pytest.mark.parametrize("graph_from", [0, 10_000], ids=["graph", "scan"])
@pytest.mark.usefixtures("in_other_process")
def test_readers_search_while_another_process_indexes(
    place: Place, monkeypatch: pytest.MonkeyPatch, graph_from: int
) -> None:
    store = made(place, graph_from=graph_from)
    given = points(300)
    store.upsert(4, given)
    store.commit()
    queries = units(20, seed=9)
    found: list[float] = []

    def search(pid: int) -> None:
        """Search in another thread before the layer's files are replaced, and after that."""
        with ThreadPoolExecutor(1) as other:
            for _ in range(2):
                found.append(other.submit(recall, store, given, queries, exact=True).result(timeout=60))
                os.kill(pid, signal.SIGCONT)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    notes = when_it_runs(monkeypatch, search)
    store.index(4)
    assert found == [1.0] * 2
    assert notes == [False]  # there was no search before it began
    assert (store.info(4).points, store.info(4).indexed) == (300, 300)
    assert recall(store, given, queries, exact=True) == 1.0
    assert recall(store, given, queries, exact=False) >= 0.99
    late = points(90, "late", seed=3)
    store.upsert(4, late)
    store.index(4)
    assert notes == [False, True]
    assert store.info(4).indexed == 390
    store.close()
    again = place.open()
    assert recall(again, joined(given, late), queries, exact=True) == 1.0
    assert again.count(4) == 390
    again.close()


@pytest.mark.usefixtures("in_other_process")
def test_a_writer_waits_until_a_layer_is_indexed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(place)
    store.upsert(4, points(100))
    store.commit()
    late = points(20, "late")
    writing = watched(store)
    with ThreadPoolExecutor(3) as others:
        written: list[Any] = []

        def write(_pid: int) -> None:
            if not written:
                written.append(others.submit(store.upsert, 4, late))
                written.append(others.submit(store.delete_corpus, 4, "nothing"))
                written.append(others.submit(store.count, 4, Where(caption_contains="red dog")))
                writing.wait_for(3)

        when_it_runs(monkeypatch, write)
        store.index(4)
        for item in written:
            item.result(timeout=60)
    store.commit()
    assert store.count(4) == 120
    assert store.present(4, late.ids) == set(late.ids)
    store.index(4)
    assert store.info(4).indexed == 120
    store.close()


@pytest.mark.usefixtures("in_other_process")
@pytest.mark.parametrize(
    ("sent", "message"),
    [(signal.SIGKILL, "ended by SIGKILL, perhaps for lack of memory"), (signal.SIGBUS, "make room and run")],
)
def test_a_process_that_is_killed_while_it_indexes_harms_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, message: str
) -> None:
    store = made(place)
    given = points(300)
    store.upsert(4, given)
    store.commit()
    with monkeypatch.context() as patch:
        when_it_runs(patch, lambda pid: os.kill(pid, sent))
        with pytest.raises(BankUnavailable, match=message) as found:
            store.index(4)
    assert is_one_sentence(found.value)
    assert recall(store, given, units(20, seed=9), exact=True) == 1.0
    store.upsert(4, points(10, "late"))
    store.index(4)
    assert store.info(4).indexed == 310
    store.close()


@pytest.mark.usefixtures("in_other_process")
@pytest.mark.parametrize("when", ["at once", "while it waits"])
def test_an_interrupted_caller_ends_the_process(
    place: Place, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store = made(place)
    store.upsert(4, points(50))
    store.commit()
    pids: list[int] = []

    def interrupt(pid: int) -> None:
        pids.append(pid)
        if when == "at once":
            raise KeyboardInterrupt

    def wait(child: subprocess.Popen[str]) -> Any:
        """As with Ctrl-C in a terminal: the main thread waits for the process and is interrupted, it is not."""
        waits = threading.Event()
        select = selectors.PollSelector.select

        def selected(selector: selectors.PollSelector, timeout: float | None = None) -> Any:
            waits.set()
            # In short turns: a signal that comes just before a wait is noticed only after it.
            return select(selector, 0.05)

        def press() -> None:
            waits.wait(60)
            os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(selectors.PollSelector, "select", selected)
        threading.Thread(target=press).start()
        return communicate(child)

    with monkeypatch.context() as patch:
        communicate = subprocess.Popen.communicate
        patch.setattr(subprocess.Popen, "communicate", wait)
        when_it_runs(patch, interrupt, goes_on=False)
        with pytest.raises(KeyboardInterrupt):
            store.index(4)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    store.index(4)
    assert store.info(4).indexed == 50
    store.close()


@pytest.mark.usefixtures("in_other_process")
def test_a_bank_that_is_closed_meanwhile_is_closed_afterwards(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(place)
    store.upsert(4, points(50))
    store.commit()
    writing = watched(store)
    with ThreadPoolExecutor(1) as other:
        closed: list[Any] = []

        def close(_pid: int) -> None:
            closed.append(other.submit(store.close))
            writing.wait_for(1)

        when_it_runs(monkeypatch, close)
        store.index(4)
        closed[0].result(timeout=60)
    with pytest.raises(BankUnavailable, match="is closed; open it again"):
        store.count(4)
    again = place.open()
    assert again.info(4).indexed == 50
    again.close()


@pytest.mark.usefixtures("in_other_process")
def test_an_error_of_the_indexing_process_is_raised_here(place: Place) -> None:
    store = made(place)
    store.upsert(4, points(50))
    store.commit()
    wrong = {**HEAD, "hidden_size": WIDTH + 1}
    put_head(store, wrong)
    with pytest.raises(BankUnavailable, match=r"cannot be used: .*incompatible") as found:
        store.index(4)
    assert is_one_sentence(found.value)
    put_head(store, HEAD)
    store.index(4)
    assert store.info(4).indexed == 50
    store.close()


# -- several layers at once ------------------------------------------------------------------------


@pytest.fixture
def three(place: Place, in_other_process: None, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store with 50 contexts in each of the layers 4, 8 and 12, to index on two processors."""
    monkeypatch.setattr("latentbank.bank.store.embedded.indexing.cores", lambda: 2)
    store = made(place, graph_from=200)
    for layer in (4, 8, 12):
        if layer != 4:
            store.create(layer, WIDTH, "int8")
        store.upsert(layer, points(50, seed=layer))
    store.commit()
    return store


def test_layers_without_a_graph_are_indexed_side_by_side(
    three: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert three.index_together([12, 4, 8]) == [[12, 4], [8]]
    queries, begun = units(20, seed=9), list[int]()
    before = {layer: three.search(layer, queries, 5, exact=True) for layer in (4, 12)}

    def start_both(pid: int) -> None:
        begun.append(pid)
        if len(begun) == 2:
            for each in begun:  # the first one has waited for the second
                os.kill(each, signal.SIGCONT)

    when_it_runs(monkeypatch, start_both, goes_on=False)
    three.index(12, 4)
    assert len(begun) == 2
    assert [three.info(layer).indexed for layer in (4, 8, 12)] == [50, 0, 50]
    assert {layer: three.search(layer, queries, 5, exact=True) for layer in (4, 12)} == before
    three.close()


def test_a_layer_with_a_graph_or_in_this_process_is_indexed_alone(
    three: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.upsert(8, points(200, "more", seed=2))
    three.commit()
    assert three.index_together([4, 8, 12]) == [[4], [8], [12]]
    monkeypatch.setattr(optimizing, "_OTHER_PROCESS_FROM", 60)
    assert three.index_together([4, 12]) == [[4], [12]]
    three.close()


def test_a_disk_with_room_for_one_layer_is_enough(
    three: Store, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[list[int]] = []
    optimize = optimizing.optimize

    def noted(tasks: Any, *given: Any, **options: Any) -> Any:
        at_once.append([int(task.path.name[1:]) for task in tasks])
        return optimize(tasks, *given, **options)

    monkeypatch.setattr("latentbank.bank.store.embedded.indexing.optimize", noted)
    files = (place.settings.data_dir / "bank" / "L04").rglob("*")
    size = sum(file.stat().st_blocks * 512 for file in files if file.is_file())
    monkeypatch.setattr(
        "latentbank.bank.store.embedded.layers.Layers.has_room", lambda _, needed: needed < 1.5 * size
    )
    three.index(4, 8)
    assert at_once == [[4], [8]]
    assert [three.info(layer).indexed for layer in (4, 8)] == [50, 50]
    three.close()


def test_one_of_two_processes_is_killed(three: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def kill_the_second(pid: int) -> None:
        begun.append(pid)
        if len(begun) == 2:
            os.kill(pid, signal.SIGKILL)
            os.kill(begun[0], signal.SIGCONT)

    with monkeypatch.context() as patch:
        when_it_runs(patch, kill_the_second, goes_on=False)
        with pytest.raises(BankUnavailable, match="ended by SIGKILL, perhaps for lack of memory"):
            three.index(4, 8)
    for pid in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert [three.count(layer) for layer in (4, 8)] == [50, 50]
    three.index(4, 8)
    assert [three.info(layer).indexed for layer in (4, 8)] == [50, 50]
    three.close()


def test_an_interrupted_caller_ends_both(three: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def interrupt_at_the_second(pid: int) -> None:
        begun.append(pid)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        when_it_runs(patch, interrupt_at_the_second, goes_on=False)
        with pytest.raises(KeyboardInterrupt):
            three.index(4, 8)
    assert len(begun) == 2
    for pid in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    three.index(4, 8)
    assert [three.info(layer).indexed for layer in (4, 8)] == [50, 50]
    three.close()
