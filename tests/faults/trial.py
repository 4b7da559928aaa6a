"""A job that faults are tried on: acknowledged contexts are counted after each fault, and everything at the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any
from unittest import mock

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.store.base import Points
from latentbank.errors import LatentBankError
from latentbank.ingest.job import JobReport, store_plan
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.progress import Progress
from tests.bank.samples import is_one_sentence
from tests.ingest.conftest import Contents, contents
from tests.ingest.jobs import Place, some_sentences
from tests.wire.double import QdrantDouble

SENTENCES = 16
# Tokens in a forward pass: few, so that there are several batches.
BATCH = 32
# For the numbers of a unit vector that were rounded to float16 twice.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Reference:
    """What all trials share: an LLM, sentences, and the bank of an undisturbed job."""

    model: LanguageModel
    directory: Path
    sentences: list[str]
    expected: Contents

    @property
    def contexts(self) -> int:
        """Contexts of the corpus, in all layers."""
        return sum(map(len, self.expected.values()))


def make_reference(model: Path, folder: Path) -> Reference:
    """Run a job undisturbed; `model` is the LLM's folder."""
    language, sentences = load_language_model(str(model), device="cpu"), some_sentences(SENTENCES)
    place = Place(model, folder)
    place.job(language, sentences)
    with place.bank(language) as bank:
        assert bank.verify() == []
        return Reference(language, model, sentences, contents(bank))


@dataclass
class Outcome:
    """The outcome of a fault: how often it struck, the contexts checked afterwards, and what was wrong with them.

    `acknowledged` contexts were counted again after runs that stopped, `lost` and `doubled` are those that were gone
    then, or gone, different or too many at the end. `stops` are the sentences with which runs stopped.
    """

    struck: int = 0
    runs: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    stops: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Add another outcome."""
        for name in ("struck", "runs", "acknowledged", "lost", "doubled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.stops += other.stops


class Trial:
    """A bank, its job, and the contexts acknowledged so far."""

    def __init__(self, reference: Reference, place: Place) -> None:
        self.reference, self.place = reference, place
        self.outcome = Outcome()
        self.safe: set[tuple[int, str]] = set()
        self._deletions: Counter[int] = Counter()
        self._lock = Lock()

    def attempt(
        self, progress: Progress | None = None, planning: Progress | None = None, **changes: Any
    ) -> JobReport | None:
        """Run the job; returns None if it stopped with a message. Any other end is a failure of the test.

        Args:
            progress: progress of the job.
            planning: progress of its planning.
            changes: other settings of its place.
        """
        self.outcome.runs += 1
        place = replace(self.place, **changes)
        try:
            with _quick(), place.bank(self.reference.model) as bank:
                self._watch(bank)
                plan = place.plan(bank, self.reference.model, self.reference.sentences, progress=planning)
                return store_plan(bank, plan, self.reference.model, progress, batch=BATCH)
        except LatentBankError as error:
            self.stopped(str(error))
            return None

    def strike(self, fault: Callable[[], None], *layers: int) -> None:
        """Call a fault that deletes all contexts of some layers."""
        with self._lock:
            fault()
            self.outcome.struck += 1
            self._deletions.update(layers)
            self.safe = {item for item in self.safe if item[0] not in layers}

    def stopped(self, message: str) -> None:
        """Record that a run stopped, and check that its message was one sentence."""
        assert is_one_sentence(LatentBankError(message)), message
        self.outcome.stops.append(message)

    def check(self) -> None:
        """Count the acknowledged contexts again."""
        if not self.safe:
            return
        with self.place.bank(self.reference.model) as bank:
            for layer in bank.layers:
                ids = [id_ for at, id_ in self.safe if at == layer]
                self.outcome.lost += len(set(ids) - bank.store.present(layer, ids))
        self.outcome.acknowledged += len(self.safe)

    def finish(self) -> Outcome:
        """Run the job undisturbed, to its end, and count everything."""
        self.check()
        report = self.attempt()
        assert report is not None, self.outcome.stops[-1]
        assert report.found + report.encoded == report.contexts
        return self.count()

    def count(self) -> Outcome:
        """Compare a bank that should be complete with the undisturbed one."""
        with self.place.bank(self.reference.model) as bank:
            assert bank.verify() == []
            assert bank.corpora["c"].complete
            found = contents(bank)
        self.outcome.acknowledged += self.reference.contexts
        for layer, expected in self.reference.expected.items():
            stored = found[layer]
            self.outcome.lost += sum(
                id_ not in stored
                or stored[id_][0] != payload
                or float(np.abs(stored[id_][1] - vector).max()) > _TOLERANCE
                for id_, (payload, vector) in expected.items()
            )
            tokens = Counter((payload["sentence"], payload["position"]) for payload, _ in stored.values())
            twice = sum(number - 1 for number in tokens.values())
            self.outcome.doubled += max(twice, len(stored.keys() - expected.keys()))
        return self.outcome

    def _watch(self, bank: Bank) -> None:
        """Record what the store acknowledges: on a server what was answered, embedded what was committed."""
        store, added = bank.store, set[tuple[int, str]]()
        upsert, commit = store.upsert, store.commit

        def upsert_and_note(layer: int, points: Points) -> None:
            before = self._deletions[layer]
            upsert(layer, points)
            # Recorded at once, because they may be deleted before the next request. Another thread's request may have
            # led to a deletion between the answer and this line; then nobody knows whether they were deleted, too.
            with self._lock:
                if self._deletions[layer] == before:
                    (self.safe if store.shared else added).update((layer, id_) for id_ in points.ids)

        def commit_and_note() -> None:
            commit()
            self.safe.update(added)
            added.clear()

        store.upsert = upsert_and_note  # type: ignore[method-assign]
        store.commit = commit_and_note  # type: ignore[method-assign]


@contextmanager
def _quick() -> Iterator[None]:
    """Commit after every batch, and do not wait for readers, because there are none.

    However slow the machine is, no ledger is read again for its age, and gRPC is waited for.
    """
    with (
        mock.patch("latentbank.bank.view.LEDGER_SECONDS", math.inf),
        mock.patch("latentbank.bank.store.server.client._LONGEST_ANSWER", 60),
        mock.patch("latentbank.ingest.writer.COMMIT_SECONDS", 0.0),
        mock.patch("latentbank.ingest.job.LEDGER_SECONDS", 0.0),
    ):
        yield


@dataclass(frozen=True)
class Site:
    """A double on which faults of a server are tried, with one transport."""

    reference: Reference
    server: QdrantDouble
    folder: Path
    transport: str

    def trial(self) -> Trial:
        """Begin again, on an empty server."""
        self.server.start()
        self.server.clear_faults()
        self.server.wipe()
        self.server.requests.clear()
        grpc = self.transport == "grpc"
        place = Place(
            self.reference.directory, self.folder, self.server.url, self.server.grpc_port, prefer_grpc=grpc
        )
        return Trial(self.reference, place)

    def undisturbed(self) -> Counter[str]:
        """Run the job undisturbed; returns the number of requests by operation for which faults can be ordered."""
        trial = self.trial()
        assert trial.attempt() is not None
        requests = Counter(request.operation for request in self.server.requests)
        return Counter(
            {name: number for name, number in requests.items() if name not in ("version", "health")}
        )

    @property
    def struck(self) -> int:
        """Return how many requests were struck by a fault."""
        return sum(request.fault is not None for request in self.server.requests)
