#!/usr/bin/env python
"""Back up a bank on a Qdrant server or cluster to S3, and restore it: one snapshot of each shard, and the ledger.

    s3.py backup  --bank NAME --to   s3://BUCKET/PREFIX          --node URL [--node URL ...]
    s3.py restore --bank NAME --from s3://BUCKET/PREFIX/NAME/TIME --node URL [--node URL ...]

A bank's images are backed up with it, each VLM's to a folder of its own, NAME--V01234567/TIME, which is restored under
that name. Name every node of a cluster by its own address, not by that of a load balancer. The environment holds the
keys: LATENTBANK_API_KEY or LATENTBANK_API_KEY_FILE (the admin key), LATENTBANK_TLS_CA, S3_ENDPOINT, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. deploy/README.md, "Backup", explains the design.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from minio import Minio
from minio.error import MinioException

INDEX = "backup.json"
"""Name of the file that is written last. A folder without it is not a backup."""
# Bytes of one part of an upload. S3 accepts 10,000 parts, so a shard can have 640 GB.
_PART = 64 << 20
# Timeout of a request: a snapshot of a large shard takes hours.
_MAX_SECONDS = 6 * 3600.0
_ENTRY = "corpus/"
_MARK = "latentbank-ledger"
_PARAMS = ("vectors", "shard_number", "replication_factor", "write_consistency_factor", "on_disk_payload")
# Seconds until all nodes must know a new collection, and between the first two checks; the pause doubles, up to 1.
_DISCOVERY_SECONDS, _FIRST_PAUSE = 60.0, 0.05


class BackupError(Exception):
    """An error a user can fix; the message says what is wrong and what to do."""


class Node:
    """A Qdrant node, accessed over REST."""

    def __init__(self, url: str, key: str | None, tls: ssl.SSLContext | None) -> None:
        self.url = url.rstrip("/")
        self._key, self._tls = key, tls

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return its `result`."""
        with self.open(method, path, body) as answer:
            return json.load(answer)["result"]

    def open(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the response as a readable stream.

        Raises:
            BackupError: the node refuses the request or cannot be reached.
        """
        headers = {"content-type": "application/json"} | ({"api-key": self._key} if self._key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=_MAX_SECONDS, context=self._tls)
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(2000).decode("utf-8", "replace")
            raise BackupError(f"{self.url} refuses {method} {path} ({error.code}): {reason}") from None
        except OSError as error:
            raise BackupError(
                f"{self.url} cannot be reached ({getattr(error, 'reason', error)}); check --node, the network and "
                "LATENTBANK_TLS_CA."
            ) from None

    def layers(self, bank: str) -> list[str]:
        """Return the names of the bank's layer collections, lowest layer first."""
        return sorted(name for name in self._names() if re.fullmatch(re.escape(bank) + r"--L\d\d+", name))

    def images(self, bank: str) -> list[str]:
        """Return the names that the bank's images are stored under, one for each VLM; its versions share them."""
        form = re.compile(re.escape(bank.partition("@")[0]) + r"--V[0-9a-f]{8}(?=--(ledger|L\d\d+)$)")
        return sorted({match[0] for name in self._names() if (match := form.match(name))})

    def ledger(self, bank: str) -> tuple[str, list[Any]] | None:
        """Return the name and the points of the bank's ledger, without the workers' heartbeats; None: it has none."""
        name = f"{bank}--ledger"
        if name not in self._names():
            return None
        points: list[Any] = []
        page = {"limit": 1000, "with_payload": True}
        while page.get("offset", "") is not None:
            found = self.ask("POST", _path(name, "points/scroll"), page)
            points += found["points"]
            page["offset"] = found.get("next_page_offset")
        return name, [point for point in points if point["payload"]["kind"] != "share"]

    def _names(self) -> list[str]:
        return [entry["name"] for entry in self.ask("GET", "/collections")["collections"]]

    def info(self, collection: str) -> Any:
        """Return the node's information about a collection."""
        return self.ask("GET", _path(collection))

    def shards(self, collection: str, active: bool = False) -> list[int]:
        """Return the shards of a collection of which this node has a replica, or an active replica."""
        local = self.ask("GET", _path(collection, "cluster"))["local_shards"]
        return [entry["shard_id"] for entry in local if entry["state"] == "Active" or not active]

    def version(self) -> str:
        """Return Qdrant's version."""
        with self.open("GET", "/") as answer:
            return str(json.load(answer)["version"])


class Bucket:
    """A folder in an S3 bucket."""

    def __init__(self, place: str, client: Minio) -> None:
        parts = urlsplit(place)
        if parts.scheme != "s3" or not parts.netloc:
            raise BackupError(f"'{place}' is not a location in S3; write s3://BUCKET/PREFIX.")
        self.name, self.prefix, self._client = parts.netloc, parts.path.strip("/"), client

    def key(self, name: str) -> str:
        """Return the full name of an object in this folder."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def put(self, name: str, stream: Any, size: int) -> None:
        """Store the content of a stream, in parts, without keeping it in memory."""
        self._client.put_object(self.name, self.key(name), stream, size, part_size=_PART)

    def get(self, name: str) -> bytes:
        """Return the content of a small object."""
        answer = self._client.get_object(self.name, self.key(name))
        try:
            return bytes(answer.read())
        finally:
            answer.close()
            answer.release_conn()

    def link(self, name: str) -> str:
        """Return a URL from which an object can be fetched without a key for six hours."""
        return self._client.presigned_get_object(self.name, self.key(name), timedelta(seconds=_MAX_SECONDS))


class _Hashed(io.RawIOBase):
    """A stream that computes its hash while it is read."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.hash = stream, hashlib.sha256()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data: bytes = self._stream.read() if size < 0 else self._stream.read(size)
        self.hash.update(data)
        return data


def backup(bank: str, bucket: Bucket, nodes: Sequence[Node]) -> str:
    """Store a bank and return the backup's folder, relative to the bucket's.

    The ledger is read before the first shard and again after the last. Corpora that are complete in both readings are
    complete in every layer of the backup. A corpus that is being added meanwhile is restored as incomplete, and its
    ingestion continues. If a complete corpus is replaced or dropped meanwhile, the backup would be inconsistent.

    Raises:
        BackupError: there is no such bank, a complete corpus changed, or a node fails.
    """
    first = nodes[0]
    layers = first.layers(bank)
    if not layers:
        raise BackupError(f"{first.url} has no bank '{bank}'; `latentbank bank list` lists the banks.")
    before, ledger = {name: first.info(name) for name in layers}, first.ledger(bank)
    folder = f"{bank}/{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
    saved: dict[str, Any] = {}
    for name, info in before.items():
        owners = _owners(name, nodes, info["config"]["params"].get("shard_number") or 1)
        saved[name] = {
            "config": info["config"] | {"metadata": _kept(info)},
            "payload_schema": info.get("payload_schema") or {},
            "shards": {
                str(shard): _store(node, name, shard, bucket, f"{folder}/{_file(name, shard)}")
                for shard, node in owners.items()
            },
        }
    now = _corpora({name: first.info(name) for name in layers}, first.ledger(bank))
    complete = {corpus: entry for corpus, entry in _corpora(before, ledger).items() if entry.get("complete")}
    if changed := [corpus for corpus, entry in complete.items() if now.get(corpus) != entry]:
        raise BackupError(f"The corpus {', '.join(changed)} changed during the backup; run the backup again.")
    index: dict[str, Any] = {"format": 1, "bank": bank, "qdrant": first.version(), "layers": saved}
    if ledger:
        index["format"] = 2
        name, points = ledger
        kept = {key: first.info(name)[key] for key in ("config", "payload_schema")}
        index["ledger"] = {"name": name, **kept, "points": points}
    data = json.dumps(index, indent=1).encode()
    bucket.put(f"{folder}/{INDEX}", io.BytesIO(data), len(data))
    return folder


def restore(bank: str, bucket: Bucket, nodes: Sequence[Node]) -> None:
    """Restore a bank from a backup; the server must have no bank of that name.

    The collections are created first, and the cluster distributes their shards over the nodes it has now. Then every
    node fetches the snapshots of its shards. The ledger, or the manifest of a bank that has none, is written last:
    until then no reader sees the bank, and the next restore deletes what an interrupted one left.

    Raises:
        BackupError: the backup is not one of this bank, the server has the bank already, or a node fails.
    """
    first = nodes[0]
    index = json.loads(bucket.get(INDEX))
    if index.get("format") not in (1, 2) or index.get("bank") != bank:
        raise BackupError(f"s3://{bucket.name}/{bucket.prefix} is not a readable backup of a bank '{bank}'.")
    there, ledger = first.layers(bank), first.ledger(bank)
    metadata = [_kept(first.info(name)) for name in there]
    if (ledger and ledger[1]) or any(kept and _MARK not in kept for kept in metadata):
        raise BackupError(
            f"{first.url} already has a bank '{bank}'; delete it first (`latentbank bank delete {bank}`)."
        )
    for name in [*there, *(ledger[:1] if ledger else ())]:
        first.ask("DELETE", _path(name))
    for name, layer in index["layers"].items():
        _create(first, name, layer)
        for node, shard in _replicas(name, nodes, sorted(map(int, layer["shards"]))):
            report(f"{name}: shard {shard} to {node.url}")
            recovery = {
                "location": bucket.link(_file(name, shard)),
                "checksum": layer["shards"][str(shard)]["sha256"],
                # All replicas get the same snapshot, so none needs to be copied from another.
                "priority": "no_sync",
            }
            node.ask("PUT", _path(name, f"shards/{shard}/snapshots/recover?wait=true"), recovery)
    for name, layer in index["layers"].items():
        if own := layer["config"]["metadata"]:
            first.ask("PATCH", _path(name), {"metadata": own})
    if ledger := index.get("ledger"):
        _create(first, ledger["name"], ledger)
        points = [
            {"id": point["id"], "vector": {}, "payload": point["payload"]} for point in ledger["points"]
        ]
        first.ask("PUT", _path(ledger["name"], "points?wait=true"), {"points": points})


def _create(node: Node, name: str, saved: Any) -> None:
    """Create a collection with its payload indexes as they were saved."""
    node.ask("PUT", _path(name), _creation(saved["config"]))
    for field, kind in saved["payload_schema"].items():
        schema = kind.get("params") or kind["data_type"]
        node.ask("PUT", _path(name, "index?wait=true"), {"field_name": field, "field_schema": schema})


def _path(collection: str, *more: str) -> str:
    return "/".join(["/collections", quote(collection, safe=""), *more])


def _file(collection: str, shard: int) -> str:
    return f"{collection}/shard-{shard}.snapshot"


def _kept(info: Any) -> dict[str, Any]:
    """Return a collection's metadata without the workers' heartbeats."""
    metadata = info["config"].get("metadata") or {}
    return {key: value for key, value in metadata.items() if not key.startswith("share/")}


def _corpora(layers: dict[str, Any], ledger: tuple[str, list[Any]] | None) -> dict[str, Any]:
    """Return the entries of a bank's corpora: from its ledger, else from the metadata of its layers."""
    if ledger:
        rows = (point["payload"] for point in ledger[1])
        return {row["key"]: row["record"] for row in rows if row["kind"] == "entry" and row["record"]}
    found = [item for info in layers.values() for item in _kept(info).items()]
    return {key.removeprefix(_ENTRY): entry for key, entry in found if key.startswith(_ENTRY)}


def _owners(collection: str, nodes: Sequence[Node], count: int) -> dict[int, Node]:
    """Return for each shard a node with an active replica, distributed over the nodes."""
    having: dict[int, list[Node]] = {shard: [] for shard in range(count)}
    for node in nodes:
        for shard in node.shards(collection, active=True):
            having.setdefault(shard, []).append(node)
    if missing := [str(shard) for shard, owners in having.items() if not owners]:
        raise BackupError(
            f"None of the nodes has an active replica of {collection}'s shard {', '.join(missing)}; name every "
            "node of the cluster with --node, and repair those that are down."
        )
    return {shard: owners[shard % len(owners)] for shard, owners in sorted(having.items())}


def _replicas(collection: str, nodes: Sequence[Node], shards: list[int]) -> list[tuple[Node, int]]:
    """Return where the cluster put a new collection's shards, once all nodes know the collection."""
    until, pause = time.monotonic() + _DISCOVERY_SECONDS, _FIRST_PAUSE
    while time.monotonic() < until:
        try:
            found = [(node, shard) for node in nodes for shard in node.shards(collection)]
        except BackupError:  # a node that does not know it yet answers 404
            found = []
        if sorted({shard for _, shard in found}) == shards:
            return found
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
    raise BackupError(
        f"The shards of {collection} are not all on the named nodes; name every node of the cluster with "
        "--node."
    )


def _store(node: Node, collection: str, shard: int, bucket: Bucket, name: str) -> dict[str, Any]:
    """Make a shard's snapshot, store it in the bucket, and always delete it from the node."""
    report(f"{collection}: shard {shard} of {node.url}")
    created = node.ask("POST", _path(collection, f"shards/{shard}/snapshots?wait=true"))
    snapshot = _path(collection, f"shards/{shard}/snapshots/{quote(created['name'], safe='')}")
    try:
        with node.open("GET", snapshot) as answer:
            stream = _Hashed(answer)
            bucket.put(name, stream, int(created["size"]))
    finally:
        node.ask("DELETE", snapshot + "?wait=true")
    sha256 = stream.hash.hexdigest()
    if created.get("checksum") not in (None, sha256):
        raise BackupError(f"{name} arrived damaged from {node.url}; run the backup again.")
    return {"sha256": sha256, "size": created["size"]}


def _creation(config: Any) -> dict[str, Any]:
    """Return the arguments that create a collection with the configuration that Qdrant reports."""
    params = config["params"]
    created = {key: params.get(key) for key in _PARAMS} | {
        "hnsw_config": config["hnsw_config"],
        "optimizers_config": config["optimizer_config"],
        "quantization_config": config.get("quantization_config"),
    }
    return {key: value for key, value in created.items() if value is not None}


def report(line: str) -> None:
    """Print a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line. Exit with code 2 and one sentence if it fails."""
    parser = argparse.ArgumentParser(description="Back up a bank to S3, or restore it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, place in (("backup", "--to"), ("restore", "--from")):
        command = commands.add_parser(name)
        command.add_argument("--bank", required=True)
        command.add_argument(place, dest="place", required=True, help="s3://BUCKET/FOLDER")
        command.add_argument("--node", dest="nodes", action="append", required=True, help="a node's URL")
    arguments = parser.parse_args()
    try:
        bucket, nodes = Bucket(arguments.place, _client()), [_node(url) for url in arguments.nodes]
        if arguments.command == "backup":
            for name in (arguments.bank, *nodes[0].images(arguments.bank)):
                print(f"{arguments.place.rstrip('/')}/{backup(name, bucket, nodes)}")
        else:
            restore(arguments.bank, bucket, nodes)
            report("Restored. Check it: latentbank bank verify")
    except (BackupError, MinioException, OSError) as error:
        report(f"Error: {error}")
        sys.exit(2)


def _client() -> Minio:
    try:
        endpoint, access = urlsplit(os.environ["S3_ENDPOINT"]), os.environ["AWS_ACCESS_KEY_ID"]
        secret, region = os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_REGION"]
    except KeyError as error:
        raise BackupError(
            f'The environment variable {error.args[0]} is not set; deploy/README.md, "Backup", explains it.'
        ) from None
    token = os.environ.get("AWS_SESSION_TOKEN")
    return Minio(endpoint.netloc, access, secret, token, secure=endpoint.scheme == "https", region=region)


def _node(url: str) -> Node:
    key, file = os.environ.get("LATENTBANK_API_KEY"), os.environ.get("LATENTBANK_API_KEY_FILE")
    if not key and file:
        key = Path(file).read_text(encoding="utf-8").strip()
    authority = os.environ.get("LATENTBANK_TLS_CA")
    tls = ssl.create_default_context(cafile=authority) if url.startswith("https://") else None
    return Node(url, key, tls)


if __name__ == "__main__":
    main()
