"""Backup and restore: the real script against doubles of a cluster and of S3 on real sockets (cluster.py)."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cluster import KEY, Cluster, Collection, bucket, node
from tests.deploy.places import DEPLOY, run

SCRIPT = DEPLOY / "backup" / "s3.py"
LAYERS = ("bank--L04", "bank--L08")
WHOLE = {"name": "animals", "complete": True, "contexts": 60}
MANIFEST = {"latentbank": {"model": "tiny"}, "corpus/animals": WHOLE, "share/animals/0/2/beat": {"at": "now"}}
INDEXES = {
    "corpus": {"data_type": "keyword", "params": {"type": "keyword", "is_tenant": True}, "points": 60},
    "word": {"data_type": "keyword", "points": 60},
    "position": {"data_type": "integer", "points": 60},
}


def _filled(size: int = 3) -> Cluster:
    """Two layers in six shards, each on two nodes, and a collection that does not belong to the bank."""
    cluster = Cluster(size)
    for name in (*LAYERS, "bank2--L04", "photos"):
        config = {
            "params": {
                "vectors": {"size": 8, "distance": "Cosine", "datatype": "float16", "on_disk": True},
                "shard_number": 6,
                "replication_factor": 2,
                "write_consistency_factor": 2,
                "on_disk_payload": True,
            },
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "indexing_threshold": 1,
                "flush_interval_sec": 5,
                "max_optimization_threads": None,
            },
            "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        }
        cluster.collections[name] = Collection(config, [], dict(INDEXES))
        cluster.place(name, 6, 2)
        for number, shard in cluster.collections[name].replicas:
            lines = [f"{name} context {shard}-{line}" for line in range(10)]
            cluster.collections[name].replicas[number, shard] = lines
    cluster.collections[LAYERS[0]].config["metadata"] = dict(MANIFEST)
    return cluster


LEDGER = "bank--ledger"
MARK = {
    "latentbank": {"schema": 2},
    "latentbank-ledger": {"ledger": LEDGER, "copied": True},
}


def _row(number: int, kind: str, key: str, record: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-0000-0000-{number:012d}",
        "payload": {"kind": kind, "key": key, "record": record, "version": 1},
    }


ROWS = [
    _row(1, "entry", "animals", WHOLE),
    _row(2, "share", "0/2/beat/animals", {"at": "now"}),
    _row(3, "head", "", {"model": "tiny"}),
    _row(4, "entry", "dropped", None),
]


def _with_ledger(size: int = 3) -> Cluster:
    """The same bank with a ledger."""
    cluster = _filled(size)
    for name in LAYERS:
        cluster.collections[name].config["metadata"] = dict(MARK)
    params = {
        "vectors": {},
        "shard_number": 1,
        "replication_factor": 3,
        "write_consistency_factor": 2,
        "on_disk_payload": True,
    }
    parts = {"hnsw_config": {"m": 16}, "optimizer_config": {"indexing_threshold": 10000}}
    schema = {"version": {"data_type": "integer", "points": 4}, "kind": {"data_type": "keyword", "points": 4}}
    cluster.collections[LEDGER] = Collection({"params": params, **parts}, [], schema, {}, list(ROWS))
    return cluster


class Place:
    """Clusters on sockets, one bucket, and the script."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.objects: dict[str, bytes] = {}
        self.endpoint = stack.enter_context(bucket(self.objects))

    def up(self, cluster: Cluster) -> Cluster:
        cluster.urls = [self._stack.enter_context(node(cluster, number)) for number in range(cluster.size)]
        return cluster

    def call(
        self, command: str, place: str, urls: list[str], bank: str = "bank", **changes: str
    ) -> tuple[int, str, str]:
        environment = os.environ | {
            "LATENTBANK_API_KEY": KEY,
            "S3_ENDPOINT": self.endpoint,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something-secret",
        }
        option = "--to" if command == "backup" else "--from"
        words = [word for url in urls for word in ("--node", url)]
        done = run(
            sys.executable, SCRIPT, command, "--bank", bank, option, place, *words, env=environment | changes
        )
        assert "something-secret" not in done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        return done.returncode, done.stdout.strip(), done.stderr

    def saved(self, cluster: Cluster) -> str:
        code, out, err = self.call("backup", "s3://safe/banks", cluster.urls)
        assert code == 0, err
        return out


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack)


