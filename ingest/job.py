"""The job: plan -> encode -> rotate -> upsert, the writer working while the LLM computes the next batch.

The bank itself is the record of what is done: a job that was killed asks it which contexts are there and
encodes only the others.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

from bank.bank import Bank
from bank.manifest import CorpusEntry
from bank.where import Where
from ingest.corpus import Corpus
from ingest.encode import Encoded, context_ids, encode
from ingest.means import text_means
from ingest.plan import Plan, PlannedSentence, PlanSettings, content_hash, load_plan, make_plan, same_request
from latentbank_errors import CorpusError, LatentBankError
from latentbank_progress import Progress, Silent
from models.language import LanguageModel

# Batches between the LLM and the writer: a few seconds of work, a few MB.
_QUEUE = 4
# Seconds of writing between two commits: what a kill can cost at most, besides what is queued.
COMMIT_SECONDS = 5.0
# The embedded engine lets go of Python's lock at every string it reads. With Python's usual 5 ms between
# two switches of threads, the writer would wait those 5 ms for each string of each payload.
_SWITCH_SECONDS = 1e-4
# Sentences whose contexts are looked up in the bank at once when a job continues.
_LOOKUP = 256


@dataclass(frozen=True)
class JobReport:
    """What a job did: `encoded` contexts of this run, `found` that were stored before; seconds spent."""

    corpus: str
    contexts: int
    encoded: int
    found: int
    computed_tokens: int
    encode_seconds: float
    index_seconds: float


def ready_plan(
    bank: Bank,
    corpus: Corpus,
    model: LanguageModel,
    directory: Path,
    settings: PlanSettings | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Give the plan of a corpus for a bank: the one in `directory` if it still fits, else a new one.

    Raises:
        CorpusError: the bank holds this corpus name with other sentences or other plan settings.
    """
    settings = settings or PlanSettings()
    bank.require_model(model.name, model.fingerprint())
    entry = bank.corpora.get(corpus.name)
    if entry is not None:
        _check_settings(bank, entry, settings)
    plan = _load_if_readable(directory)
    # Standard input can be read only once: it is planned anew, which reads and hashes it.
    if (
        plan is None
        or "-" in corpus.sources
        or not same_request(plan, corpus.name, settings, model.fingerprint())
    ):
        plan = make_plan(corpus, model, directory, settings, progress)
    elif content_hash(corpus, progress) != plan.content_hash:
        if entry is not None:
            raise _changed(bank, corpus.name)
        plan = make_plan(corpus, model, directory, settings, progress)
    if entry is not None:
        check_entry(bank, entry, plan)
    return plan


def check_entry(bank: Bank, entry: CorpusEntry, plan: Plan) -> None:
    """Check that a plan continues what the bank's ledger says of its corpus.

    Raises:
        CorpusError: the corpus or its plan settings have changed.
    """
    if entry.content_hash != plan.content_hash:
        raise _changed(bank, plan.corpus)
    _check_settings(bank, entry, plan.settings)


def run(
    bank: Bank,
    plan: Plan,
    model: LanguageModel,
    progress: Progress | None = None,
    *,
    batch: int | None = None,
) -> JobReport:
    """Store every context of a plan; continues where an earlier run stopped.

    Safe to interrupt or kill at any moment: run again, it ends with the same bank. The ledger entry is
    complete only when every layer holds every context and is indexed.

    Args:
        bank: open for writing.
        plan: made with this model's tokenizer.
        model: loaded at least as deep as the bank's deepest layer.
        progress: told contexts done of contexts planned, then layers indexed; before that, where a centred bank
            gets its means, contexts of their sample.
        batch: tokens in one forward pass.

    Raises:
        BankMismatch: the bank or the plan belongs to another model.
        CorpusError: the bank holds this corpus name with other content.
        ModelError: a hidden state is not finite.
        BankUnavailable: the store failed; what was acknowledged is safe.
    """
    progress = progress or Silent()
    bank.require_model(model.name, model.fingerprint())
    bank.require_model(plan.model, plan.fingerprint)
    entry = bank.corpora.get(plan.corpus)
    if entry is not None:
        check_entry(bank, entry, plan)
        if entry.complete and _counts(bank, plan) == {plan.contexts}:
            return JobReport(plan.corpus, plan.contexts, 0, plan.contexts, 0, 0.0, 0.0)
    if bank.metric == "centred" and not bank.manifest.means:
        bank.fix_means(text_means(plan, model, bank.layers, progress, batch=batch))
        progress.stage("ingesting", "contexts")
    bank.record(_entry(plan, complete=False))
    for layer in bank.layers:
        bank.store.defer_index(layer, bank.store.count(layer) + plan.contexts)

    started = time.monotonic()
    todo = _Todo(bank, plan, look=_counts(bank, plan) != {0})
    computed = 0
    with _Writer(bank, plan.contexts, progress) as writer:
        for encoded in encode(model, plan.corpus, todo.sentences(), bank.layers, batch=batch):
            computed += encoded.computed
            writer.put(encoded, todo.found)
    encoded_at = time.monotonic()
    progress.stage("indexing", "layers")
    for done, layer in enumerate(bank.layers):
        progress.update(done, len(bank.layers))
        bank.store.index(layer)
    held = _counts(bank, plan)
    if held != {plan.contexts}:
        raise LatentBankError(
            f"The layers hold {', '.join(f'{n:,}' for n in sorted(held))} contexts of '{plan.corpus}' instead of "
            f"{plan.contexts:,}: something else changed the bank; "
            + (
                f"drop the corpus (`latentbank bank drop-corpus {bank.name} {plan.corpus}`) and run again."
                if max(held) > plan.contexts
                else "run the command again."
            )
        )
    bank.record(_entry(plan, complete=True))
    return JobReport(
        corpus=plan.corpus,
        contexts=plan.contexts,
        encoded=writer.written,
        found=todo.found,
        computed_tokens=computed,
        encode_seconds=encoded_at - started,
        index_seconds=time.monotonic() - encoded_at,
    )


