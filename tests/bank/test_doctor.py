"""The doctor: each check is well where all is well, and turns where something is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qdrant_client.http import models as m

from latentbank.bank.check import Check, looked
from latentbank.bank.doctor import Examination, examine
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import FEW, Machine
from latentbank.bank.token import read_token
from latentbank.errors import BankUnavailable
from tests.bank.samples import Place, Start, fill, next_line, sample_bank, soon
from tests.bank.servers import KEY, Doubles, settings
from tests.wire.double import Fault, QdrantDouble
from tests.wire.keys import MANAGES, WRITES
from tests.wire.telemetry import RAM

CHECKS = "latentbank.bank.store.server.checks"
READER = "the-readers-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def cluster(quick_disk: Path) -> Iterator[QdrantDouble]:
    """Three nodes, with a bank that has two copies of each shard."""
    with QdrantDouble(api_key=KEY, read_only_key=READER, peers=3) as double:
        with sample_bank(Place("server", of(double, replication_factor=2))) as bank:
            fill(bank, 20)
        yield double


def of(server: QdrantDouble, **changes: Any) -> Settings:
    return settings(server, **{"api_key": KEY, **changes})


def states(found: Examination) -> dict[str, str]:
    """Return the worst state of each check."""
    order = ("ok", "unknown", "warning", "wrong")
    worst: dict[str, str] = {}
    for check in found.checks:
        worst[check.name] = max(worst.get(check.name, "ok"), check.state, key=order.index)
    return worst


def one(found: Examination, name: str) -> Check:
    """Return the first check of a name that is not ok, else the first."""
    named = [check for check in found.checks if check.name == name]
    return next((check for check in named if check.state != "ok"), named[0])


def bad(found: Examination) -> set[str]:
    return {name for name, state in states(found).items() if state != "ok"} - {"model"}


def test_a_healthy_cluster(cluster: QdrantDouble) -> None:
    cluster.requests.clear()
    found = examine(of(cluster), "bank")
    assert bad(found) == set()
    assert found.well
    changes = {
        item.operation: item.summary for item in cluster.requests if item.operation in WRITES | MANAGES
    }
    assert changes == {"update_aliases": {"actions": []}}  # to see what the key may do
    assert list(states(found)) == [
        "server", "TLS", "gRPC", "key", "cluster", "collections", "shards", "issues",
        "bank", "layers", "model", "memory", "disk",
    ]  # fmt: skip
    assert one(found, "server").seen == f"Qdrant 1.18.2 answers at {cluster.url}"
    assert one(found, "key").seen == "the key may read and write"
    assert one(found, "cluster").seen == "3 nodes"
    assert one(found, "bank").seen == "20 contexts of 1 corpus in layers 4, 8"
    assert not [check for check in found.checks if KEY in repr(check)]
    assert bad(examine(of(cluster))) == set()  # without a bank


# -- the server ----------------------------------------------------------------------------------------


def test_a_server_that_is_away(double: Doubles) -> None:
    server = double()
    server.stop()
    found = examine(settings(server), "bank")
    assert states(found) == {"server": "wrong"}
    assert one(found, "server").remedy == "Start the server, or correct LATENTBANK_URL."


def test_a_server_that_is_too_old(double: Doubles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.wire.engine.VERSION", "1.17.9")
    check = one(examine(settings(double())), "server")
    assert (check.state, check.remedy) == ("wrong", "Update it: a bank needs 1.18 or newer.")


def test_a_closed_grpc_port(double: Doubles) -> None:
    server = double(grpc=False)
    check = one(examine(settings(server)), "gRPC")
    assert check.state == "warning"
    assert check.seen == f"port {server.grpc_port} does not answer (UNAVAILABLE)"
    assert states(examine(settings(server, "rest")))["gRPC"] == "ok"  # not wanted


def test_a_key_that_is_too_long_for_grpc(cluster: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CHECKS}.LONGEST_KEY", 5)
    check = one(examine(of(cluster)), "gRPC")
    assert (check.state, check.seen) == (
        "warning",
        f"the key has {len(KEY)} characters, and gRPC carries up to 5",
    )


@pytest.mark.parametrize(
    ("key", "state", "seen"),
    [
        (None, "wrong", "the server asks for one"),
        ("another", "wrong", "the server refuses the key"),
        (READER, "ok", "the key may read"),
        (-1, "wrong", "the token ended on"),
        (3, "warning", "the token may read, until"),
        (90, "ok", "the token may read, until"),
    ],
)
def test_keys(cluster: QdrantDouble, key: str | int | None, state: str, seen: str) -> None:
    """Of a token, the days until it ends."""
    if isinstance(key, int):
        key = read_token(KEY, ["bank"], [4, 8], datetime.now(UTC) + timedelta(days=key, hours=1))
    found = examine(of(cluster, api_key=key), "bank")
    check = one(found, "key")
    assert (check.state, check.seen.startswith(seen)) == (state, True)
    assert ("bank" in states(found)) == (state != "wrong")  # nothing behind it can be seen
    assert key is None or key not in repr(found)


def test_a_token_may_not_see_everything(cluster: QdrantDouble) -> None:
    """What it may not see is unknown, and what it may see is told."""
    key = read_token(KEY, ["bank"], [4, 8], datetime.now(UTC) + timedelta(days=90))
    found = states(examine(of(cluster, api_key=key), "bank"))
    assert (found["cluster"], found["collections"], found["bank"]) == ("unknown", "ok", "ok")


def test_a_server_without_a_key(double: Doubles, monkeypatch: pytest.MonkeyPatch) -> None:
    server = double()
    assert one(examine(settings(server)), "key") == Check("key", "ok", "the server asks for none")
    monkeypatch.setattr(f"{CHECKS}._LOOPBACK", ())
    found = examine(settings(server))
    assert (one(found, "key").state, one(found, "TLS").state) == ("warning", "warning")
    assert one(found, "TLS").seen == "requests travel unencrypted"


def test_tls(double: Doubles, monkeypatch: pytest.MonkeyPatch) -> None:
    server, other = double(tls=True), double(tls=True)
    check = one(examine(settings(server)), "TLS")
    assert (check.state, check.remedy) == ("warning", "Renew the certificate in time.")  # it lasts for a day
    monkeypatch.setattr(f"{CHECKS}._SOON", 0)
    assert one(examine(settings(server)), "TLS").state == "ok"
    found = examine(settings(server, tls_ca=other.ca_file))
    assert states(found) == {"TLS": "wrong"}
    assert "LATENTBANK_TLS_CA" in one(found, "TLS").remedy


# -- its cluster and collections -----------------------------------------------------------------------


@pytest.mark.parametrize("asked", [0, 1], ids=["the leader is asked", "another node is asked"])
def test_a_node_that_is_away(cluster: QdrantDouble, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = cluster.cluster.peers
    monkeypatch.setattr(cluster.cluster, "peer", lambda node: peers[asked])
    cluster.cluster.silence(peers[2])
    check = one(examine(of(cluster)), "cluster")
    cluster.cluster.silence()
    assert check.state == "wrong"
    assert check.seen == "3 nodes, of which http://qdrant-2:6335/ does not answer"
    assert one(examine(of(cluster)), "cluster").seen == "3 nodes"


@pytest.mark.parametrize(
    ("state", "expected", "seen"),
    [
        (m.ReplicaState.DEAD, "wrong", "copies are dead: bank--L04"),
        (m.ReplicaState.PARTIAL, "warning", "copies are being made: bank--L04"),
        (None, "warning", "there is no second copy: bank--L04"),
    ],
    ids=["dead", "partial", "single"],
)
def test_copies_of_shards(
    cluster: QdrantDouble, state: m.ReplicaState | None, expected: str, seen: str
) -> None:
    held = cluster.cluster._replicas["bank--L04"][0]
    peer = next(iter(held))
    if state is None:
        del held[peer]
    else:
        cluster.cluster.set_state("bank--L04", 0, peer, state)
    check = one(examine(of(cluster), "bank"), "shards")
    held[peer] = m.ReplicaState.ACTIVE
    assert (check.state, check.seen) == (expected, seen)


def test_collections(shared: QdrantDouble) -> None:
    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 20)
    optimizers = shared.optimizers("bank--L08")

    def seen() -> tuple[str, str]:
        check = one(examine(settings(shared), "bank"), "collections")
        return check.state, check.seen

    assert seen() == ("ok", "2 layers, all indexed")
    optimizers.failure = "No space left on device"
    assert seen() == ("wrong", "a change or an index failed: bank--L08 (No space left on device)")
    optimizers.failure = None
    optimizers.changed(due=True)
    optimizers.restarted()
    assert seen() == ("warning", "not optimized since the server was restarted: bank--L08")


@pytest.mark.parametrize("kind", ["embedded", "server"])
def test_a_layer_that_is_not_indexed(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "embedded":
        place = Place(kind, load_settings(data_dir=request.getfixturevalue("data_dir")))
        name, seen = "layers", "layer 8 is not indexed"
    else:
        place = Place(kind, settings(request.getfixturevalue("shared"), upload_batch=500))
        name, seen = "collections", "not indexed, so searches are slow: bank--L08"
    with sample_bank(place) as bank:
        fill(bank, FEW + 1)
        bank.store.index(4)
    found = examine(place.settings, "bank")
    assert bad(found) == {name}
    assert (one(found, name).state, one(found, name).seen) == ("warning", seen)


def test_what_the_server_complains_about(shared: QdrantDouble) -> None:
    issue = {
        "id": "UNINDEXED_FIELD/bank--L04",
        "description": "Unindexed field 'x' might be slowing\nqueries down",
        "solution": {
            "immediate": {"message": "Create an index on field 'x'. Check the documentation", "action": {}}
        },
        "timestamp": "2026-01-01T00:00:00Z",
        "related_collection": "bank--L04",
    }
    shared.issues.append(issue)
    shared.issues.append(issue | {"related_collection": "photos"})  # not ours
    found = examine(settings(shared), "bank")
    shared.issues.clear()
    assert [check for check in found.checks if check.name == "issues"] == [
        Check(
            "issues",
            "warning",
            "Unindexed field 'x' might be slowing queries down (bank--L04)",
            "Create an index on field 'x'.",
        )
    ]


# -- the bank ------------------------------------------------------------------------------------------


def test_a_bank_that_is_not_there(place: Place) -> None:
    found = examine(place.settings, "nothing")
    assert one(found, "bank").state == "wrong"
    assert not found.well


def test_a_corpus_that_is_not_complete(place: Place) -> None:
    sample_bank(place).close()
    assert one(examine(place.settings, "bank"), "bank").seen == "it holds nothing yet"
    with sample_bank(place) as bank:
        fill(bank, 5, complete=False)
    check = one(examine(place.settings, "bank"), "bank")
    assert (check.state, check.seen.endswith("not complete: animals")) == ("warning", True)


def test_a_layer_that_is_gone(shared: QdrantDouble) -> None:
    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 5)
    shared.delete("bank--L08")

    def found() -> bool:
        check = one(examine(settings(shared), "bank"), "layers")
        return (check.state, check.seen) == ("wrong", "layer 8 is gone")

    assert soon(found)


def test_the_model(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("embedded", load_settings(data_dir=data_dir))
    with sample_bank(place) as bank:
        fill(bank, 5)
    with sample_bank(place, "own", local=True, model="my-model") as bank:
        fill(bank, 5)
    check = one(examine(place.settings, "bank"), "model")
    assert check.state == "warning"  # these tests may not ask the hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "it is downloaded from the hub" in one(examine(place.settings, "bank"), "model").seen
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    assert one(examine(place.settings, "bank"), "model").seen == "tiny/llama (f00d) is on this machine"
    check = one(examine(place.settings, "own"), "model")
    assert (check.state, check.seen) == ("warning", "my-model is not known on this machine")


def test_memory_and_disk(cluster: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    find = "latentbank.bank.store.server.backend.machine_of"
    monkeypatch.setattr(find, lambda settings, bank: Machine(1000, 1000, 3))
    found = examine(of(cluster), "bank")
    assert (one(found, "memory").state, one(found, "disk").state) == ("warning", "warning")
    assert "on each of 3 nodes, of 0 MB" in one(found, "memory").seen
    monkeypatch.setattr(find, lambda settings, bank: Machine(None, None, 3))
    assert one(examine(of(cluster), "bank"), "memory").state == "unknown"
    monkeypatch.undo()
    has = backend(of(cluster)).machine("bank")
    assert (has.ram, has.nodes, has.copies) == (RAM * 1024, 3, 2)
    assert f"of {RAM * 1024 / 1e9:.1f} GB" in one(examine(of(cluster), "bank"), "memory").seen


# -- embedded ------------------------------------------------------------------------------------------


def test_a_healthy_folder(data_dir: Path) -> None:
    place = Place("embedded", load_settings(data_dir=data_dir / "new"))
    found = examine(place.settings)
    assert states(found) == {"engine": "ok", "folder": "ok", "disk": "ok"}
    assert one(found, "folder").seen.endswith("which the first bank makes")
    with sample_bank(place) as bank:
        fill(bank, 5)
    found = examine(place.settings, "bank")
    assert bad(found) == set()
    assert list(states(found))[3:] == ["lock", "bank", "layers", "model", "memory"]


def hold(folder: str) -> None:
    with sample_bank(Place("embedded", load_settings(data_dir=folder))):
        print("open", flush=True)
        input()


def test_a_bank_that_is_open_elsewhere(data_dir: Path, start: Start) -> None:
    child = start(hold, data_dir)
    next_line(child)
    check = one(examine(load_settings(data_dir=data_dir), "bank"), "lock")
    assert check.state == "warning"
    assert f"open in another process (pid {child.pid})" in check.seen


def test_a_full_disk(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "latentbank.bank.store.embedded.checks.shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20)
    )
    check = one(examine(load_settings(data_dir=data_dir)), "disk")
    assert (check.state, check.seen) == ("wrong", "0.0 GB free")


@pytest.mark.parametrize(("lacks", "state"), [(os.R_OK, "wrong"), (os.W_OK, "warning")])
def test_a_folder_without_rights(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, lacks: int, state: str
) -> None:
    monkeypatch.setattr("latentbank.bank.store.embedded.checks.os.access", lambda _, mode: not mode & lacks)
    assert one(examine(load_settings(data_dir=data_dir)), "folder").state == state


# -- checks that fail ----------------------------------------------------------------------------------


def test_a_check_that_fails_is_unknown() -> None:
    def fails(error: Exception) -> Callable[[], Check]:
        def look() -> Check:
            raise error

        return look

    (check,) = looked("x", fails(ValueError("a\nb")))
    assert check == Check("x", "unknown", "it could not be seen (ValueError: a)")
    (check,) = looked("x", fails(BankUnavailable("It is away.")))
    assert check == Check("x", "unknown", "It is away.")


def test_a_server_that_fails_now_and_then(shared: QdrantDouble) -> None:
    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 5)
    shared.inject(Fault.error500, operation="issues")
    shared.inject(Fault.error500, operation="telemetry")
    found = examine(settings(shared), "bank")
    assert {name: state for name, state in states(found).items() if state == "unknown"} == {
        "issues": "unknown",
        "room": "unknown",
    }
    assert found.well
