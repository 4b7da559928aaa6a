"""Shares of a plan, for many workers: which sentences one has, and the records by which others see how far it is.

Nothing is decided by these records: what is done, the bank itself says. So it does no harm if two workers take one
share, if a worker dies without a word, or if clocks differ; only what `ingest status` shows would be off.
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
    from latentbank.bank.bank import Bank
    from latentbank.ingest.plan import Plan

# Seconds between two heartbeats, and from when on a worker without one is taken for stalled.
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
        """Give the first and the last (exclusive) planned sentence: neighbors, which share prefixes."""
        count = plan.planned_sentences
        return count * self.index // self.of, count * (self.index + 1) // self.of


def parse_share(text: str) -> Share:
    """Read a share as the command line takes it: 0/4 is the first of four.

    Raises:
        LatentBankError: it is none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    share = Share(int(match[1]), int(match[2])) if match else Share(0, 0)
    if share.index >= share.of:
        raise LatentBankError(f"'{text}' is no share; write 0/4, 1/4, 2/4 and 3/4 for four of them.")
    return share


@dataclass(frozen=True)
class ShareState:
    """How far a share is; a missing one has no more than its name.

    `stored` of its `contexts` are in every layer; `heartbeat` is the worker's time (ISO 8601, UTC) when it last said
    so, `worker` its machine and process.
    """

    share: str
    state: Literal["done", "running", "stalled", "missing"]
    stored: int | None = None
    contexts: int | None = None
    heartbeat: str | None = None
    worker: str | None = None


def share_states(records: Mapping[str, Mapping[str, Any]]) -> list[ShareState]:
    """Tell from the records of a corpus's shares (`Store.read_shares`) how far each is, missing ones too."""
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
    """Beats while a worker is at its share: a thread that records every few seconds how far it is.

    A beat that fails is left out: what stops the worker, it learns from its own requests.
    """

    def __init__(
        self, bank: Bank, corpus: str, share: Share, contexts: int, stored: Callable[[], int]
    ) -> None:
        self._bank, self._corpus, self._share = bank, corpus, share
        self._contexts, self._stored = contexts, stored
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="latentbank heart", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._record("beat")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        # A server that does not answer may hold the last beat up; an embedded bank must not be closed meanwhile.
        self._thread.join(_LAST_BEAT_SECONDS if self._bank.store.shared else None)

    def done(self) -> None:
        """Record that every context of the share is stored. Under a key of its own: no late beat takes it back."""
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
        self._bank.store.write_shares(self._corpus, {f"{self._share}/{what}": record})