class _Todo:
    """The planned sentences without the contexts that every layer holds already."""

    def __init__(self, bank: Bank, plan: Plan, *, look: bool) -> None:
        self._bank, self._plan, self._look = bank, plan, look
        self.found = 0

    def sentences(self) -> Iterator[PlannedSentence]:
        planned = self._plan.read()
        if not self._look:
            yield from planned
            return
        while group := list(islice(planned, _LOOKUP)):
            yield from self._missing(group)

    def _missing(self, group: list[PlannedSentence]) -> Iterator[PlannedSentence]:
        ids = [context_ids(self._plan.corpus, sentence) for sentence in group]
        flat = [id_ for row in ids for id_ in row]
        there = set.intersection(*(self._bank.store.present(layer, flat) for layer in self._bank.layers))
        self.found += len(there)
        for sentence, row in zip(group, ids, strict=True):
            kept = [i for i, id_ in enumerate(row) if id_ not in there]
            if kept:
                yield sentence.only(kept)


class _Writer:
    """A thread that stores batches as they come, and commits every few seconds and at the end."""

    def __init__(self, bank: Bank, total: int, progress: Progress) -> None:
        self._bank, self._total, self._progress = bank, total, progress
        self._queue: queue.Queue[tuple[Encoded, int] | None] = queue.Queue(_QUEUE)
        self._failure: BaseException | None = None
        self._hurry = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="latentbank writer", daemon=True)
        self.written = 0

    def put(self, encoded: Encoded, found: int) -> None:
        """Hand over a batch; waits while the writer is behind. Raises what made the writer fail."""
        while self._failure is None:
            try:
                self._queue.put((encoded, found), timeout=0.5)
                return
            except queue.Full:
                continue
        raise self._failure

    def __enter__(self) -> _Writer:
        self._thread.start()
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also after Ctrl-C or an error: what the LLM has computed is stored before we stop.
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
        """Wait until the writer has stored what is queued."""
        while not self._done.is_set():
            try:
                self._queue.put(None, timeout=0.5)
                break
            except queue.Full:
                continue
        # Not join: interrupted, Python 3.11's takes the thread for ended although it goes on.
        self._done.wait()
        self._thread.join()

    def _work(self) -> None:
        try:
            for encoded, found in self._batches():
                for layer, states in encoded.states.items():
                    self._bank.add(layer, encoded.ids, states, encoded.payloads)
                self.written += len(encoded.ids)
                self._progress.update(self.written + found, self._total)
        except BaseException as error:
            self._failure = error
        finally:
            self._done.set()

    def _batches(self) -> Iterator[tuple[Encoded, int]]:
        last = time.monotonic()
        while (item := self._queue.get()) is not None and not self._hurry:
            yield item
            if time.monotonic() - last >= COMMIT_SECONDS:
                self._bank.commit()
                last = time.monotonic()
        self._bank.commit()


def plan_settings(plan: Plan) -> dict[str, str | int]:
    """Give a plan's settings as the ledger keeps them."""
    return asdict(plan.settings)


def _counts(bank: Bank, plan: Plan) -> set[int]:
    return {bank.store.count(layer, Where(corpus=plan.corpus)) for layer in bank.layers}


def _entry(plan: Plan, *, complete: bool) -> CorpusEntry:
    return CorpusEntry(
        name=plan.corpus,
        content_hash=plan.content_hash,
        sentences=plan.sentences,
        tokens=plan.tokens,
        contexts=plan.contexts,
        plan=plan_settings(plan),
        complete=complete,
    )


def _load_if_readable(directory: Path) -> Plan | None:
    try:
        return load_plan(directory)
    except LatentBankError:
        return None  # of another version: it is made anew


def _changed(bank: Bank, corpus: str) -> CorpusError:
    return CorpusError(
        f"The corpus '{corpus}' has changed since it was ingested into bank '{bank.name}'; give the changed one "
        "another name, or drop the old one first (`latentbank bank drop-corpus`)."
    )


def _check_settings(bank: Bank, entry: CorpusEntry, settings: PlanSettings) -> None:
    if dict(entry.plan) != asdict(settings):
        raise CorpusError(
            f"The corpus '{entry.name}' in bank '{bank.name}' was planned with {_said(entry.plan)}, not with "
            f"{_said(asdict(settings))}; use those settings, another name, or drop the corpus first."
        )


def _said(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
