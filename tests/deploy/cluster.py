"""What a backup needs of a cluster of Qdrant nodes, and a bucket: small doubles on real sockets.

The nodes know collections, their configuration and metadata, and the snapshots of shards. A shard is a set of lines,
and its snapshot is these lines. Bodies are parsed by qdrant-client's own models, so that a wrong one is refused.
Anything else is answered with 404. These tests do not show that a real cluster does the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client.http import models as m

KEY = "the-admin-key-of-this-cluster"


@dataclass
class Collection:
    """A collection, and where its shards' replicas are: `placed[node]` are shards."""

    config: dict[str, Any]
    placed: list[list[int]]
    schema: dict[str, Any] = field(default_factory=dict)
    # The lines that each node has of each shard.
    replicas: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    # Points of a collection without vectors, which all nodes have.
    points: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Cluster:
    """The nodes' state. Other nodes answer their first `delay` requests for a new collection with 404."""

    size: int
    collections: dict[str, Collection] = field(default_factory=dict)
    snapshots: dict[tuple[int, str], bytes] = field(default_factory=dict)
    delay: int = 0
    damage: bool = False
    during: Any = None
    urls: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)

    def place(self, name: str, shards: int, copies: int) -> None:
        """Spread a collection's shards, differently in clusters of different size."""
        placed: list[list[int]] = [[] for _ in range(self.size)]
        for shard in range(shards):
            for copy in range(min(copies, self.size)):
                placed[(shard * 2 + copy) % self.size].append(shard)
        collection = self.collections[name]
        collection.placed = placed
        collection.replicas = {(node, shard): [] for node in range(self.size) for shard in placed[node]}

    def answer(self, node: int, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Answer one request to one node."""
        route = path.split("?")[0]
        if (method, route) == ("GET", "/"):
            return 200, {"version": "1.18.2"}
        if (method, route) == ("GET", "/collections"):
            return 200, {"result": {"collections": [{"name": name} for name in self.collections]}}
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", route)
        if not found:
            return 404, {"status": {"error": "no such path"}}
        name, rest = found[1], found[2] or ""
        if (method, rest) == ("PUT", ""):
            made = m.CreateCollection.model_validate(body).model_dump(mode="json", exclude_none=True)
            params = {
                key: made[key]
                for key in made
                if key not in ("hnsw_config", "optimizers_config", "quantization_config", "metadata")
            }
            self.collections[name] = Collection(
                {
                    "params": params,
                    "hnsw_config": made.get("hnsw_config"),
                    "optimizer_config": made.get("optimizers_config"),
                    "quantization_config": made.get("quantization_config"),
                },
                [],
            )
            self.place(name, made["shard_number"], made["replication_factor"])
            self.unknown = {other: self.delay for other in range(self.size) if other != node}
            return 200, {"result": True}
        collection = self.collections.get(name)
        if collection is None:
            return 404, {"status": {"error": f"Collection `{name}` doesn't exist!"}}
        return self._inside(node, method, rest, name, collection, body)

    unknown: dict[int, int] = field(default_factory=dict)

    def _inside(
        self, node: int, method: str, rest: str, name: str, collection: Collection, body: Any
    ) -> tuple[int, Any]:
        if (method, rest) == ("GET", ""):
            return 200, {"result": {"config": collection.config, "payload_schema": collection.schema}}
        if (method, rest) == ("DELETE", ""):
            del self.collections[name]
            return 200, {"result": True}
        if (method, rest) == ("PATCH", ""):
            m.UpdateCollection.model_validate(body)
            collection.config["metadata"] = collection.config.get("metadata", {}) | body["metadata"]
            return 200, {"result": True}
        if (method, rest) == ("PUT", "/index"):
            m.CreateFieldIndex.model_validate(body)
            given = body["field_schema"]
            kind = given if isinstance(given, str) else given["type"]
            collection.schema[body["field_name"]] = {
                "data_type": kind,
                "params": None if given == kind else given,
            }
            return 200, {"result": {}}
        if (method, rest) == ("POST", "/points/scroll"):
            given = m.ScrollRequest.model_validate(body)
            ids = [point["id"] for point in collection.points]
            at = ids.index(given.offset) if given.offset else 0
            end = at + (given.limit or 10)
            following = ids[end] if end < len(ids) else None
            return 200, {"result": {"points": collection.points[at:end], "next_page_offset": following}}
        if (method, rest) == ("PUT", "/points"):
            points = m.PointsList.model_validate(body).points
            collection.points = [{"id": point.id, "payload": point.payload} for point in points]
            return 200, {"result": {}}
        if (method, rest) == ("GET", "/cluster"):
            if self.unknown.get(node, 0) > 0:
                self.unknown[node] -= 1
                return 404, {"status": {"error": "not known here"}}
            local = [{"shard_id": shard, "state": "Active"} for shard in collection.placed[node]]
            return 200, {"result": {"local_shards": local}}
        found = re.fullmatch(r"/shards/(\d+)/snapshots(?:/([^/]+))?", rest)
        if not found or (node, int(found[1])) not in collection.replicas:
            return 404, {"status": {"error": "no such shard here"}}
        return self._snapshot(node, method, name, int(found[1]), found[2], collection, body)

    def _snapshot(
        self,
        node: int,
        method: str,
        name: str,
        shard: int,
        file: str | None,
        collection: Collection,
        body: Any,
    ) -> tuple[int, Any]:
        if method == "POST":
            data = "\n".join(collection.replicas[node, shard]).encode()
            self.snapshots[node, f"{name}-{shard}.snapshot"] = data
            if self.during is not None:
                self.during(self)
            payload = {
                "name": f"{name}-{shard}.snapshot",
                "size": len(data),
                "checksum": hashlib.sha256(data).hexdigest(),
            }
            return 200, {"result": payload}
        if method == "PUT":
            recovery = m.ShardSnapshotRecover.model_validate(body)
            with urllib.request.urlopen(recovery.location, timeout=60) as answer:
                data = answer.read()
            if hashlib.sha256(data).hexdigest() != recovery.checksum:
                return 400, {"status": {"error": "Snapshot checksum mismatch"}}
            assert recovery.priority == m.SnapshotPriority.NO_SYNC
            collection.replicas[node, shard] = data.decode().split("\n")
            return 200, {"result": True}
        data = self.snapshots[node, str(file)]
        if method == "DELETE":
            del self.snapshots[node, str(file)]
            return 200, {"result": True}
        return 200, data[:-1] + b"?" if self.damage else data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _reply(self, code: int, data: bytes, **headers: str) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def node(cluster: Cluster, number: int) -> Iterator[str]:
    """Serve one node, and yield its URL."""

    class Node(_Handler):
        def _do(self) -> None:
            cluster.keys.add(self.headers.get("api-key"))
            raw = self._body()
            if self.headers.get("api-key") != KEY:
                self._reply(403, b'{"status": {"error": "forbidden"}}')
                return
            code, payload = cluster.answer(number, self.command, self.path, json.loads(raw) if raw else None)
            self._reply(code, payload if isinstance(payload, bytes) else json.dumps(payload).encode())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    with _serving(Node) as url:
        yield url


@contextmanager
def bucket(objects: dict[str, bytes]) -> Iterator[str]:
    """Serve S3, whose buckets are `objects`, and yield its URL. Requests need a signature, which is not checked."""

    class S3(_Handler):
        def _do(self) -> None:
            name, raw = self.path.split("?")[0], self._body()
            if "Authorization" not in self.headers and "X-Amz-Signature=" not in self.path:
                self._reply(403, b"")
            elif self.command == "PUT":
                objects[name] = raw
                self._reply(200, b"", ETag='"0"')
            elif name in objects:
                self._reply(200, objects[name], ETag='"0"')
            else:
                error = "<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>"
                self._reply(404, error.encode(), **{"content-type": "application/xml"})

        do_GET = do_PUT = do_HEAD = _do

    with _serving(S3) as url:
        yield url
