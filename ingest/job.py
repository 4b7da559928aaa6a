"""The job: read the plan, run the LLM, and store the contexts while the LLM computes the next batch.

The bank itself records what is done: a job that was killed looks up which contexts are stored and encodes only the
others. So do many workers, each with a share of the plan: the one that finds all contexts stored builds the indexes and
completes the ledger entry. If two workers find so at the same time, both do it, which is harmless.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

from latentbank.bank import corpora
from latentbank.bank.bank import Bank
from latentbank.bank.corpora import CorpusContent
from latentbank.bank.ledger import LEDGER_SECONDS
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.upkeep import index_layers, index_waiting
from latentbank.ingest.encode import context_ids, encode
from latentbank.ingest.means import text_means
from latentbank.ingest.plan import Plan, PlannedSentence
from latentbank.ingest.workers.shares import Heartbeat, Share, share_states
from latentbank.ingest.writer import Writer
from latentbank.memory import memory_kept
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent

# Sentences whose contexts are looked up in the bank at once when a job continues.
_LOOKUP = 256
# How often, a second apart, a worker counts again when all shares are done but contexts are missing: a cluster's
# replicas may be behind each other.
_RECOUNTS = 5


@dataclass(frozen=True)
class JobReport:
    """What a job did.

    Attributes:
        corpus: name of the corpus.
        contexts: contexts of the plan, or of the worker's share.
        encoded: contexts that this job stored.
        found: contexts that were stored before.
        computed_tokens: tokens that the LLM ran on.
        encode_seconds: seconds spent on encoding and storing.
        index_seconds: seconds spent on indexing.
        share: the worker's share, such as "0/4"; None: the whole plan.
        complete: whether the corpus is complete, which it is once all shares are.
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


def store_plan(
    bank: Bank,
    plan: Plan,
    model: LanguageModel,
    progress: Progress | None = None,
    *,
    batch: int | None = None,
    share: Share | None = None,
    replace: bool = False,
) -> JobReport:
    """Store every context of a plan, or of a share of it. Called again, it continues where an earlier job stopped.

    It can be interrupted or killed at any moment: called again, it ends with the same bank. The ledger entry is
    complete only when every layer holds every context and is indexed.

    Args:
        bank: open for writing.
        plan: made with this model's tokenizer.
        model: loaded at least as deep as the bank's deepest layer.
        progress: counts contexts done of contexts planned, then layers indexed; before that, where a centred bank
            gets its means, contexts of their sample.
        batch: tokens in one forward pass; None: chosen by the device.
        share: the part of the plan that this worker stores, on a server while others store theirs; None: all of it.
        replace: if the bank holds the corpus with other sentences or settings, this one takes its place once it
            is complete; until then readers are shown the old one.

    Raises:
        BankMismatch: the bank or the plan belongs to another model.
        CorpusError: the bank holds other sentences or settings under this corpus name.
        ModelError: a hidden state is not finite.
        BankUnavailable: the store failed; what was acknowledged is safe.
    """
    progress = progress or Silent()
    bank.require_model(model.name, model.identity())
    bank.require_model(plan.model, plan.identity)
    content = _content(plan)
    slot = corpora.find_slot(bank, content, replace=replace)
    plan = dataclasses.replace(plan, corpus=slot.stored)
    part = _part(plan, share)
    full = bank.stored_contexts(plan.corpus) == {plan.contexts}
    if full and slot.entry is not None and slot.entry.complete:
        _finish_complete(bank, slot.entry, progress)
        return JobReport(content.name, part.contexts, 0, part.contexts, 0, 0.0, 0.0, part.label)
    if bank.metric == "centred" and not bank.manifest.means:
        means = text_means(plan, model, bank.layers, progress, units=bank.manifest.unit_means, batch=batch)
        bank.fix_means(means)
        progress.stage("ingesting", "contexts")
    entry = corpora.announce(bank, content, slot, alone=share is None)
    announced = time.monotonic()
    if not full:
        for layer in bank.layers:
            bank.store.defer_index(layer, bank.store.count(layer) + plan.contexts)
    started = time.monotonic()
    done = _encode(bank, plan, model, part, announced, progress, batch)
    encoded_at = time.monotonic()
    complete = share is None or _all_stored(bank, plan)
    if complete:
        index_layers(bank.store, bank.layers, progress)
        bank.add_digests(model.identity())
        corpora.complete(bank, entry, plan.contexts)
    return JobReport(
        corpus=content.name,
        contexts=part.contexts,
        encoded=done.encoded,
        found=done.found,
        computed_tokens=done.computed_tokens,
        encode_seconds=encoded_at - started,
        index_seconds=time.monotonic() - encoded_at,
        share=part.label,
        complete=complete,
    )