def _contents(cluster: Cluster, name: str) -> dict[int, set[tuple[str, ...]]]:
    """Return what the replicas of each shard hold; one tuple if they agree."""
    contents: dict[int, set[tuple[str, ...]]] = {}
    for (_, shard), lines in cluster.collections[name].replicas.items():
        contents.setdefault(shard, set()).add(tuple(lines))
    return contents


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_bank_comes_back_whole_on_a_cluster_of_any_size(place: Place, size: int) -> None:
    old = place.up(_filled())
    folder = place.saved(old)
    assert old.snapshots == {}  # no snapshot is left on the nodes
    index = json.loads(place.objects[f"/{folder.removeprefix('s3://')}/backup.json"])
    assert list(index["layers"]) == list(LAYERS)
    assert len(place.objects) == 2 * 6 + 1

    new = place.up(Cluster(size, delay=1))
    code, _, err = place.call("restore", folder, new.urls)
    assert code == 0, err
    assert list(new.collections) == list(LAYERS)
    for name in LAYERS:
        assert _contents(new, name) == _contents(old, name)
        ours, theirs = new.collections[name], old.collections[name]
        assert ours.config["params"] == theirs.config["params"]
        assert ours.config["quantization_config"]["scalar"] == {"type": "int8", "always_ram": True}
        assert ours.config["optimizer_config"]["indexing_threshold"] == 1
        assert {key: entry["data_type"] for key, entry in ours.schema.items()} == {
            key: entry["data_type"] for key, entry in INDEXES.items()
        }
        assert ours.schema["corpus"]["params"]["is_tenant"] is True
    # Heartbeats of workers that are long gone do not come back.
    assert new.collections[LAYERS[0]].config["metadata"] == {
        key: value for key, value in MANIFEST.items() if not key.startswith("share/")
    }
    assert "metadata" not in new.collections[LAYERS[1]].config
    assert old.keys == new.keys == {KEY}


def test_a_banks_images_are_backed_up_with_it_and_come_back(place: Place) -> None:
    cluster = _with_ledger(1)
    for name in (*LAYERS, LEDGER):
        made = copy.deepcopy(cluster.collections[name])
        cluster.collections[name.replace("bank--", "bank--V01234567--")] = made
    place.up(cluster)
    folders = place.saved(cluster).splitlines()
    assert [folder.split("/")[-2] for folder in folders] == ["bank", "bank--V01234567"]
    fresh = place.up(Cluster(1))
    for folder in folders:
        code, _, err = place.call("restore", folder, fresh.urls, bank=folder.split("/")[-2])
        assert code == 0, err
    assert len(fresh.collections) == 2 * len([*LAYERS, LEDGER])
    for name in fresh.collections.keys() - {LEDGER, LEDGER.replace("bank--", "bank--V01234567--")}:
        assert _contents(fresh, name) == _contents(cluster, name)


def test_a_ledger_comes_back_last_and_without_heartbeats(place: Place) -> None:
    old = place.up(_with_ledger())
    folder = place.saved(old)
    new = place.up(Cluster(3, delay=1))
    for name in (LAYERS[1], LEDGER):  # what a killed restore left
        parts = {"params": {}, "hnsw_config": {}, "optimizer_config": {}, "metadata": dict(MARK)}
        new.collections[name] = Collection(parts, [[] for _ in range(3)])
    code, _, err = place.call("restore", folder, new.urls)
    assert code == 0, err
    assert list(new.collections) == [*LAYERS, LEDGER]
    assert new.collections[LEDGER].points == [row for row in ROWS if row["payload"]["kind"] != "share"]
    assert new.collections[LEDGER].config["params"] == old.collections[LEDGER].config["params"]
    assert set(new.collections[LEDGER].schema) == {"version", "kind"}
    for name in LAYERS:
        assert _contents(new, name) == _contents(old, name)
        assert new.collections[name].config["metadata"] == MARK
    code, _, err = place.call("restore", folder, new.urls)
    assert (code, "delete it first" in err) == (2, True)


