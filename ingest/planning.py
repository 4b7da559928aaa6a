"""Planning: choose the contexts of a corpus and write the plan, or use an existing plan that still fits."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replaced
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from latentbank.bank import corpora
from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.errors import CorpusError, LatentBankError
from latentbank.files import move
from latentbank.identity import Identity
from latentbank.ingest.choosing import Chooser
from latentbank.ingest.corpus import Corpus, Counts, read_sentences
from latentbank.ingest.plan import (
    SCHEMA,
    Plan,
    PlannedSentence,
    PlanSettings,
    load_plan,
    same_request,
    save_description,
)
from latentbank.ingest.plan_files import NewPlan, new_plan, planning
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent
from latentbank.text import listed

log = logging.getLogger("latentbank")

# Sentences that are tokenized and written at once.
_BATCH = 1024
# Sentences are sorted by their first tokens only: longer shared prefixes are too rare to pay for.
_SORT_TOKENS = 12


def plan_for(
    bank: Bank,
    corpus: Corpus,
    model: LanguageModel,
    directory: Path,
    settings: PlanSettings | None = None,
    progress: Progress | None = None,
    *,
    replace: bool = False,
) -> Plan:
    """Return the plan of a corpus for a bank: the one in `directory` if it still fits, else a new one.

    Another job that makes a plan there is waited for, and its plan used if it fits.

    Args:
        bank: where the contexts will be stored.
        corpus: what is planned.
        model: the LLM.
        directory: folder of the plan.
        settings: how contexts are chosen.
        progress: counts sentences planned.
        replace: the bank may hold other sentences or settings under this corpus name; they will be replaced.

    Raises:
        BankMismatch: the bank belongs to another model.
        CorpusError: the bank holds other sentences or settings under this corpus name; see also `make_plan`.
    """
    settings = settings or PlanSettings()
    bank.require_model(model.name, model.identity())
    entry = None if replace else bank.corpora.get(corpus.name)
    if entry is not None:
        corpora.require_same_settings(bank, entry, settings.to_dict())
    request = _Request(bank, corpus, settings, model.identity(), entry, directory, progress)
    plan = request.answered()
    if plan is None:
        with planning(directory):
            # Another job may have planned the same meanwhile.
            plan = request.answered(meanwhile=True)
            if plan is None:
                plan = _make(corpus, model, directory, settings, progress or Silent())
            else:
                log.warning("Another job has planned '%s' meanwhile; its plan is used.", corpus.name)
    if entry is not None:
        corpora.require_same(bank, entry, plan.content_hash, plan.settings.to_dict())
    return plan


@dataclass
class _Request:
    """A request for the plan of a corpus, which a plan in the folder may answer."""

    bank: Bank
    corpus: Corpus
    settings: PlanSettings
    model: Identity
    entry: CorpusEntry | None
    directory: Path
    progress: Progress | None
    seen: str = ""

    def answered(self, *, meanwhile: bool = False) -> Plan | None:
        """Return the plan in the folder if it fits; None: the corpus has to be planned.

        Args:
            meanwhile: only a plan that was not there at the last call.

        Raises:
            CorpusError: the bank holds other sentences under the corpus's name.
        """
        # Standard input can be read only once: it is planned anew, which reads and hashes it.
        plan = None if "-" in self.corpus.sources else _load_if_readable(self.directory)
        if plan is None or (meanwhile and plan.file == self.seen):
            return None
        self.seen = plan.file
        if not same_request(plan, self.corpus.name, self.settings, self.model):
            return None
        counts = Counts()
        if content_hash(self.corpus, self.progress, counts) == plan.content_hash:
            return replaced(plan, source=counts.read())  # the same sentences, perhaps from other files
        if self.entry is not None:
            raise corpora.changed(self.bank, self.corpus.name)
        return None


def make_plan(
    corpus: Corpus,
    model: LanguageModel,
    directory: Path,
    settings: PlanSettings | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan a corpus's contexts and write the plan to `directory`, replacing an earlier one when it is finished.

    Another job that plans in the same folder is waited for. Jobs that read the earlier plan can go on.

    Memory grows with the contexts (about 100 bytes each, 200 in a sample) and the planned sentences (about 120 bytes
    each while they are sorted), never with their text.

    Args:
        corpus: what is planned.
        model: the LLM; only its tokenizer runs.
        directory: folder of the plan.
        settings: how contexts are chosen.
        progress: counts sentences planned, then sentences sorted.

    Raises:
        CorpusError: the corpus cannot be read, or gives no context at all.
        LatentBankError: the directory cannot be written, or its disk is full.
        ModelError: the tokenizer does not report where its tokens are in the sentence.
    """
    with planning(directory):
        return _make(corpus, model, directory, settings or PlanSettings(), progress or Silent())


