"""The writer: a thread that stores contexts or visual tokens while the model computes the next batch."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

import numpy.typing as npt

from latentbank.bank.store.base import Floats, Store
from latentbank.progress import Progress

# Batches between the LLM and the writer: a few seconds of work, a few MB.
_QUEUE = 4
# Seconds of writing between two commits: what a kill can cost at most, besides what is queued.
COMMIT_SECONDS = 5.0
# The embedded engine releases Python's lock at every string it reads. With Python's usual 5 ms between two switches of
# threads, the writer would wait those 5 ms for each string of each payload.
SWITCH_SECONDS = 1e-4


class Batch(Protocol):
    """What is stored at once."""

    @property
    def ids(self) -> Sequence[str]:
        """The id of each point."""

    @property
    def states(self) -> Mapping[int, Floats]:
        """Hidden states of the points by layer, float32 `[points, hidden]`."""

    @property
    def counted(self) -> int:
        """How much of the job it is, in what the progress counts."""

    def payloads_at(self, layer: int) -> Sequence[Any]:
        """Return the payload of each point at a layer."""


class Target(Protocol):
    """What is written to: a bank, or a bank of images."""

    @property
    def store(self) -> Store:
        """Its store."""

    def add(self, layer: int, ids: Sequence[str], states: npt.ArrayLike, payloads: Sequence[Any]) -> None:
        """Store points at one layer."""

    def commit(self) -> None:
        """Make everything added so far durable."""


class Writer:
    """A thread that stores batches as they come, and commits every few seconds and at the end; a context manager.

    Attributes:
        written: how much of the job is stored so far: contexts, or images.
    """

    def __init__(self, bank: Target, total: int | None, progress: Progress, begins: float = 0.0) -> None:
        """Prepare the thread.

        Args:
            bank: open for writing.
            total: contexts or images of the job; None: not known.
            progress: counts those that are done.
            begins: the time of the monotonic clock before which nothing is stored.
        """
        self._bank, self._total, self._progress = bank, total, progress
        self._begins = begins
        self._queue: queue.Queue[tuple[Batch, int] | None] = queue.Queue(_QUEUE)
        self._failure: BaseException | None = None
        self._hurry = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="latentbank writer", daemon=True)
        self.written = 0

    def put(self, batch: Batch, found: int) -> None:
        """Queue a batch for storing; waits while the queue is full. Raises the writer's own error if it failed.

        Args:
            batch: the points.
            found: how much of the job so far was stored before, for the progress.
        """
        while self._failure is None:
            try:
                self._queue.put((batch, found), timeout=0.5)
                return
            except queue.Full:
                continue
        raise self._failure

    def __enter__(self) -> Writer:
        self._thread.start()
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also after Ctrl-C or an error: what the LLM has computed is stored before the job ends.
        try:
            self._end()
        except KeyboardInterrupt:  # a second Ctrl-C: store only the batch in hand; a third leaves at once
            self._hurry = True
            self._end()
            raise
        finally:
            sys.setswitchinterval(self._switch)
        if self._failure is not None and self._failure is not error:
            if error is None:
                raise self._failure
            error.add_note(f"Besides, the writer failed: {self._failure}")

    def _end(self) -> None:
        """Wait until the thread has stored what is queued."""
        while not self._done.is_set():
            try:
                self._queue.put(None, timeout=0.5)
                break
            except queue.Full:
                continue
        # Not join: after an interrupt, Python 3.11's considers the thread ended although it still runs.
        self._done.wait()
        self._thread.join()

    def _work(self) -> None:
        try:
            for batch, found in self._batches():
                time.sleep(max(self._begins - time.monotonic(), 0.0))
                self._store(batch)
                self.written += batch.counted
                self._progress.update(self.written + found, self._total)
        except BaseException as error:
            self._failure = error
        finally:
            self._done.set()

    def _store(self, batch: Batch) -> None:
        """Store a batch in all layers, at once where other processes do the work: a server, or some of our own."""

        def add(layer: int) -> None:
            self._bank.add(layer, batch.ids, batch.states[layer], batch.payloads_at(layer))

        if not self._bank.store.side_by_side or len(batch.states) == 1:
            for layer in batch.states:
                add(layer)
            return
        with ThreadPoolExecutor(len(batch.states), "latentbank layer") as pool:
            for stored in [pool.submit(add, layer) for layer in batch.states]:
                stored.result()

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        last = time.monotonic()
        while (item := self._queue.get()) is not None and not self._hurry:
            yield item
            if time.monotonic() - last >= COMMIT_SECONDS:
                self._bank.commit()
                last = time.monotonic()
        self._bank.commit()