def test_a_ledger_that_changes_meanwhile_stops_a_backup(place: Place) -> None:
    cluster = place.up(_with_ledger())

    def replace_corpus(cluster: Cluster) -> None:
        cluster.collections[LEDGER].points = [
            _row(1, "entry", "animals", WHOLE | {"contexts": 61}),
            *ROWS[1:],
        ]

    cluster.during = replace_corpus
    code, _, err = place.call("backup", "s3://safe", cluster.urls)
    assert code == 2
    assert "animals changed during the backup; run the backup again." in err


def _replace_corpus(cluster: Cluster) -> None:
    cluster.collections[LAYERS[0]].config["metadata"]["corpus/animals"] = WHOLE | {"contexts": 61}


def _add_corpus(cluster: Cluster) -> None:
    cluster.collections[LAYERS[0]].config["metadata"]["corpus/plants"] = {"name": "plants", "complete": False}


def test_a_corpus_that_changes_meanwhile_stops_a_backup(place: Place) -> None:
    cluster = place.up(_filled())
    cluster.during = _replace_corpus
    code, _, err = place.call("backup", "s3://safe", cluster.urls)
    assert (code, cluster.snapshots) == (2, {})
    assert "animals changed during the backup; run the backup again." in err
    assert not [name for name in place.objects if name.endswith("backup.json")]


def test_a_corpus_that_is_being_added_does_not(place: Place) -> None:
    cluster = place.up(_filled())
    cluster.during = _add_corpus
    place.saved(cluster)


def test_a_damaged_snapshot_is_no_backup(place: Place) -> None:
    cluster = place.up(_filled())
    cluster.damage = True
    code, _, err = place.call("backup", "s3://safe", cluster.urls)
    assert (code, cluster.snapshots) == (2, {})
    assert "arrived damaged" in err


def test_every_node_must_be_named(place: Place) -> None:
    cluster = place.up(_filled())
    code, _, err = place.call("backup", "s3://safe", cluster.urls[:1])
    assert code == 2
    assert "name every node" in err
    assert place.objects == {}


def test_a_bank_that_is_there_is_not_touched(place: Place) -> None:
    cluster = place.up(_filled())
    folder = place.saved(cluster)
    before = _contents(cluster, LAYERS[0])
    code, _, err = place.call("restore", folder, cluster.urls)
    assert code == 2
    assert "delete it first" in err
    assert _contents(cluster, LAYERS[0]) == before


def test_what_a_killed_restore_left_is_taken_away(place: Place) -> None:
    folder = place.saved(place.up(_filled()))
    new = place.up(Cluster(1))
    left: dict[str, Any] = {"params": {}, "hnsw_config": {}, "optimizer_config": {}}
    new.collections[LAYERS[1]] = Collection(left, [[]])
    assert place.call("restore", folder, new.urls)[0] == 0
    assert new.collections[LAYERS[1]].config["params"]["shard_number"] == 6


def test_a_damaged_object_stops_a_restore_before_there_is_a_bank(place: Place) -> None:
    folder = place.saved(place.up(_filled()))
    new = place.up(Cluster(1))
    damaged = next(name for name in place.objects if name.endswith("L08/shard-3.snapshot"))
    place.objects[damaged] += b"!"
    code, _, err = place.call("restore", folder, new.urls)
    assert code == 2
    assert "checksum" in err
    assert not any("metadata" in entry.config for entry in new.collections.values())


@pytest.mark.parametrize(
    ("where", "changes", "message"),
    [
        ("safe/banks", {}, "not a location in S3"),
        ("s3://safe", {"LATENTBANK_API_KEY": "wrong"}, "403"),
        ("s3://safe", {"bank": "none"}, "has no bank 'none'"),
    ],
)
def test_an_error_is_one_sentence(place: Place, where: str, changes: dict[str, str], message: str) -> None:
    cluster = place.up(_filled())
    code, _, err = place.call("backup", where, cluster.urls, **changes)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_key_may_come_from_a_file(place: Place, tmp_path: Path) -> None:
    cluster = place.up(_filled())
    file = tmp_path / "key"
    file.write_text(KEY + "\n", encoding="utf-8")
    changes = {"LATENTBANK_API_KEY": "", "LATENTBANK_API_KEY_FILE": str(file)}
    assert place.call("backup", "s3://safe", cluster.urls, **changes)[0] == 0
