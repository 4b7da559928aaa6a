"""Qdrant's REST API on a socket."""

import contextlib
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import pydantic_core
import zstandard
from pydantic import TypeAdapter
from qdrant_client.http import models as m

from tests.wire import openapi
from tests.wire.archive import Snapshot
from tests.wire.collection import Upsert, dense
from tests.wire.errors import Refusal, WireError, not_spoken
from tests.wire.faults import Fault, Trouble
from tests.wire.handler import Request, RequestHandler, Struck
from tests.wire.parameters import from_query

MAX_BODY = 32 * 1024 * 1024
"""Bytes a request's body may have, Qdrant's default."""

CUT = 1 << 12
"""Bytes of a snapshot that are sent before it is cut."""

# Number of pieces in which a slow answer is sent.
_PIECES = 4
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Route:
    """One path of the API: `body` parses its JSON, `waits` is true for writes to points."""

    method: str
    template: str
    operation: str
    body: TypeAdapter[Any] | None = None
    waits: bool = False

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.template))

    def match(self, method: str, path: str) -> re.Match[str] | None:
        """Return the match of this route with a request line, which may hold the collection's name."""
        return self._pattern.fullmatch(path) if method == self.method else None


_C = "/collections/{collection_name}"
ROUTES = (
    Route("GET", "/", "version"),
    Route("GET", "/healthz", "health"),
    Route("GET", "/livez", "health"),
    Route("GET", "/readyz", "health"),
    Route("GET", "/telemetry", "telemetry"),
    Route("GET", "/metrics", "metrics"),
    Route("GET", "/issues", "issues"),
    Route("DELETE", "/issues", "clear_issues"),
    Route("GET", "/cluster", "cluster_status"),
    Route("GET", "/cluster/telemetry", "cluster_telemetry"),
    Route("DELETE", "/cluster/peer/{peer_id}", "remove_peer"),
    Route("GET", "/collections", "list_collections"),
    Route("GET", "/aliases", "list_aliases"),
    Route("POST", "/collections/aliases", "update_aliases", TypeAdapter(m.ChangeAliasesOperation)),
    Route("PUT", _C, "create_collection", TypeAdapter(m.CreateCollection)),
    Route("GET", _C, "get_collection"),
    Route("PATCH", _C, "update_collection", TypeAdapter(m.UpdateCollection)),
    Route("DELETE", _C, "delete_collection"),
    Route("GET", _C + "/exists", "collection_exists"),
    Route("GET", _C + "/cluster", "collection_cluster"),
    Route("POST", _C + "/cluster", "update_cluster", TypeAdapter(m.ClusterOperations)),
    Route("GET", _C + "/shards/{shard_id}/snapshot", "shard_snapshot"),
    Route("GET", _C + "/aliases", "collection_aliases"),
    Route("PUT", _C + "/index", "create_index", TypeAdapter(m.CreateFieldIndex), waits=True),
    Route("PUT", _C + "/points", "upsert", TypeAdapter(m.PointInsertOperations), waits=True),
    Route("POST", _C + "/points/delete", "delete", TypeAdapter(m.PointsSelector), waits=True),
    Route("POST", _C + "/points", "retrieve", TypeAdapter(m.PointRequest)),
    Route("POST", _C + "/points/scroll", "scroll", TypeAdapter(m.ScrollRequest)),
    Route("POST", _C + "/points/count", "count", TypeAdapter(m.CountRequest)),
    Route("POST", _C + "/facet", "facet", TypeAdapter(m.FacetRequest)),
    Route("POST", _C + "/points/query", "query", TypeAdapter(m.QueryRequest)),
    Route("POST", _C + "/points/query/groups", "query_groups", TypeAdapter(m.QueryGroupsRequest)),
    Route("POST", _C + "/points/query/batch", "query_batch", TypeAdapter(m.QueryRequestBatch)),
)


def _parse(route: Route, raw: bytes, path: Mapping[str, str], query: Mapping[str, list[str]]) -> Any:
    """The body as a REST model or an Upsert; raises ValueError unless it is what the API describes.

    Where a request has no body, what the path and the query say stands in for it.
    """
    if route.operation == "shard_snapshot":
        return int(path["shard_id"])
    if route.operation == "remove_peer":
        return int(path["peer_id"]), query.get("force") == ["true"]
    if route.operation == "telemetry":
        return int(query.get("details_level", ["0"])[-1])
    if route.body is None:
        return None
    given = json.loads(raw or b"{}")
    complaint = openapi.complaint(route.method, route.template, given)
    if complaint:
        raise ValueError(f"not as Qdrant's OpenAPI describes it: {complaint}")
    body = route.body.validate_python(given)
    return _upsert(body) if route.operation == "upsert" else body


def _upsert(body: m.PointsList | m.PointsBatch) -> Upsert:
    if body.shard_key is not None:
        raise not_spoken("upsert with a shard key")
    if isinstance(body, m.PointsList):
        points = [(point.id, dense(point.vector), point.payload) for point in body.points]
    else:
        ids, vectors = body.batch.ids, body.batch.vectors
        payloads: Sequence[dict[str, Any] | None] = body.batch.payloads or [None] * len(ids)
        if not isinstance(vectors, list) or not len(ids) == len(vectors) == len(payloads):
            raise ValueError("a batch needs as many vectors and payloads as ids")
        points = [
            (item, dense(vector), payload)
            for item, vector, payload in zip(ids, vectors, payloads, strict=True)
        ]
    return Upsert(points, body.update_filter, body.update_mode)


