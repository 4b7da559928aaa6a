"""Processes that write to layers for this one, so that layers are written side by side while a bank is filled.

The engine holds Python's lock from the first number that it reads to the last that it writes: in one process, threads
would store one layer after the other, and the one that runs the LLM would wait for them. A layer is open in one process
at a time. What is stored through a process that is killed is safe once `flush` has returned, as in this one.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from latentbank.bank.planning import cores
from latentbank.bank.store.base import Points
from latentbank.bank.store.embedded.layer_writer import Written
from latentbank.bank.store.embedded.lock import BankLock
from latentbank.bank.store.embedded.optimizing import Optimization
from latentbank.bank.store.embedded.other_process import can_start, require_success, start

_MODULE = "latentbank.bank.store.embedded.layer_writer"
# Bytes of vectors in one message: the other process holds one, and the next one waits here.
_MESSAGE = 4 << 20
# Processes at most: each takes 60 to 100 MiB.
_MOST = 8


def writers_for(lock: BankLock | None) -> Writers | None:
    """Return what starts a process for each core, at most `_MOST`; None if there is one core, or none can be started.

    Args:
        lock: the bank's lock; None: the bank can only be read.
    """
    if lock is None or cores() < 2 or not can_start():
        return None
    return Writers(lock, min(cores(), _MOST))


class Writers:
    """Processes that have layers open, at most so many; each has one layer or several. Threads may share it."""

    def __init__(self, lock: BankLock, most: int) -> None:
        """Start no process yet.

        Args:
            lock: the bank's lock, which the processes hold too, even if they outlive this one.
            most: most processes.
        """
        self._lock, self._most = lock, most
        self._guard = threading.Lock()
        self._processes: list[_Process] = []
        self._owners: dict[int, _Process] = {}
        self._lost: dict[int, str] = {}  # by layer, why a process has failed that had it

    def hand_over(self, layer: int, path: Path) -> None:
        """Have a process open a layer, which must not be open here.

        Raises:
            OSError: it failed; the message says why.
        """
        with self._guard:
            loads = dict.fromkeys(self._processes, 0)
            for owner in self._owners.values():
                loads[owner] += 1
            least = min(self._processes, key=loads.__getitem__, default=None)
            if least is None or (loads[least] and len(self._processes) < self._most):
                least = _Process(self._lock)
                self._processes.append(least)
            self._owners[layer] = least
        self._ask(layer, "open", str(path))

    def has(self, layer: int) -> bool:
        """Return whether another process has a layer open."""
        return layer in self._owners

    def store(self, layer: int, points: Points) -> bool:
        """Send contexts to the process that has their layer; return False if none has it.

        Returns when the process has received them; it may still be storing the last of them.

        Raises:
            OSError: it failed; the message says why. What was flushed is safe.
        """
        rows = np.ascontiguousarray(points.vectors, dtype=np.float32)
        step = max(1, _MESSAGE // max(1, rows.shape[1] * 4))
        for at in range(0, len(points.ids), step):
            part = slice(at, at + step)
            contexts = (points.ids[part], points.payloads[part])
            if not self._send(layer, ("store", layer, rows.shape[1]), contexts, rows[part]):
                return False
        return True

    def optimize(self, layer: int, target: Optimization) -> bool:
        """Have the process that has a layer index it after what it was sent before; return False if none has it."""
        return self._send(layer, ("optimize", layer, *astuple(target)))

    def flush(self, layer: int) -> Written | None:
        """Make what was stored in a layer durable; return its state, or None if no process has it.

        Raises:
            OSError: it failed, or a process that had the layer has failed since the last flush.
        """
        try:
            if layer in self._lost:
                raise OSError(self._lost[layer])
            answer = self._ask(layer, "flush")
        except OSError:  # said once for all layers: all of what was not flushed is in doubt
            self._lost.clear()
            raise
        return None if answer is None else Written(*answer)

    def present(self, layer: int, ids: Sequence[str]) -> set[str] | None:
        """Return those of `ids` that a layer holds; None if no process has it."""
        answer: set[str] | None = self._ask(layer, "present", list(ids))
        return answer

    def take_back(self, layer: int) -> None:
        """Have the process that has a layer flush and close it."""
        if self.has(layer):
            self._ask(layer, "close")

    def close(self) -> None:
        """Flush and close all layers, and end the processes.

        If one has failed, the next `flush` of its layers says so.
        """
        for layer in list(self._owners):
            with suppress(OSError):
                self.take_back(layer)
        with self._guard:
            for process in self._processes:
                process.end()
            self._processes.clear()

    def _send(self, layer: int, head: Any, contexts: tuple[Any, Any] | None = None, rows: Any = None) -> bool:
        owner = self._owners.get(layer)
        if owner is None:
            return False
        try:
            return owner.send(layer, self._owners, head, contexts, rows)
        except OSError as error:
            self._forget(owner, str(error))
            raise

    def _ask(self, layer: int, request: str, *given: Any) -> Any:
        owner = self._owners.get(layer)
        if owner is None:
            return None
        try:
            return owner.ask(layer, self._owners, request, *given)
        except OSError as error:
            self._forget(owner, str(error))
            raise

    def _forget(self, failed: _Process, reason: str) -> None:
        """Forget a process that has failed; what it had not flushed of its layers is lost."""
        with self._guard:
            for layer in [layer for layer, owner in self._owners.items() if owner is failed]:
                del self._owners[layer]
                self._lost[layer] = reason
            if failed in self._processes:
                self._processes.remove(failed)


class _Process:
    """A process that writes, and this end of the connection to it.

    Only a thread of its own uses the connection, so that Ctrl-C never cuts a message or leaves an answer unread.
    """

    def __init__(self, lock: BankLock) -> None:
        from multiprocessing.connection import Connection  # banks that are only read need none

        with ExitStack() as made:
            descriptor = made.enter_context(lock.lend())
            mine, theirs = socket.socketpair()
            with theirs:
                self._child: subprocess.Popen[str] = start(
                    _MODULE, theirs.fileno(), [descriptor, theirs.fileno()]
                )
            self._lent = made.pop_all()
        self._socket = mine
        self._sent = b""  # the contexts that the process got last, for whichever layer
        self._connection = Connection(os.dup(mine.fileno()))
        self._thread = ThreadPoolExecutor(1, "latentbank layer writer")

    def send(
        self, layer: int, owners: dict[int, _Process], head: Any, contexts: tuple[Any, Any] | None, rows: Any
    ) -> bool:
        """Send a request without an answer, and contexts; return False if the process no longer has the layer.

        If they are those that the process got last, which were another layer's, only their vectors are sent.
        """

        def work() -> bool:
            if owners.get(layer) is not self:
                return False
            try:
                if self._connection.poll():  # it speaks unasked only when it fails
                    self._receive()
                message = head
                if contexts is not None:
                    pickled = pickle.dumps(contexts)
                    message = (*head, None if pickled == self._sent else pickled)
                    self._sent = pickled
                self._connection.send_bytes(pickle.dumps(message))
                if rows is not None:
                    self._socket.sendall(memoryview(rows).cast("B"))
            except (BrokenPipeError, ConnectionResetError):
                self._receive()
            return True

        return self._thread.submit(work).result()

    def ask(self, layer: int, owners: dict[int, _Process], request: str, *given: Any) -> Any:
        """Return the answer to a request; None if the process no longer has the layer."""

        def work() -> Any:
            if owners.get(layer) is not self:
                return None
            with suppress(BrokenPipeError, ConnectionResetError):  # why it ended is its last message
                self._connection.send_bytes(pickle.dumps((request, layer, *given)))
            answer = self._receive()
            if request == "close":
                del owners[layer]
            return answer

        return self._thread.submit(work).result()

    def _receive(self) -> Any:
        """Return what the process answers; raise an OSError if it has failed."""
        try:
            succeeded, answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            succeeded, answer = False, ""
        if succeeded:
            return answer
        output, complaint = self._end()
        require_success(self._child, "writes to", str(answer) or output, complaint)
        raise OSError("a process that writes to layers has ended")

    def end(self) -> None:
        """End the process, which then closes the layers that it has."""
        self._thread.submit(self._end).result()
        self._thread.shutdown()

    def _end(self) -> tuple[str, str]:
        self._connection.close()
        self._socket.close()
        output = self._child.communicate()
        self._lent.close()
        return output
