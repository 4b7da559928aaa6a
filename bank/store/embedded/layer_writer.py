"""The program of a process that writes to layers for another one, which is the job that has the bank open.

It answers over a connection that both processes hold one end of. When the job's end is closed, also because the job was
killed, it closes its layers and ends; the bank's lock is free then (see `lock`).
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import qdrant_edge as edge

from latentbank.bank.store.embedded.engine import engine_failed
from latentbank.bank.store.embedded.optimizing import Optimization, optimize_here
from latentbank.bank.store.embedded.points import engine_points
from latentbank.files import sync_folders
from latentbank.memory import release_memory
from latentbank.text import first_line

UNANSWERED = ("store", "optimize")
"""Requests for which nobody waits: what follows is done after them."""

_UPSERT = 64  # points passed to the engine at once: what is held in both forms


class Written(NamedTuple):
    """How many contexts a layer holds after a flush, and how many of them are indexed."""

    points: int
    indexed: int


class LayerWriter:
    """The layers that this process has open."""

    def __init__(self, descriptor: int) -> None:
        """Take requests from a connected socket."""
        from multiprocessing.connection import Connection  # banks that are only read need none

        self._connection = Connection(descriptor)
        self._socket = socket.socket(fileno=os.dup(descriptor))  # the same one, for vectors
        self._shards: dict[int, edge.EdgeShard] = {}
        self._paths: dict[int, Path] = {}

    def serve(self) -> None:
        """Do what is requested until the other end is closed, or something fails."""
        answers: dict[str, Callable[..., Any]] = {
            "open": self._open,
            "store": self._store,
            "flush": self._flush,
            "present": self._present,
            "optimize": self._optimize,
            "close": self._close,
        }
        while True:
            try:
                request, *given = pickle.loads(self._connection.recv_bytes())
                answer = answers[request](*given)
            except (EOFError, ConnectionError):
                break
            if request not in UNANSWERED:
                self._connection.send_bytes(pickle.dumps((True, answer)))
        for layer in list(self._shards):
            self._close(layer)

    def fail(self, reason: str) -> None:
        """Say why this process ends."""
        with suppress(OSError):
            self._connection.send_bytes(pickle.dumps((False, reason)))

    def _open(self, layer: int, path: str) -> None:
        self._shards[layer], self._paths[layer] = edge.EdgeShard.load(path, None), Path(path)

    def _store(self, layer: int, ids: Sequence[str], payloads: Sequence[Any], width: int) -> None:
        """Store contexts, whose vectors follow as float32 numbers."""
        rows = np.empty((len(ids), width), dtype=np.float32)
        left = rows.data.cast("B")
        while left:
            if not (received := self._socket.recv_into(left)):
                raise EOFError
            left = left[received:]
        shard = self._shards[layer]
        for at in range(0, len(ids), _UPSERT):
            part = slice(at, at + _UPSERT)
            built = engine_points(ids[part], rows[part], payloads[part])
            shard.update(edge.UpdateOperation.upsert_points(built))

    def _flush(self, layer: int) -> tuple[int, int]:
        """Return the numbers of a `Written`, which is another class in a program than in a module."""
        shard = self._shards[layer]
        shard.flush()
        state = shard.info()
        return state.points_count, state.indexed_vectors_count

    def _optimize(self, layer: int, *target: Any) -> None:
        """Index what is not indexed yet; `target` are the fields of an `Optimization`."""
        self._close(layer)
        self._shards[layer] = optimize_here(self._paths[layer], Optimization(*target))
        sync_folders(self._paths[layer])  # the engine has synced the files of its new segments
        release_memory()

    def _present(self, layer: int, ids: Sequence[str]) -> set[str]:
        found = self._shards[layer].retrieve(list(ids), with_payload=False, with_vector=False)
        return {str(record.id) for record in found}

    def _close(self, layer: int) -> None:
        shard = self._shards.pop(layer)
        shard.flush()
        shard.close()


def main() -> None:
    """Serve the connection whose descriptor is the one argument; an error is its last message."""
    writer = LayerWriter(json.loads(sys.argv[1]))
    try:
        writer.serve()
    except BaseException as error:
        if not engine_failed(error) and not isinstance(error, OSError):
            raise
        writer.fail(first_line(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
