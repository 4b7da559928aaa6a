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
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import qdrant_edge as edge

from latentbank.bank.store.embedded.engine import engine_failed
from latentbank.bank.store.embedded.optimizing import Optimization, optimize_here
from latentbank.bank.store.embedded.points import engine_points
from latentbank.files import sync_folders
from latentbank.memory import collect_rarely, keep_memory, release_memory
from latentbank.text import first_line

UNANSWERED = ("store", "optimize")
"""Requests for which nobody waits: what follows is done after them."""

_UPSERT = 64  # points passed to the engine at once


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
        # What was stored last: the ids, and the operation that stores them, also in another layer.
        self._stored: list[tuple[Sequence[str], edge.UpdateOperation]] = []

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

    def _store(self, layer: int, width: int, contexts: bytes | None) -> None:
        """Store contexts, whose vectors follow as float32 numbers.

        Args:
            layer: the layer.
            width: numbers in a vector.
            contexts: pickled ids and payloads; None: those of the contexts that were stored last, in another layer.
        """
        if contexts is None:
            self._store_again(layer, width)
            return
        ids, payloads = pickle.loads(contexts)
        rows = self._receive(len(ids), width)
        self._stored = []
        for at in range(0, len(ids), _UPSERT):
            part = slice(at, at + _UPSERT)
            upsert = edge.UpdateOperation.upsert_points(engine_points(ids[part], rows[part], payloads[part]))
            self._shards[layer].update(upsert)
            self._stored.append((ids[part], upsert))

    def _store_again(self, layer: int, width: int) -> None:
        """Store the contexts that were stored last in another layer, too.

        The engine needs 27 µs of processor time to read a payload of Python, and 9 to read a vector of 576 dimensions
        (Intel Xeon, 2026-11-29). So the contexts are stored as they were read for the other layer, then given their own
        vectors.
        """
        rows = self._receive(sum(len(ids) for ids, _ in self._stored), width)
        at = 0
        for ids, upsert in self._stored:
            part = rows[at : at + len(ids)]
            vectors = [edge.PointVectors(id_, cast("Any", row)) for id_, row in zip(ids, part, strict=True)]
            self._shards[layer].update(upsert)
            self._shards[layer].update(edge.UpdateOperation.update_vectors(vectors))
            at += len(ids)

    def _receive(self, count: int, width: int) -> list[memoryview]:
        """Return the vectors that follow."""
        received = memoryview(bytearray(4 * count * width))
        left = received
        while left:
            if not (length := self._socket.recv_into(left)):
                raise EOFError
            left = left[length:]
        numbers: memoryview[Any] = received.cast("f")
        return [numbers[at : at + width] for at in range(0, count * width, width)]

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
    """Serve the connection whose descriptor is the one argument; an error is its last message.

    After an error the process ends without closing its layers, which would flush contexts that have another layer's
    vectors still.
    """
    collect_rarely()
    keep_memory()
    writer = LayerWriter(json.loads(sys.argv[1]))
    try:
        writer.serve()
    except BaseException as error:
        if engine_failed(error) or isinstance(error, OSError):
            writer.fail(first_line(error))
        else:
            traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main()
