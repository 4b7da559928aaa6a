"""The writer: a thread that stores contexts while the LLM computes the next batch."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from latentbank.bank.bank import Bank
from latentbank.ingest.encode import Encoded
from latentbank.progress import Progress

# Batches between the LLM and the writer: a few seconds of work, a few MB.
_QUEUE = 4
# Seconds of writing between two commits: what a kill can cost at most, besides what is queued.
COMMIT_SECONDS = 5.0
# The embedded engine releases Python's lock at every string it reads. With Python's usual 5 ms between two switches of
# threads, the writer would wait those 5 ms for each string of each payload.
SWITCH_SECONDS = 1e-4


class Writer:
    """A thread that stores batches as they come, and commits every few seconds and at the end; a context manager.

    Attributes:
        written: contexts stored so far.
    """

    def __init__(self, bank: Bank, total: int, progress: Progress, begins: float = 0.0) -> None:
        """Prepare the thread.

        Args:
            bank: open for writing.
            total: contexts of the job.
            progress: counts contexts done.
            begins: the time of the monotonic clock before which nothing is stored.
        """
        self._bank, self._total, self._progress = bank, total, progress
        self._begins = begins
        self._queue: queue.Queue[tuple[Encoded, int] | None] = queue.Queue(_QUEUE)
        self._failure: BaseException | None = None
        self._hurry = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="latentbank writer", daemon=True)
        self.written = 0

    def put(self, encoded: Encoded, found: int) -> None:
        """Queue a batch for storing; waits while the queue is full. Raises the writer's own error if it failed.

        Args:
            encoded: the contexts of the batch.
            found: contexts of the job so far that were stored before, for the progress.
        """
        while self._failure is None:
            try:
                self._queue.put((encoded, found), timeout=0.5)
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
            for encoded, found in self._batches():
                time.sleep(max(self._begins - time.monotonic(), 0.0))
                self._store(encoded)
                self.written += len(encoded.ids)
                self._progress.update(self.written + found, self._total)
        except BaseException as error:
            self._failure = error
        finally:
            self._done.set()

    def _store(self, encoded: Encoded) -> None:
        """Store a batch in all layers, at once where other processes do the work: a server, or some of our own."""

        def add(layer: int) -> None:
            self._bank.add(layer, encoded.ids, encoded.states[layer], encoded.payloads)

        if not self._bank.store.side_by_side or len(encoded.states) == 1:
            for layer in encoded.states:
                add(layer)
            return
        with ThreadPoolExecutor(len(encoded.states), "latentbank layer") as pool:
            for stored in [pool.submit(add, layer) for layer in encoded.states]:
                stored.result()

    def _batches(self) -> Iterator[tuple[Encoded, int]]:
        last = time.monotonic()
        while (item := self._queue.get()) is not None and not self._hurry:
            yield item
            if time.monotonic() - last >= COMMIT_SECONDS:
                self._bank.commit()
                last = time.monotonic()
        self._bank.commit()
