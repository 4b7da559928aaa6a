"""A server bank's ledger: changes by many at once, on nodes that learn of things late, and what a bank has instead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from qdrant_client import models

from latentbank.bank.bank import Bank
from latentbank.bank.opening import create_bank, delete_bank, list_banks, open_bank
from latentbank.bank.settings import Settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Change, Record
from latentbank.bank.store.server.ledger import Ledger
from latentbank.errors import BankBusy, BankNotFound, LatentBankError
from tests.bank.samples import (
    HEAD,
    WIDTH,
    Place,
    fill,
    is_one_sentence,
    put_entry,
    put_head,
    sample_bank,
    soon,
)
from tests.bank.servers import Doubles, settings
from tests.wire.double import Fault, QdrantDouble

WRITERS = 8


@contextmanager
def ledger(server: QdrantDouble, name: str = "bank", **changes: Any) -> Iterator[Ledger]:
    """The ledger of a bank, over a connection of its own."""
    store: Any = backend(settings(server, **changes)).open(name)
    yield store._manifest._ledger
    store.close()


def counted(record: Record | None) -> Record:
    """A change that is not idempotent: it shows each time that it is made."""
    return {"count": (record or {}).get("count", 0) + 1}


def one_more(who: str) -> Change:
    """A change that shows who made it, and is made once."""
    return lambda record: {"by": sorted({*(record or {}).get("by", ()), who})}


@pytest.fixture
def lagging(double: Doubles) -> QdrantDouble:
    """A cluster of three nodes, of which each connection reaches the next, and that learn of metadata late."""
    return double(lag=3, peers=3)


def test_no_change_of_many_writers_is_lost(lagging: QdrantDouble) -> None:
    """Eight writers, each with connections of its own, change the head and two entries at the same moment."""
    sample_bank(Place("server", settings(lagging))).close()
    begin = threading.Barrier(WRITERS)

    def write(writer: int) -> None:
        with ledger(lagging) as own:
            begin.wait()
            for number in range(9):
                key = ("head", ""), ("entry", "a"), ("entry", "b")
                kind, name = key[number % 3]
                own.change(kind, name, one_more(f"{writer}/{number}"))  # type: ignore[arg-type]

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    rows = {row["key"]: row for _, row in lagging.points("bank--ledger").values()}
    made = {who for row in rows.values() for who in row["record"].get("by", ())}
    assert made == {f"{writer}/{number}" for writer in range(WRITERS) for number in range(9)}
    assert [rows[name]["version"] for name in ("", "a", "b")] == [25, 24, 24]
    assert rows["a"]["by"].count("process") == 1


def test_a_change_is_made_once_although_answers_are_lost(shared: QdrantDouble) -> None:
    sample_bank(Place("server", settings(shared))).close()
    with ledger(shared) as own:
        for number in range(1, 5):
            shared.inject(Fault.drop_after_apply, times=2, operation="upsert")
            assert own.change("entry", "a", counted) == {"count": number}
        shared.inject(Fault.refuse, times=2, operation="upsert")
        assert own.change("entry", "a", counted) == {"count": 5}


def test_writes_are_in_order_on_a_cluster_and_go_on_without_its_first_node(shared: QdrantDouble) -> None:
    """While the node that puts writes in order cannot be reached, the others choose another."""
    sample_bank(Place("server", settings(shared))).close()
    with ledger(shared) as own:
        shared.requests.clear()
        shared.inject(Fault.error500, operation="upsert")
        own.change("entry", "a", counted)
    asked = [(request.operation, request.summary) for request in shared.requests]
    assert [given.get("ordering") for operation, given in asked if operation == "upsert"] == [
        "strong",
        "medium",
    ]
    assert all(given["wait"] for operation, given in asked if operation == "upsert")
    assert {given.get("consistency") for operation, given in asked if operation == "retrieve"} == {
        "quorum",
        None,
    }


def test_a_writer_that_was_overtaken_applies_its_change_to_what_is_there(shared: QdrantDouble) -> None:
    sample_bank(Place("server", settings(shared))).close()
    with ledger(shared) as own, ledger(shared) as other:
        own.change("entry", "a", one_more("first"))
        seen: list[Any] = []

        def late(record: Record | None) -> Record | None:
            seen.append(record)
            if len(seen) == 1:
                other.change("entry", "a", one_more("faster"))
            return one_more("late")(record)

        assert own.change("entry", "a", late) == {"by": ["faster", "first", "late"]}
        assert [record["by"] for record in seen] == [["first"], ["faster", "first"]]


@pytest.mark.parametrize("followed", [False, True])
def test_a_write_that_arrives_after_its_writer_has_looked_counts_once(
    shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch, followed: bool
) -> None:
    """A node that hangs may write long after it was asked. The change must not be made again on top of that."""
    sample_bank(Place("server", settings(shared))).close()
    with ledger(shared) as own, ledger(shared) as other:
        own.change("entry", "a", counted)
        write, settled = own._write, own._settled
        waiting: list[tuple[Any, ...]] = []
        looks: list[str] = []

        def hang(*given: Any) -> None:
            if looks == ["before"]:
                waiting.append(given)
            else:
                write(*given)

        def look(id_: str) -> Any:
            if waiting and len(looks) == 2:  # the change is about to be tried again
                write(*waiting.pop())
                if followed:
                    other.change("entry", "a", counted)
            looks.append("after" if looks else "before")
            return settled(id_)

        monkeypatch.setattr(own, "_write", hang)
        monkeypatch.setattr(own, "_settled", look)
        assert own.change("entry", "a", counted) == {"count": 2}
        assert not waiting
        assert other.change("entry", "a", lambda record: record) == {"count": 3 if followed else 2}


def test_a_change_that_others_have_followed_already_counts(
    shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer's record may be overwritten before it looks; its id in the history says that it was there."""
    sample_bank(Place("server", settings(shared))).close()
    with ledger(shared) as own, ledger(shared) as other:
        write = own._write

        def overtaken(*given: Any) -> None:
            write(*given)
            for _ in range(70):
                other.change("entry", "a", counted)

        own.change("entry", "a", counted)
        monkeypatch.setattr(own, "_write", overtaken)
        assert own.change("entry", "a", counted) == {"count": 2}
        assert other.change("entry", "a", counted) == {"count": 73}


