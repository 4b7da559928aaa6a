"""A test double of a Qdrant server: its REST and gRPC APIs on real sockets, over the embedded engine.

    with QdrantDouble(api_key="secret") as server:
        client = QdrantClient(url=server.url, grpc_port=server.grpc_port, api_key="secret")
        server.inject(Fault.unavailable503, times=2, operation="upsert")

It does what a real server does for the operations it knows, and answers 501 for everything
else, so that no test can pass because a missing operation was ignored.
"""

import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from qdrant_client.http import models as m

from tests.wire import translate
from tests.wire.certificates import Certificates, make_certificates
from tests.wire.cluster import Cluster
from tests.wire.collection import Upsert
from tests.wire.engine import Engine
from tests.wire.faults import FAMILIES, Fault, Trouble
from tests.wire.grpc_service import GrpcServer
from tests.wire.handler import Invalid, Recorded, RequestHandler
from tests.wire.keys import Keys
from tests.wire.nodes import Nodes
from tests.wire.optimizers import Optimizers
from tests.wire.rest import RestServer
from tests.wire.telemetry import Reports

__all__ = ["Fault", "Invalid", "QdrantDouble", "Recorded"]


class QdrantDouble:
    """The server. Use it as a context manager: it runs from the start of the block to its end.

    With `grpc=False` its gRPC port refuses connections. With `tls=True` both APIs speak TLS
    with a certificate for 127.0.0.1 and localhost, to be checked against `ca_file`. Each connection reaches another
    node, whatever number of `peers` GET /cluster reports (1: no cluster; `cluster` lets others join). After a change,
    each other node answers with the old metadata `lag` times (see `tests.wire.nodes`).
    """

    def __init__(
        self,
        api_key: str | None = None,
        read_only_key: str | None = None,
        tls: bool = False,
        grpc: bool = True,
        lag: int = 1,
        peers: int = 1,
    ) -> None:
        """Start serving at once, on free ports of 127.0.0.1."""
        self._directory = Path(tempfile.mkdtemp(prefix="qdrant-double-"))
        self._engine = Engine(self._directory / "collections")
        self.cluster = Cluster(peers)
        self._reports = Reports(self._engine, self.cluster)
        self._nodes = Nodes(self._engine, self._reports, lag)
        self._keys = Keys(api_key, read_only_key)
        self._handler = RequestHandler(self._nodes, self._keys)
        self._certificates: Certificates | None = make_certificates(self._directory) if tls else None
        self._port = self.grpc_port = 0
        self._rest: RestServer | None = None
        self._grpc: GrpcServer | None = None
        self._speaks_grpc = grpc
        # Bound but not listening: no other program gets the ports, and connections to them are refused. Linux lets the
        # server bind them besides, so they stay its own while it is stopped.
        self._kept: list[socket.socket] = []
        if sys.platform == "linux":
            self._port = self._keep_a_port()
        if sys.platform == "linux" or not grpc:
            self.grpc_port = self._keep_a_port()
        self.start()

    def __enter__(self) -> Self:
        """Return the server, which is running already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and remove all data."""
        self.close()

    # Where it is

    @property
    def url(self) -> str:
        """The REST API's address; it stays the same through restarts."""
        return f"{'http' if self._certificates is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def ca_file(self) -> str | None:
        """The PEM file of the authority its certificate is signed by, or None without TLS."""
        return None if self._certificates is None else str(self._certificates.ca_file)

    @property
    def api_key(self) -> str | None:
        """The key that may do everything, or None if anybody may."""
        return self._keys.full

    def name(self, collection: str) -> str:
        """Return a collection's name on the server: the same, as only a real server is shared."""
        return collection

    # Its life

    def start(self) -> None:
        """Serve on the same ports, with the same data as before; does nothing if it runs already."""
        if self._rest is not None:
            return
        self._engine.open()
        self._rest = RestServer(self._handler, self._port, self._tls_context())
        self._port = self._rest.server_address[1]
        self._rest.begin()
        if self._speaks_grpc:
            files = self._certificates
            pair = None if files is None else (files.certificate_file, files.key_file)
            self._grpc = GrpcServer(self._handler, self.grpc_port, pair)
            self.grpc_port = self._grpc.port
            self._grpc.begin()

    def stop(self) -> None:
        """Stop serving: connections break, new ones are refused, data stays on disk."""
        if self._rest is not None:
            self._rest.end()
            self._rest = None
        if self._grpc is not None:
            self._grpc.end()
            self._grpc = None
        self._engine.close()

    def wipe(self) -> None:
        """Remove all collections and aliases, as if the server had been restarted with an empty disk."""
        self._engine.wipe()
        self._nodes.settle()

    def close(self) -> None:
        """Stop for good and remove all files."""
        self.stop()
        for kept in self._kept:
            kept.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # What tests control and inspect

    def inject(
        self,
        fault: Fault,
        times: int = 1,
        operation: str | None = None,
        after: int = 0,
        retry_after: int | None = None,
        seconds: float = 30.0,
    ) -> None:
        """Make `fault` strike the next `times` requests, after skipping `after` of them.

        `operation` is one of `operations`, or None for any except those that clients call on their own (version,
        health); "query" stands for single and batched queries. `retry_after`, in
        seconds, goes with `Fault.too_many`; `seconds` is how long `Fault.hang` and `Fault.slow` last at most.
        """
        if operation is not None and operation not in self.operations:
            raise ValueError(f"{operation!r} is no operation; there are {', '.join(sorted(self.operations))}")
        self._handler.faults.order(Trouble(fault, retry_after, seconds), operation, times, after)

    def when(self, after: int, do: Callable[[], None]) -> None:
        """Call `do` when the next request arrives, after skipping `after` of them.

        Requests that clients make on their own are not counted. `do` may not stop the server.
        """
        self._handler.faults.when(after, do)

    def delete(self, collection: str) -> None:
        """Delete a collection directly, without keys and faults, as another client would."""
        self._engine.apply("delete_collection", collection, None)

    @property
    def issues(self) -> list[dict[str, Any]]:
        """What the issues API lists; tests may add to it."""
        return self._reports.issues

    def optimizers(self, collection: str) -> Optimizers:
        """The optimizers of a collection, which a test can make late or fail."""
        return self._engine.find(collection).optimizers

    def settle(self) -> None:
        """Let every node know all changes, as after some time without any."""
        self._nodes.settle()

    def clear_faults(self) -> None:
        """Forget the faults that have not struck yet, and the calls ordered with `when`."""
        self._handler.faults.clear()

    @property
    def faults_left(self) -> int:
        """Return how many faults have not struck yet."""
        return self._handler.faults.left()

    @property
    def operations(self) -> frozenset[str]:
        """The names of operations, as in `inject` and `requests`."""
        return self._engine.operations | frozenset(FAMILIES)

    @property
    def requests(self) -> list[Recorded]:
        """The requests received so far, also those struck by a fault or refused for their key."""
        return self._handler.requests

    @property
    def invalid_requests(self) -> list[Invalid]:
        """The requests that do not conform to Qdrant's API; tests expect none."""
        return self._handler.invalid

    @property
    def collections(self) -> list[str]:
        """The names of all collections."""
        return list(self._engine.all())

    def points(self, collection: str) -> dict[int | str, tuple[np.ndarray, dict[str, Any]]]:
        """All points of a collection or alias: id to (vector [size] float32, payload); size 0 without vectors.

        Read from the engine itself, past keys and faults; the server must be running.
        """
        everything = m.ScrollRequest(limit=2**31, with_vector=True)
        found = self._engine.find(collection).scroll(everything).points
        return {
            translate.plain_id(item.id): (np.asarray(item.vector or [], dtype=np.float32), item.payload or {})
            for item in found
        }

    def put(
        self,
        collection: str,
        ids: Sequence[str],
        vectors: np.ndarray,
        payloads: Sequence[Mapping[str, Any]],
    ) -> None:
        """Store points directly in the engine, without keys and faults; row i of `vectors` belongs to `ids[i]`."""
        rows = zip(ids, vectors.tolist(), map(dict, payloads), strict=True)
        self._engine.find(collection).upsert(Upsert(list(rows)))

    def remove(self, collection: str, ids: Sequence[Any]) -> None:
        """Delete points directly in the engine, without keys and faults."""
        self._engine.find(collection).delete(m.PointIdsList(points=list(ids)))

    def _keep_a_port(self) -> int:
        kept = socket.socket()
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        self._kept.append(kept)
        return int(kept.getsockname()[1])

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._certificates is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificates.certificate_file, self._certificates.key_file)
        return context
