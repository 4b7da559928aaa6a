"""The job: plan -> encode -> rotate -> upsert, the writer working while the LLM computes the next batch.

The bank itself is the record of what is done: a job that was killed asks it which contexts are there and
encodes only the others. So do many workers, each at a share of the plan: whoever finds that all contexts are there
builds the indexes and completes the ledger entry. Two that find so do it twice, which does no harm.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType

from latentbank.bank.bank import Bank
from latentbank.bank.ledger import LEDGER_SECONDS, replacement_name
from latentbank.bank.manifest import CorpusEntry, now
from latentbank.errors import CorpusError, LatentBankError
from latentbank.ingest.corpus import Corpus
from latentbank.ingest.encode import Encoded, context_ids, encode
from latentbank.ingest.means import text_means
from latentbank.ingest.plan import (
    Plan,
    PlannedSentence,
    PlanSettings,
    content_hash,
    load_plan,
    make_plan,
    same_request,
)
from latentbank.ingest.workers.shares import Heart, Share, share_states
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent

# Batches between the LLM and the writer: a few seconds of work, a few MB.
_QUEUE = 4
# Seconds of writing between two commits: what a kill can cost at most, besides what is queued.
COMMIT_SECONDS = 5.0
# The embedded engine lets go of Python's lock at every string it reads. With Python's usual 5 ms between
# two switches of threads, the writer would wait those 5 ms for each string of each payload.
SWITCH_SECONDS = 1e-4
# Sentences whose contexts are looked up in the bank at once when a job continues.
_LOOKUP = 256
# Seconds after which several workers that fixed a centred bank's means at the same moment all see the same ones.
_SETTLE_SECONDS = 2.0
# How often, a second apart, a worker counts again when all shares are done but contexts are missing: a cluster's
# replicas may be behind each other.
_RECOUNTS = 5


@dataclass(frozen=True)
class JobReport:
    """What a job did: `encoded` contexts of this run, `found` that were stored before; seconds spent.

    A worker's job has a `share`, and `contexts` are those of its share; the corpus is `complete` once all shares are.
    """

    corpus: str
    contexts: int
    encoded: int
    found: int
    computed_tokens: int
    encode_seconds: float
    index_seconds: float
    share: str | None = None
    complete: bool = True


def plan_for(
    bank: Bank,
    corpus: Corpus,
    model: LanguageModel,
    directory: Path,
    settings: PlanSettings | None = None,
    progress: Progress | None = None,
    *,
    replacing: bool = False,
) -> Plan:
    """Give the plan of a corpus for a bank: the one in `directory` if it still fits, else a new one.

    Args:
        bank: where it will be stored.
        corpus: what is planned.
        model: the LLM.
        directory: of the plan.
        settings: how contexts are chosen.
        progress: told sentences planned.
        replacing: the bank may hold this corpus name with other sentences or settings; they will be replaced.

    Raises:
        CorpusError: the bank holds this corpus name with other sentences or other plan settings.
    """
    settings = settings or PlanSettings()
    bank.require_model(model.name, model.fingerprint())
    entry = None if replacing else bank.corpora.get(corpus.name)
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


def store_plan(
    bank: Bank,
    plan: Plan,
    model: LanguageModel,
    progress: Progress | None = None,
    *,
    batch: int | None = None,
    share: Share | None = None,
    replacing: bool = False,
) -> JobReport:
    """Store every context of a plan, or of a share of it; continues where an earlier run stopped.

    Safe to interrupt or kill at any moment: run again, it ends with the same bank. The ledger entry is
    complete only when every layer holds every context and is indexed.

    Args:
        bank: open for writing.
        plan: made with this model's tokenizer.
        model: loaded at least as deep as the bank's deepest layer.
        progress: told contexts done of contexts planned, then layers indexed; before that, where a centred bank
            gets its means, contexts of their sample.
        batch: tokens in one forward pass.
        share: the part of the plan that this worker stores, on a server while others store theirs; None: all of it.
        replacing: if the bank holds the corpus with other sentences or settings, this one takes its place once it
            is complete; until then readers see the old one.

    Raises:
        BankMismatch: the bank or the plan belongs to another model.
        CorpusError: the bank holds this corpus name with other content.
        ModelError: a hidden state is not finite.
        BankUnavailable: the store failed; what was acknowledged is safe.
    """
    progress = progress or Silent()
    bank.require_model(model.name, model.fingerprint())
    bank.require_model(plan.model, plan.fingerprint)
    corpus, replaces = plan.corpus, ""
    entry = bank.corpora.get(corpus)
    if replacing and entry is not None and not _same(entry, plan):
        replaces, corpus = corpus, replacement_name(entry)
        entry = bank.corpora.get(corpus)
        if entry is not None and not _same(entry, plan):
            raise CorpusError(
                f"The bank '{bank.name}' holds another replacement of '{replaces}' that is not complete; finish it, or "
                f"drop it (`latentbank bank drop-corpus {bank.name} {corpus}`)."
            )
    if entry is not None:
        check_entry(bank, entry, plan)
    plan = replace(plan, corpus=entry.stored if entry else corpus)
    first, stop = share.rows(plan) if share else (0, plan.planned_sentences)
    contexts = plan.count_contexts(first, stop) if share else plan.contexts
    label = str(share) if share else None
    full = bank.stored_contexts(plan.corpus) == {plan.contexts}
    if entry is not None and entry.complete and full:
        bank.forget_obsolete(entry.name)
        for layer in bank.layers if share else ():
            state = bank.store.info(layer)
            if state.indexed < state.points:  # a worker that came late and was killed has put the index off
                bank.store.index(layer)
        return JobReport(entry.name, contexts, 0, contexts, 0, 0.0, 0.0, label)
    if bank.metric == "centred" and not bank.manifest.means:
        means = text_means(plan, model, bank.layers, progress, batch=batch)
        bank.fix_means(means, settle=_SETTLE_SECONDS if share and bank.store.shared else 0.0)
        progress.stage("ingesting", "contexts")
    # A worker leaves an entry alone that another has made, and perhaps completes at this moment.
    if entry is None or entry.complete or not share:
        fresh = entry or _entry(plan, corpus, replaces)
        entry = replace(fresh, complete=False, updated=now())
        bank.record(entry)
    announced = time.monotonic()
    if not full:
        for layer in bank.layers:
            bank.store.defer_index(layer, bank.store.count(layer) + plan.contexts)

    started = time.monotonic()
    todo = _Todo(bank, plan, first, stop, look=bank.stored_contexts(plan.corpus) != {0})
    computed = 0
    # No reader may go by a ledger in which the corpus is not announced when its first context comes.
    writer = _Writer(bank, contexts, progress, announced + LEDGER_SECONDS if bank.store.shared else 0.0)
    beats = Heart(bank, plan.corpus, share, contexts, lambda: writer.written + todo.found) if share else None
    with beats or nullcontext():
        with writer:
            for encoded in encode(model, plan.corpus, todo.sentences(), bank.layers, batch=batch):
                computed += encoded.computed
                writer.put(encoded, todo.found)
        if beats:
            beats.done()
    encoded_at = time.monotonic()
    complete = not share or _all_stored(bank, plan)
    if complete:
        _complete(bank, plan, entry, progress)
    return JobReport(
        corpus=replaces or entry.name,
        contexts=contexts,
        encoded=writer.written,
        found=todo.found,
        computed_tokens=computed,
        encode_seconds=encoded_at - started,
        index_seconds=time.monotonic() - encoded_at,
        share=label,
        complete=complete,
    )


def _all_stored(bank: Bank, plan: Plan) -> bool:
    """Tell whether the last share is done, so that this worker has to complete the corpus.

    Every worker counts after its last context was acknowledged, so the last of them finds all contexts.
    """
    for _ in range(_RECOUNTS):
        if max(held := bank.stored_contexts(plan.corpus)) >= plan.contexts and len(held) == 1:
            return True
        states = share_states(bank.store.read_shares(plan.corpus))
        if any(one.state != "done" for one in states):
            return False
        time.sleep(1.0)
    return True  # completing it says what is wrong


def _complete(bank: Bank, plan: Plan, entry: CorpusEntry, progress: Progress) -> None:
    """Index every layer and complete the ledger entry; may be done by several workers at once."""
    progress.stage("indexing", "layers")
    for done, layer in enumerate(bank.layers):
        progress.update(done, len(bank.layers))
        bank.store.index(layer)
    held = bank.stored_contexts(plan.corpus)
    if held != {plan.contexts}:
        raise LatentBankError(
            f"The layers hold {', '.join(f'{n:,}' for n in sorted(held))} contexts of '{entry.name}' instead of "
            f"{plan.contexts:,}: something else changed the bank; "
            + (
                f"drop the corpus (`latentbank bank drop-corpus {bank.name} {entry.name}`) and run again."
                if max(held) > plan.contexts
                else "run the command again."
            )
        )
    if entry.replaces:
        if entry.name in bank.corpora:  # else another worker has done it
            bank.supersede(entry)
    else:
        bank.record(replace(entry, complete=True, updated=now()))
    bank.clear_shares(plan.corpus)


class _Todo:
    """The planned sentences without the contexts that every layer holds already."""

    def __init__(self, bank: Bank, plan: Plan, first: int, stop: int, *, look: bool) -> None:
        self._bank, self._plan, self._look = bank, plan, look
        self._rows = first, stop
        self.found = 0

    def sentences(self) -> Iterator[PlannedSentence]:
        planned = self._plan.read(*self._rows)
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
    """A thread that stores batches as they come, and commits every few seconds and at the end.

    It begins no earlier than at `begins`, a time of the monotonic clock.
    """

    def __init__(self, bank: Bank, total: int, progress: Progress, begins: float = 0.0) -> None:
        self._bank, self._total, self._progress = bank, total, progress
        self._begins = begins
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
        sys.setswitchinterval(SWITCH_SECONDS)
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
                time.sleep(max(self._begins - time.monotonic(), 0.0))
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


def _entry(plan: Plan, name: str, replaces: str) -> CorpusEntry:
    return CorpusEntry(
        name=name,
        content_hash=plan.content_hash,
        sentences=plan.sentences,
        tokens=plan.tokens,
        contexts=plan.contexts,
        plan=plan_settings(plan),
        replaces=replaces,
    )


def _same(entry: CorpusEntry, plan: Plan) -> bool:
    return entry.content_hash == plan.content_hash and dict(entry.plan) == plan_settings(plan)


def _load_if_readable(directory: Path) -> Plan | None:
    try:
        return load_plan(directory)
    except LatentBankError:
        return None  # of another version: it is made anew


def _changed(bank: Bank, corpus: str) -> CorpusError:
    return CorpusError(
        f"The corpus '{corpus}' has changed since it was ingested into bank '{bank.name}'; give the changed one "
        "another name, put it in the old one's place with --replace, or drop the old one first "
        "(`latentbank bank drop-corpus`)."
    )


def _check_settings(bank: Bank, entry: CorpusEntry, settings: PlanSettings) -> None:
    if dict(entry.plan) != asdict(settings):
        raise CorpusError(
            f"The corpus '{entry.name}' in bank '{bank.name}' was planned with {_said(entry.plan)}, not with "
            f"{_said(asdict(settings))}; use those settings, another name, or --replace."
        )


def _said(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