class RestServer(ThreadingHTTPServer):
    """The listening socket; each connection has a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: RequestHandler, port: int, tls: ssl.SSLContext | None) -> None:
        """Listen on 127.0.0.1 at once; `port` 0 takes a free one."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.handler = handler
        self._tls = tls
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._served_by = ThreadPoolExecutor(500)  # used again: most connections are of one request

    def begin(self) -> None:
        """Accept connections."""
        self._thread.start()

    def end(self) -> None:
        """Stop listening and break every open connection."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        self._served_by.shutdown(wait=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in a thread of its own."""
        self._served_by.submit(self.process_request_thread, request, client_address)

    def get_request(self) -> tuple[Any, Any]:
        """Accept; the TLS handshake is left to the connection's own thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Close one connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a connection breaks because of the client or of a fault, both on purpose."""


def _shut(connection: socket.socket) -> None:
    # The other side may be gone already.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body are sent in one piece
    server: RestServer

    def setup(self) -> None:
        super().setup()
        self._node = self.server.handler.nodes.join()

    def do_GET(self) -> None:
        started = time.perf_counter()
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:  # the client was killed while it sent this, which is no request
            self.close_connection = True
            return
        try:
            result, trouble = self._serve(raw)
            if isinstance(result, Snapshot):
                self._stream(result, trouble)
                return
            status, answer = 200, _success(result, started)
        except WireError as error:
            self._refuse(error, started)
            return
        except Struck as struck:
            self._strike(struck.trouble, started)
            return
        except Exception as error:
            # A mistake in the double: tell the test what it was.
            self._refuse(WireError(Refusal.INTERNAL, f"the test double failed: {error!r}"), started)
            return
        if trouble is None:
            self._answer(status, answer)
        elif trouble.fault is Fault.cut:
            self._answer(status, answer, cut=True)
        elif trouble.fault is Fault.slow:
            self._answer(status, answer, seconds=trouble.seconds)
        else:
            self.close_connection = True

    do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

    def _serve(self, raw: bytes) -> tuple[Any, Trouble | None]:
        url = urlsplit(self.path)
        for route in ROUTES:
            found = route.match(self.command, url.path)
            if found is None:
                continue
            if len(raw) > MAX_BODY:
                too_large = (
                    f"JSON payload ({len(raw)} bytes) is larger than allowed (limit: {MAX_BODY} bytes)."
                )
                raise WireError(Refusal.TOO_LARGE, too_large)
            name, query = found.groupdict().get("collection_name"), parse_qs(url.query)
            request = Request(
                "rest",
                route.operation,
                None if name is None else unquote(name),
                self._key(),
                self._node,
                from_query(query, route.waits),
            )
            parse = partial(_parse, route, raw, found.groupdict(), query)
            return self.server.handler.serve(request, parse)
        raise not_spoken(f"{self.command} {url.path}")

    def _key(self) -> str | None:
        key = self.headers.get("api-key")
        bearer = self.headers.get("Authorization", "")
        return key or (bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else None)

    def _strike(self, trouble: Trouble, started: float) -> None:
        error = trouble.error()
        if error is not None:
            self._refuse(error, started)
            return
        self.close_connection = True
        if trouble.fault is Fault.hang:
            # Readable once the client gives up, or the server stops.
            select.select([self.connection], [], [], trouble.seconds)
        else:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _refuse(self, error: WireError, started: float) -> None:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.refusal in (Refusal.UNAUTHORIZED, Refusal.REFUSED_TOKEN):
            # The server sends only these refusals as plain text.
            self._answer(error.refusal.http, str(error).encode(), headers | {"Content-Type": "text/plain"})
            return
        body = {"status": {"error": str(error)}, "time": time.perf_counter() - started}
        self._answer(error.refusal.http, pydantic_core.to_json(body), headers)

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: bool = False,
        seconds: float = 0.0,
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if seconds:
            self._trickle(body, seconds)
        else:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def _stream(self, snapshot: Snapshot, trouble: Trouble | None) -> None:
        """Send a snapshot in chunks, because its length is unknown before it is made."""
        fault = trouble.fault if trouble else None
        if fault is Fault.drop_after_apply:
            self.close_connection = True
            return
        if trouble is not None and fault is Fault.slow:
            # Readable once the client gives up, or the server stops.
            select.select([self.connection], [], [], trouble.seconds)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        packed = "zstd" in self.headers.get("Accept-Encoding", "")
        if packed:
            self.send_header("Content-Encoding", "zstd")
        self.end_headers()
        out = _Chunks(self.wfile, CUT if fault is Fault.cut else None)
        try:
            if packed:
                with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as packing:
                    snapshot.write(packing)
            else:
                snapshot.write(out)
        except _Cut:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _trickle(self, body: bytes, seconds: float) -> None:
        step = -(-len(body) // _PIECES)
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            self.wfile.flush()
            # Readable once the client gives up, or the server stops.
            if select.select([self.connection], [], [], seconds / _PIECES)[0]:
                self.close_connection = True
                return

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class _Cut(Exception):
    """The end of a snapshot that is to be broken off."""


class _Chunks:
    """Writes data as chunks of an HTTP answer; stops after `limit` bytes, if there is a limit."""

    def __init__(self, out: BinaryIO, limit: int | None) -> None:
        self._out, self._limit, self._sent = out, limit, 0

    def write(self, data: bytes) -> int:
        if not data:
            return 0
        if self._limit is not None and self._sent >= self._limit:
            raise _Cut
        self._sent += len(data)
        self._out.write(b"%x\r\n" % len(data))
        self._out.write(data)
        self._out.write(b"\r\n")
        return len(data)


def _success(result: Any, started: float) -> bytes:
    if isinstance(result, m.VersionInfo):
        return pydantic_core.to_json(result)
    if isinstance(result, bytes):
        return result
    if result is None:
        return b"healthz check passed"
    return pydantic_core.to_json(
        {"result": result, "status": "ok", "time": time.perf_counter() - started}, by_alias=True
    )
