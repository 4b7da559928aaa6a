"""Shares of a plan, for many workers: the sentences of each, and records of their progress for others to read.

Nothing depends on these records: the bank itself tells what is done. So two workers may take the same share, a worker
may die, and clocks may differ; only the progress that is shown would be wrong.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from latentbank.bank.manifest import now
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.store.base import Store
    from latentbank.ingest.plan import Plan

# Seconds between two heartbeats, and after which a worker without one counts as stalled.
BEAT_SECONDS = 20.0
STALLED_SECONDS = 90.0
_LAST_BEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Share:
    """Share `index` (from 0) of `of` shares of a plan."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def rows(self, plan: Plan) -> tuple[int, int]:
        """Return the first and the last (exclusive) planned sentence: neighbors, which share prefixes."""
        count = plan.planned_sentences
        return count * self.index // self.of, count * (self.index + 1) // self.of


def parse_share(text: str) -> Share:
    """Read a share from text: 0/4 is the first of four.

    Raises:
        LatentBankError: the text is not a share.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    share = Share(int(match[1]), int(match[2])) if match else Share(0, 0)
    if share.index >= share.of:
        raise LatentBankError(f"'{text}' is not a share; write 0/4, 1/4, 2/4 and 3/4 for four of them.")
    return share


@dataclass(frozen=True)
class ShareState:
    """The progress of a share; a missing share has only its name.

    Attributes:
        share: its name, such as "0/4".
        state: "running" with a recent heartbeat, "stalled" without one, "missing" if no worker has begun it.
        stored: contexts of the share that are in every layer.
        contexts: contexts of the share.
        heartbeat: the worker's time of its last record (ISO 8601, UTC).
        worker: the worker's machine and process.
    """

    share: str
    state: Literal["done", "running", "stalled", "missing"]
    stored: int | None = None
    contexts: int | None = None
    heartbeat: str | None = None
    worker: str | None = None


def share_states(records: Mapping[str, Mapping[str, Any]]) -> list[ShareState]:
    """Return the progress of a corpus's shares, also of missing ones, from their records (`Store.read_shares`)."""
    named = {key.rpartition("/")[0] for key in records}
    splits = sorted({parse_share(name).of for name in named})
    return [_state(str(Share(index, of)), records) for of in splits for index in range(of)]


def _state(share: str, records: Mapping[str, Mapping[str, Any]]) -> ShareState:
    done, beat = records.get(f"{share}/done"), records.get(f"{share}/beat")
    record = done or beat
    if record is None:
        return ShareState(share, "missing")
    silent = (datetime.now(UTC) - datetime.fromisoformat(record["at"])).total_seconds()
    return ShareState(
        share,
        "done" if done else "running" if silent < STALLED_SECONDS else "stalled",
        record["stored"],
        record["contexts"],
        record["at"],
        record["worker"],
    )


class Heartbeat:
    """A thread that records every few seconds how far a worker is with its share; a context manager.

    A record that cannot be written is left out: the worker's own requests tell it what is wrong.
    """

    def __init__(
        self, store: Store, corpus: str, share: Share, contexts: int, stored: Callable[[], int]
    ) -> None:
        """Prepare the thread.

        Args:
            store: open for writing.
            corpus: the name that the contexts are stored under.
            share: the worker's share.
            contexts: contexts of the share.
            stored: a function that returns how many of them are stored by now.
        """
        self._store, self._corpus, self._share = store, corpus, share
        self._contexts, self._stored = contexts, stored
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="latentbank heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._record("beat")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        # A server that does not answer may delay the last beat; an embedded bank must not be closed meanwhile.
        self._thread.join(_LAST_BEAT_SECONDS if self._store.shared else None)

    def done(self) -> None:
        """Record that every context of the share is stored. A late beat has another key and cannot overwrite it."""
        self._record("done")

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                self._record("beat")
            except Exception as error:
                if not (isinstance(error, LatentBankError) or self._end.is_set()):
                    raise

    def _record(self, what: str) -> None:
        record = {
            "at": now(),
            "stored": self._stored(),
            "contexts": self._contexts,
            "worker": f"{socket.gethostname()}, process {os.getpid()}",
        }
        self._store.write_shares(self._corpus, {f"{self._share}/{what}": record})
