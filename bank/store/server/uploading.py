"""Storing contexts on a server: several requests at once over connections of their own, if it has cores to spare.

A server applies the changes of one shard one after the other, but reads requests and logs them on other cores, and
layers are different shards. So it has work for several requests at once, as long as cores are left for searches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.store.server.client import Connection

Request = Callable[[QdrantRemote], object]
"""A request, to be sent through the client that it is given."""

_MOST = 4
# Where the server does not say how many cores it has: one request waits while the other is applied.
_UNKNOWN = 2


class Uploader:
    """Sends requests that store contexts, in any order; threads may share it."""

    def __init__(self, server: Connection) -> None:
        """Take the server; nothing is sent yet."""
        self._server = server
        self._guard = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._connections = server.settings.upload_connections

    def send(self, collection: str, requests: Sequence[Request]) -> None:
        """Send requests, and return when all are answered; if one fails, those that are not yet sent are not.

        Raises:
            BankUnavailable: a request failed, as in `Connection.call`.
        """
        self._server.require_open()
        pool = self._threads()
        if pool is None:
            for request in requests:
                self._send(collection, request, 0)
            return
        sent = [pool.submit(self._send_free, collection, request) for request in requests]
        try:
            wait(sent, return_when=FIRST_EXCEPTION)
        finally:
            for future in sent:
                future.cancel()
            wait(sent)
        for future in sent:
            if not future.cancelled():
                future.result()

    def close(self) -> None:
        """End the threads; requests that are being sent end first."""
        if self._pool is not None:
            self._pool.shutdown()

    def _threads(self) -> ThreadPoolExecutor | None:
        """Return the threads that send; None if one request is sent at a time."""
        with self._guard:
            if self._pool is None and self._connections != 1:
                self._connections = self._connections or spare_connections(self._server)
                if self._connections > 1:
                    self._pool = ThreadPoolExecutor(self._connections, "latentbank upload")
                    for number in range(self._connections):
                        self._free.put(number)
            return self._pool

    def _send_free(self, collection: str, request: Request) -> None:
        number = self._free.get()
        try:
            self._send(collection, request, number)
        finally:
            self._free.put(number)

    def _send(self, collection: str, request: Request, number: int) -> None:
        client = self._server.bulk(collection, number)
        self._server.call(lambda: request(client))


def spare_connections(server: Connection) -> int:
    """Return the number of connections that a server has cores to spare for: half of its cores, at most 4."""
    try:
        # Not by the client's own method, which refuses what a server of another release than its own says besides.
        answer = server.rest.http.client.request(
            type_=dict, method="GET", url="/telemetry", params={"details_level": "1"}
        )
        cores = answer["result"]["app"]["system"]["cores"]
    except Exception:  # it may refuse the key, say it in another form, or hang: storing goes on without
        return _UNKNOWN
    return _UNKNOWN if cores is None else max(1, min(_MOST, cores // 2))
