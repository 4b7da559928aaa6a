"""Banks on a cluster that grows and shrinks, against the double: copies of shards, ledgers, and what can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import models

from latentbank.bank.replication import replicate_banks
from latentbank.bank.store.backends import backend
from latentbank.bank.store.names import collection_name, ledger_name
from latentbank.bank.store.server import replicas
from latentbank.errors import BankNotFound, BankUnavailable, QueryError
from tests.bank.samples import points, units
from tests.bank.servers import filled, settings
from tests.cli.commands import caller
from tests.wire.double import Fault, QdrantDouble

LAYER, LEDGER = collection_name("bank", 4), ledger_name("bank")


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantDouble]:
    """A double of three peers, with a bank of six shards in two copies, and no pauses."""
    monkeypatch.setattr(replicas, "_PAUSES", (0.0,))
    with QdrantDouble(peers=3) as server:
        filled(server, shard_number=6, replication_factor=2).close()
        yield server


def _places(server: QdrantDouble, collection: str = LAYER) -> list[set[int]]:
    """Return the peers that hold each shard, numbered as they joined; all copies are active."""
    numbers = {peer: number for number, peer in enumerate(server.cluster.peers)}
    found = server.cluster.replicas(collection)
    assert all(state is models.ReplicaState.ACTIVE for of in found for state in of.values())
    return [{numbers[peer] for peer in of} for of in found]


def _ledger(server: QdrantDouble) -> None:
    """Let the bank have a ledger on every node, however it is stored."""
    client = replicas.Connection(settings(server)).rest
    if not any(item.name == LEDGER for item in client.get_collections().collections):
        client.create_collection(
            LEDGER,
            vectors_config={},
            replication_factor=len(server.cluster.peers),
            write_consistency_factor=len(server.cluster.peers) // 2 + 1,
        )


def _params(server: QdrantDouble, collection: str) -> tuple[int | None, int | None]:
    params = replicas.Connection(settings(server)).rest.get_collection(collection).config.params
    return params.replication_factor, params.write_consistency_factor


def test_a_bank_of_one_node_gets_copies_when_others_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_PAUSES", (0.0,))
    with QdrantDouble() as server:
        store = filled(server)
        _ledger(server)
        with pytest.raises(BankUnavailable, match="runs alone, not as part of a cluster"):
            replicate_banks(["bank"], settings(server), 2)
        server.cluster.join()
        server.cluster.join()
        given = settings(server, write_consistency_factor=2)
        done = {one.collection: one for one in replicate_banks(["bank"], given, 2)}
        assert (done[LAYER].copies, done[LAYER].made, done[LAYER].removed) == (2, 1, 0)
        assert (done[LEDGER].copies, done[LEDGER].made) == (3, 2)
        assert [len(of) for of in _places(server)] == [2]
        assert _places(server, LEDGER) == [{0, 1, 2}]
        assert (_params(server, LAYER), _params(server, LEDGER)) == ((2, 2), (3, 2))
        # Readers that have the bank open go on.
        (hits,) = store.search(4, units(1), 5, exact=True)
        assert len(hits) == 5
        # Run again, it finds nothing to do.
        assert {one.made for one in replicate_banks(["bank"], given, 2)} == {0}
        # Without a number, a bank keeps as many copies as it has.
        assert {one.copies for one in replicate_banks([], settings(server))} == {2, 3}
        assert _params(server, LAYER) == (2, 2)
        store.close()


def test_readers_and_jobs_go_on_meanwhile(lab: QdrantDouble) -> None:
    lab.cluster.join()
    store = backend(settings(lab)).open("bank")
    found: list[int] = []
    totals = set()

    class Meanwhile:
        def update(self, done: float, total: float | None = None) -> None:
            store.upsert(4, points(1, "late", first=int(done)))
            found.append(len(store.search(4, units(1), 5, exact=True)[0]))
            totals.add(total)

        def stage(self, what: str, unit: str) -> None:
            """Nothing of this sort is reported."""

    replicate_banks(["bank"], settings(lab), progress=Meanwhile())
    assert totals == {len(found) - 1}  # before each change, and at the end
    assert len(found) > 6
    assert set(found) == {5}
    assert store.count(4) == 60 + len(found)
    store.close()


def test_a_node_that_joins_takes_its_share(lab: QdrantDouble) -> None:
    lab.cluster.join()
    replicate_banks(["bank"], settings(lab))
    places = _places(lab)
    assert all(len(of) == 2 for of in places)
    assert [sum(node in of for of in places) for node in range(4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("name", ["qdrant-1", "number"])
def test_a_node_is_drained_before_it_is_taken_away(lab: QdrantDouble, name: str) -> None:
    _ledger(lab)
    gone = lab.cluster.peers[1]
    done = replicate_banks([], settings(lab), leaving=str(gone) if name == "number" else name)
    assert {one.collection: one.copies for one in done} == {LAYER: 2, LEDGER: 2}
    assert all(of == {0, 2} for of in (*_places(lab), *_places(lab, LEDGER)))
    assert lab.cluster.remove(gone, force=False)
    assert _params(lab, LEDGER) == (2, 2)
    store = backend(settings(lab)).open("bank")
    assert store.count(4) == 60
    store.close()


def test_a_node_that_is_gone_for_good_is_replaced(lab: QdrantDouble) -> None:
    lab.cluster.remove(lab.cluster.peers[2], force=True)  # its disk is lost
    assert any(len(of) == 1 for of in _places(lab))
    lab.cluster.join()
    replicate_banks([], settings(lab))
    assert all(len(of) == 2 for of in _places(lab))


def test_a_copy_that_cannot_be_read_counts_but_is_not_copied_from(lab: QdrantDouble) -> None:
    dead = lab.cluster.peers[0]
    for shard, of in enumerate(lab.cluster.replicas(LAYER)):
        if dead in of:
            lab.cluster.set_state(LAYER, shard, dead, models.ReplicaState.DEAD)
    # The server repairs it by itself once the node is back; nothing is copied now.
    assert {one.made for one in replicate_banks([], settings(lab))} == {0}
    # A dead node can be emptied, too: its shards have other copies.
    replicate_banks([], settings(lab), leaving=str(dead))
    assert all(of == {1, 2} for of in _places(lab))


def test_a_shard_without_any_copy_to_read_stops_it(lab: QdrantDouble) -> None:
    for peer in lab.cluster.replicas(LAYER)[3]:
        lab.cluster.set_state(LAYER, 3, peer, models.ReplicaState.DEAD)
    with pytest.raises(BankUnavailable, match="No copy of shard 3 of bank--L04 can be read"):
        replicate_banks([], settings(lab), 3)


def test_killed_and_run_again_it_continues(lab: QdrantDouble) -> None:
    lab.cluster.join()
    lab.inject(Fault.refuse, times=20, operation="update_cluster", after=2)
    with pytest.raises(BankUnavailable):
        replicate_banks([], settings(lab, retries=0))
    lab.clear_faults()
    replicate_banks([], settings(lab))
    assert [sum(node in of for of in _places(lab)) for node in range(4)] == [3, 3, 3, 3]


def test_killed_between_a_copy_and_its_removal_it_leaves_none_too_many(lab: QdrantDouble) -> None:
    lab.cluster.join()
    replicate_banks([], settings(lab))
    for after in range(3):
        lab.cluster.join()
        lab.inject(Fault.refuse, times=20, operation="update_cluster", after=after)
        with pytest.raises(BankUnavailable):
            replicate_banks([], settings(lab, retries=0))
        lab.clear_faults()
        replicate_banks([], settings(lab))
        assert all(len(of) == 2 for of in _places(lab))


@pytest.mark.parametrize("change", ["a copy", "a removal"])
def test_a_lost_answer_does_no_harm(lab: QdrantDouble, change: str) -> None:
    lab.cluster.join()
    lab.inject(Fault.drop_after_apply, operation="update_cluster", after=0 if change == "a copy" else 1)
    replicate_banks([], settings(lab))
    assert [sum(node in of for of in _places(lab)) for node in range(4)] == [3, 3, 3, 3]


def test_a_copy_that_does_not_arrive_is_an_error(lab: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas.Cluster, "_order", lambda self, shard, node: None)
    with pytest.raises(BankUnavailable, match=r"was not copied to http://qdrant-\d:6335/: see the log"):
        replicate_banks([], settings(lab), 3)


def test_wrong_names_are_named(lab: QdrantDouble, tmp_path: Any) -> None:
    with pytest.raises(QueryError, match=r"no node 'qdrant-9'; it has qdrant-0 \(\d+\)"):
        replicate_banks([], settings(lab), leaving="qdrant-9")
    with pytest.raises(BankNotFound, match="no bank 'other'"):
        replicate_banks(["other"], settings(lab))
    with pytest.raises(BankUnavailable, match="Embedded banks have no nodes"):
        replicate_banks([], settings(lab, url="", data_dir=tmp_path))


def test_on_the_command_line(
    lab: QdrantDouble, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    run = caller(monkeypatch, capfd, tmp_path, 120)
    monkeypatch.setenv("LATENTBANK_URL", lab.url)
    monkeypatch.setenv("LATENTBANK_GRPC_PORT", str(lab.grpc_port))
    code, out, err = run("bank", "replicate", "bank", "--copies", "3", "--json")
    assert code == 0, err
    done = json.loads(out)["collections"]
    assert {"collection": LAYER, "copies": 3, "made": 6, "removed": 0} in done
    code, out, _ = run("bank", "replicate", "--leaving", "qdrant-2")
    assert code == 0
    assert LAYER in out
    assert "'qdrant-2' holds nothing of these banks any more." in out
    assert all(of == {0, 1} for of in _places(lab))
    code, _, err = run("bank", "replicate", "--leaving", "none")
    assert code == 2
    assert "--leaving" in err