def test_a_removed_record_is_not_taken_for_a_new_one(shared: QdrantDouble) -> None:
    """A change of the old record, made while it is removed and made anew, finds the new one."""
    sample_bank(Place("server", settings(shared))).close()
    with ledger(shared) as own, ledger(shared) as other:
        own.change("entry", "a", lambda _: {"is": "old"})
        seen: list[Any] = []

        def late(record: Record | None) -> Record | None:
            seen.append(record)
            if len(seen) == 1:
                other.change("entry", "a", lambda _: None)
                other.change("entry", "a", lambda _: {"is": "new"})
            return {**(record or {}), "changed": True}

        assert own.change("entry", "a", late) == {"is": "new", "changed": True}
        own.insert("entry", "a", {"is": "inserted"})
        assert own.read() is not None
        assert other.change("entry", "a", lambda record: record) == {"is": "new", "changed": True}
        assert other.change("entry", "a", lambda _: None) is None
        own.insert("entry", "a", {"is": "inserted"})  # there was one
        assert other.change("entry", "a", lambda record: record) is None


def test_nothing_is_written_where_nothing_changes(shared: QdrantDouble) -> None:
    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 5)
        shared.requests.clear()
        bank.record(bank.corpora["animals"])
        assert "upsert" not in {request.operation for request in shared.requests}