@dataclass(frozen=True)
class _Part:
    """The planned sentences of a job, from `first` to before `stop`, and the number of their contexts."""

    share: Share | None
    first: int
    stop: int
    contexts: int

    @property
    def label(self) -> str | None:
        return str(self.share) if self.share else None


@dataclass(frozen=True)
class _Done:
    """What `_encode` did; see `JobReport`."""

    encoded: int
    found: int
    computed_tokens: int


def _content(plan: Plan) -> CorpusContent:
    """Return what the ledger records of a plan."""
    return CorpusContent(
        name=plan.corpus,
        content_hash=plan.content_hash,
        sentences=plan.sentences,
        tokens=plan.tokens,
        contexts=plan.contexts,
        settings=plan.settings.to_dict(),
    )


def _part(plan: Plan, share: Share | None) -> _Part:
    if share is None:
        return _Part(None, 0, plan.planned_sentences, plan.contexts)
    first, stop = share.rows(plan)
    return _Part(share, first, stop, plan.count_contexts(first, stop))


def _finish_complete(bank: Bank, entry: CorpusEntry, progress: Progress) -> None:
    """Do what a killed job may have left undone after the corpus was complete."""
    bank.forget_obsolete(entry.name)
    index_waiting(bank, progress)


def _encode(
    bank: Bank,
    plan: Plan,
    model: LanguageModel,
    part: _Part,
    announced: float,
    progress: Progress,
    batch: int | None,
) -> _Done:
    """Encode and store the contexts that are missing.

    Args:
        bank: open for writing.
        plan: with the name that its contexts are stored under.
        model: the LLM.
        part: the job's part of the plan.
        announced: when the corpus was recorded in the ledger, a time of the monotonic clock.
        progress: counts contexts done.
        batch: tokens in one forward pass.
    """
    missing = _Missing(bank, plan, part, lookup=bank.stored_contexts(plan.corpus) != {0})
    computed = 0
    # No reader may use a ledger without the corpus when its first context is stored.
    begins = announced + LEDGER_SECONDS if bank.store.shared else 0.0
    writer = Writer(bank, part.contexts, progress, begins)
    heartbeat = (
        Heartbeat(bank.store, plan.corpus, part.share, part.contexts, lambda: writer.written + missing.found)
        if part.share
        else None
    )
    with heartbeat or nullcontext():
        with memory_kept(), writer:
            for encoded in encode(model, plan.corpus, missing.sentences(), bank.layers, batch=batch):
                computed += encoded.computed
                writer.put(encoded, missing.found)
        if heartbeat:
            heartbeat.done()
    return _Done(writer.written, missing.found, computed)


def _all_stored(bank: Bank, plan: Plan) -> bool:
    """Return whether the last share is done, so that this worker has to complete the corpus.

    Every worker counts after its last context was acknowledged, so the last of them finds all contexts.
    """
    for _ in range(_RECOUNTS):
        counts = bank.stored_contexts(plan.corpus)
        if len(counts) == 1 and max(counts) >= plan.contexts:
            return True
        states = share_states(bank.store.read_shares(plan.corpus))
        if any(share.state != "done" for share in states):
            return False
        time.sleep(1.0)
    return True  # completing the corpus then reports what is wrong


class _Missing:
    """The planned sentences without the contexts that every layer holds already, which `found` counts."""

    def __init__(self, bank: Bank, plan: Plan, part: _Part, *, lookup: bool) -> None:
        self._bank, self._plan, self._part, self._lookup = bank, plan, part, lookup
        self.found = 0

    def sentences(self) -> Iterator[PlannedSentence]:
        planned = self._plan.read(self._part.first, self._part.stop)
        if not self._lookup:
            yield from planned
            return
        while group := list(islice(planned, _LOOKUP)):
            yield from self._without_stored(group)

    def _without_stored(self, group: list[PlannedSentence]) -> Iterator[PlannedSentence]:
        ids = [context_ids(self._plan.corpus, sentence) for sentence in group]
        flat = [id_ for row in ids for id_ in row]
        stored = set.intersection(*(self._bank.store.present(layer, flat) for layer in self._bank.layers))
        self.found += len(stored)
        for sentence, row in zip(group, ids, strict=True):
            kept = [i for i, id_ in enumerate(row) if id_ not in stored]
            if kept:
                yield sentence.only(kept)