def _make(
    corpus: Corpus, model: LanguageModel, directory: Path, settings: PlanSettings, progress: Progress
) -> Plan:
    with new_plan(directory) as files:
        chosen = _choose(corpus, Chooser(corpus.name, model, settings, corpus.numbers), files, progress)
        prefixes = _write_sorted(files.unsorted, files.unfinished, chosen.order, progress)
        move(files.unfinished, files.sentences)
        plan = Plan(
            directory=directory,
            corpus=corpus.name,
            content_hash=chosen.content_hash,
            settings=settings,
            model=model.name,
            revision=model.revision,
            fingerprint=model.fingerprint(),
            sentences=chosen.counts.sentences,
            blank=chosen.counts.blank,
            truncated=chosen.truncated,
            tokens=chosen.tokens,
            contexts=chosen.rows.contexts,
            prefixes=prefixes,
            planned_sentences=len(chosen.order),
            caption_bytes=chosen.rows.caption_bytes,
            source=chosen.counts.read(),
            digests=model.identity().digests,
            file=files.sentences.name,
        )
        save_description(plan)
    return plan


def content_hash(corpus: Corpus, progress: Progress | None = None, counts: Counts | None = None) -> str:
    """Return a hash of a corpus's sentences in their order, which tells whether it changed.

    Args:
        corpus: what is read.
        progress: counts sentences.
        counts: updated while reading.

    Raises:
        CorpusError: the corpus cannot be read.
    """
    counts, digest = counts or Counts(), hashlib.blake2b(digest_size=16)
    for sentence in read_sentences(corpus, counts):
        hash_sentence(digest, sentence)
        if progress and counts.sentences % 10_000 == 0:
            progress.update(counts.sentences)
    return digest.hexdigest()


def hash_sentence(digest: Any, sentence: str) -> None:
    """Add one sentence to a content hash, its length first, so that different corpora give different input."""
    raw = sentence.encode()
    digest.update(struct.pack("<I", len(raw)) + raw)


class _Rows:
    """Planned sentences that are written to a file as they come, and what the plan says of them."""

    def __init__(self, writer: pa.ipc.RecordBatchFileWriter) -> None:
        self._writer = writer
        self._keys: list[npt.NDArray[np.int32]] = []
        self.contexts = self.caption_bytes = 0

    def write(self, planned: Sequence[PlannedSentence]) -> None:
        if not planned:
            return
        self._keys.append(_sort_keys(planned))
        self._writer.write_batch(_to_arrow(planned))
        self.contexts += sum(len(row.positions) for row in planned)
        self.caption_bytes += sum(len(row.positions) * len(row.caption.encode()) for row in planned)

    def order(self) -> npt.NDArray[np.intp]:
        """Return the rows in encoding order."""
        return np.lexsort(np.concatenate(self._keys).T[::-1])


@dataclass(frozen=True)
class _Chosen:
    """What was read and chosen of a corpus; `order` are the rows of the unsorted file in encoding order."""

    rows: _Rows
    tokens: int
    truncated: int
    counts: Counts
    content_hash: str
    order: npt.NDArray[np.intp]