def test_too_many_others(shared: QdrantDouble, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    sample_bank(Place("server", settings(shared))).close()
    monkeypatch.setattr("latentbank.bank.store.server.ledger._TRIES", 4)
    with ledger(shared) as own, ledger(shared) as other:

        def late(record: Record | None) -> Record | None:
            other.change("entry", "a", counted)
            return {"late": True}

        with pytest.raises(BankBusy, match="changed by too many others at the same moment") as caught:
            own.change("entry", "a", late)
    assert is_one_sentence(caught.value)
    assert len(waits) == 3


# -- replicas that do not agree --------------------------------------------------------------------------


class Replicas:
    """What three replicas of the ledger hold, of which a read without consistency shows the first."""

    def __init__(self, own: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[dict[str, Any] | None] = [None, None, None]
        self.dead: set[int] = set()
        self.written = 0
        monkeypatch.setattr(own, "_retrieve", self._retrieve)
        monkeypatch.setattr(own, "_write", self._write)
        monkeypatch.setattr("latentbank.bank.store.server.ledger._PAUSES", (0.0, 0.0))

    def _alive(self) -> list[dict[str, Any] | None]:
        return [row for number, row in enumerate(self.rows) if number not in self.dead]

    def _retrieve(
        self, _: str, consistency: models.ReadConsistencyType | None = None
    ) -> models.Record | None:
        alive = self._alive()
        if consistency == models.ReadConsistencyType.QUORUM:
            agree = len(alive) > 1 and alive[0] == alive[1]
            return _point(alive[0]) if agree else None
        if consistency == models.ReadConsistencyType.MAJORITY:
            if self.dead:
                return None
            return next((_point(row) for row in alive if alive.count(row) > 1), None)
        return _point(alive[0])

    def _write(self, _: str, payload: dict[str, Any], found: Any) -> None:
        self.written += 1
        for number, row in enumerate(self.rows):
            newer = row is not None and (found is None or row["version"] > found.version)
            if number not in self.dead and not newer:
                self.rows[number] = payload


def _point(row: dict[str, Any] | None) -> models.Record | None:
    return None if row is None else models.Record(id=1, payload=row)


def _row(version: int, record: Record | None, writer: str) -> dict[str, Any]:
    return {"version": version, "record": record, "writer": writer, "history": []}


@pytest.fixture
def replicas(shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ledger, Replicas]]:
    with ledger(shared) as own:
        yield own, Replicas(own, monkeypatch)


def test_what_most_replicas_hold_counts(replicas: tuple[Ledger, Replicas]) -> None:
    """A write that failed half-way, on the node that is asked, is no change; the next write reaches all replicas."""
    own, three = replicas
    three.rows = [_row(2, {"count": 100}, "half"), _row(2, {"count": 1}, "b"), _row(2, {"count": 1}, "b")]
    assert own.change("entry", "a", counted) == {"count": 2}
    assert [row and row["record"] for row in three.rows] == [{"count": 2}] * 3


def test_a_replica_that_missed_a_write_gets_the_next(replicas: tuple[Ledger, Replicas]) -> None:
    own, three = replicas
    three.rows = [_row(5, {"count": 1}, "b"), _row(5, {"count": 1}, "b"), _row(3, {"count": 0}, "a")]
    assert own.change("entry", "a", counted) == {"count": 2}
    three.rows[2] = None
    assert own.change("entry", "a", counted) == {"count": 3}
    assert [row and row["record"] for row in three.rows] == [{"count": 3}] * 3


def test_replicas_that_differ_while_one_is_dead_are_made_equal(replicas: tuple[Ledger, Replicas]) -> None:
    """Without a majority, nothing counts as made until a write has reached all that are there."""
    own, three = replicas
    three.rows = [_row(2, {"by": ["x"]}, "x"), _row(2, {"by": ["y"]}, "y"), None]
    three.dead = {2}
    assert own.change("entry", "a", one_more("x")) == {"by": ["x"]}
    assert three.written == 1  # although this change was there already
    assert three.rows[0] == three.rows[1]


def test_a_dead_replica_stops_nothing(replicas: tuple[Ledger, Replicas]) -> None:
    own, three = replicas
    three.dead = {1}
    assert own.change("entry", "a", counted) == {"count": 1}
    assert own.change("entry", "a", counted) == {"count": 2}
    assert three.written == 2


# -- banks through a balancer ----------------------------------------------------------------------------


def _made(where: Settings, name: str) -> Bank:
    return create_bank(
        name, where, model="tiny/llama", fingerprint="f00d", num_layers=16, hidden_size=WIDTH, layers=[4]
    )


def test_a_new_bank_is_there_for_every_connection(lagging: QdrantDouble) -> None:
    """What one connection has written, the next one reads, whichever node it reaches."""
    where = settings(lagging)
    for number in range(8):
        name = f"bank{number}"
        with _made(where, name) as bank:
            fill(bank, 1)
            with open_bank(name, where) as other:
                assert other.manifest.corpora["animals"].complete
                assert other.count() == 1
        assert name in list_banks(where)
    for number in range(8):
        delete_bank(f"bank{number}", where)


def test_the_first_head_stays(shared: QdrantDouble) -> None:
    """A process that creates a bank while another one fixes its means does not undo that."""
    where = settings(shared)
    store = backend(where).open("bank")
    store.create(4, WIDTH, "int8")
    first = HEAD | {"means": {"4": "fixed"}}
    put_head(store, first)
    with ledger(shared) as own:
        own.insert("head", "", HEAD)
    found = store.read_manifest()
    assert found is not None
    assert found[0] == first
    store.close()


def test_a_ledger_has_a_replica_on_every_node(double: Doubles) -> None:
    for peers, copies, confirmed in ((1, 1, 1), (2, 2, 2), (3, 3, 2), (5, 5, 3)):
        server = double(peers=peers)
        sample_bank(Place("server", settings(server)), layers=[4]).close()
        made = [
            r.summary
            for r in server.requests
            if r.operation == "create_collection" and "ledger" in str(r.collection)
        ]
        assert [(s["replication_factor"], s["write_consistency_factor"], s["vectors"]) for s in made] == [
            (copies, confirmed, {})
        ]


def test_earlier_versions_refuse_a_bank_with_a_ledger(shared: QdrantDouble) -> None:
    """They find a manifest in metadata whose schema they do not read, from the moment the layer is there."""
    sample_bank(Place("server", settings(shared))).close()
    for request in shared.requests:
        if request.operation == "create_collection" and request.collection == "bank--L04":
            assert request.summary["metadata"]["latentbank"]["schema"] == 2
            assert request.summary["metadata"]["latentbank-ledger"] == {
                "ledger": "bank--ledger",
                "copied": True,
            }


def _is_refused(write: Callable[[], object]) -> bool:
    """Return whether a write says that there is no bank."""
    try:
        write()
    except BankNotFound:
        return True
    return False


def test_what_a_killed_creation_or_deletion_left_is_no_bank(shared: QdrantDouble) -> None:
    where = settings(shared)
    store: Any = backend(where).open("bank")
    store.create(4, WIDTH, "int8")
    store._manifest._begin()
    assert store.read_manifest() is None
    assert list_banks(where) == []
    with sample_bank(Place("server", where)) as bank:
        fill(bank, 3)
    shared.delete("bank--ledger")
    assert soon(lambda: list_banks(where) == [])
    assert soon(lambda: _is_refused(lambda: put_entry(store, "late", {"name": "late"})))
    with pytest.raises(LatentBankError, match="has contexts but no manifest"):
        sample_bank(Place("server", where))
    delete_bank("bank", where)
    assert soon(lambda: store.layers() == [])
    assert soon(lambda: _is_refused(lambda: delete_bank("bank", where)))
    store.close()


def test_writers_of_a_deleted_bank_bring_nothing_back(shared: QdrantDouble) -> None:
    where = settings(shared)
    with sample_bank(Place("server", where)) as bank:
        fill(bank, 3)
        delete_bank("bank", where)
        for late in (
            lambda: bank.record(bank.manifest.corpora["animals"]),
            lambda: bank.store.write_shares("animals", {"0/2/beat": {}}),
            lambda: put_head(bank.store, HEAD) if bank.store.read_manifest() else bank.reload(),
        ):
            with pytest.raises(BankNotFound) as caught:
                late()
            assert is_one_sentence(caught.value)
        assert list_banks(where) == []


def test_reading_a_ledger_is_one_request(shared: QdrantDouble) -> None:
    where = settings(shared)
    with sample_bank(Place("server", where)) as bank:
        fill(bank, 3)
        with open_bank("bank@1", where) as reader:
            shared.requests.clear()
            reader.reload()
            assert [request.operation for request in shared.requests] == ["scroll"]


def test_a_large_ledger_is_read_whole(shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbank.bank.store.server.ledger._SCROLL", 3)
    with sample_bank(Place("server", settings(shared)), layers=[4]) as bank:
        for name in "hgfedcba":
            fill(bank, 1, name)
        assert list(bank.corpora) == list("abcdefgh")