def _choose(corpus: Corpus, chooser: Chooser, files: NewPlan, progress: Progress) -> _Chosen:
    """Choose the contexts of all sentences and write the planned ones to the unsorted file, in corpus order."""
    counts, digest = Counts(), hashlib.blake2b(digest_size=16)
    sentences = read_sentences(corpus, counts)
    with _written(files.unsorted) as rows:
        while batch := list(islice(sentences, _BATCH)):
            for sentence in batch:
                hash_sentence(digest, sentence)
            rows.write(list(chooser.choose(batch)))
            progress.update(counts.sentences)
    if chooser.provisional:
        rows = _settle(chooser, files, progress)
    if not rows.contexts:
        limits = listed(
            f"{name}={getattr(chooser.settings, name)}" for name in ("skip", "first_position", "max_tokens")
        )
        raise CorpusError(
            f"Corpus '{corpus.name}' gives no context: all tokens of its sentences are left out ({limits}); "
            "give longer sentences, or change these settings."
        )
    return _Chosen(rows, chooser.tokens, chooser.truncated, counts, digest.hexdigest(), rows.order())


def _settle(chooser: Chooser, files: NewPlan, progress: Progress) -> _Rows:
    """Write the unsorted file again, without the contexts that had to leave for later ones."""
    progress.stage("sampling", "sentences")
    done = 0
    with pa.memory_map(str(files.unsorted)) as mapped, _written(files.unfinished) as rows:
        reader = pa.ipc.open_file(mapped)
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            settled = (chooser.settled(PlannedSentence(**row)) for row in batch.to_pylist())
            rows.write([row for row in settled if row is not None])
            done += batch.num_rows
            progress.update(done)
    move(files.unfinished, files.unsorted)
    return rows


@contextmanager
def _written(file: Path) -> Iterator[_Rows]:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        yield _Rows(writer)


def _to_arrow(planned: Iterable[PlannedSentence]) -> pa.RecordBatch:
    rows = list(planned)
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in SCHEMA]
    return pa.record_batch(columns, schema=SCHEMA)


def _sort_keys(planned: Sequence[PlannedSentence]) -> npt.NDArray[np.int32]:
    """Return the first tokens of each sentence, padded with -1: int32 `[sentences, _SORT_TOKENS]`."""
    keys = np.full((len(planned), _SORT_TOKENS), -1, dtype=np.int32)
    for row, sentence in zip(keys, planned, strict=True):
        head = sentence.token_ids[:_SORT_TOKENS]
        row[: len(head)] = head
    return keys


def _write_sorted(unsorted: Path, file: Path, order: npt.NDArray[np.intp], progress: Progress) -> int:
    """Write the planned sentences in `order`, and return how many prefixes differ from those of the row before."""
    progress.stage("sorting", "sentences")
    prefixes, last = 0, [-1]
    with (
        pa.memory_map(str(unsorted)) as mapped,
        pa.OSFile(str(file), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        reader = pa.ipc.open_file(mapped)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        starts = np.cumsum([0] + [batch.num_rows for batch in batches])
        for at in range(0, len(order), _BATCH):
            rows = order[at : at + _BATCH]
            owners = np.searchsorted(starts, rows, side="right") - 1
            places = zip(owners.tolist(), (rows - starts[owners]).tolist(), strict=True)
            # Row by row: Table.take would copy the text of the whole corpus into memory first.
            part = pa.Table.from_batches([batches[i].slice(row, 1) for i, row in places]).combine_chunks()
            for ids in part["token_ids"].to_pylist():
                prefixes += len(ids) - _shared_length(last, ids)
                last = ids
            writer.write_table(part)
            progress.update(at + len(rows), len(order))
    return prefixes


def _shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the number of leading elements that two sequences share."""
    length = min(len(left), len(right))
    for i in range(length):
        if left[i] != right[i]:
            return i
    return length


def _load_if_readable(directory: Path) -> Plan | None:
    try:
        return load_plan(directory)
    except LatentBankError:
        return None  # written by another version: the corpus is planned again
