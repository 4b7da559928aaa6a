"""The plan: the exact list of contexts an ingestion will store, made from the tokenizer alone.

A plan is a folder: `plan.json` says what was planned, `sentences.arrow` holds the planned sentences in
the order in which they will be encoded (sorted by their tokens, so that shared prefixes are neighbors).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from latentbank.bank.points import prefix_ids
from latentbank.bank.words import Words, tight
from latentbank.errors import CorpusError, LatentBankError, ModelError
from latentbank.ingest.corpus import Corpus, Counts, read_sentences
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent

PLAN_VERSION = 1
_DESCRIPTION, _SENTENCES = "plan.json", "sentences.arrow"
_BATCH = 1024
# Sentences are sorted by their first tokens only: longer shared prefixes are too rare to pay for.
_SORT_TOKENS = 12

_SCHEMA = pa.schema(
    [
        ("sentence", pa.int64()),
        ("caption", pa.large_string()),
        ("token_ids", pa.large_list(pa.int32())),
        ("positions", pa.large_list(pa.int32())),
        ("starts", pa.large_list(pa.int32())),
        ("ends", pa.large_list(pa.int32())),
        ("words", pa.large_list(pa.large_string())),
    ]
)


@dataclass(frozen=True)
class PlanSettings:
    """How contexts are chosen.

    Args:
        bos: "tokenizer" adds special tokens as the tokenizer does by itself, "always" puts the model's
            BOS before every sentence, where there is one.
        skip: how many leading real tokens of a sentence are left out; the first has no context.
        contexts_per_token: at most so many contexts of one token id, taken in corpus order.
        max_tokens: longer sentences are cut (and counted); the model's own limit if that is less.
    """

    bos: Literal["tokenizer", "always"] = "tokenizer"
    skip: int = 1
    contexts_per_token: int = 50
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.bos not in ("tokenizer", "always"):
            raise LatentBankError(f"bos is '{self.bos}'; it can be tokenizer or always.")
        for name, least in (("skip", 0), ("contexts_per_token", 1), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise LatentBankError(f"{name} is {getattr(self, name)}; it must be {least} or more.")


@dataclass(frozen=True)
class PlannedSentence:
    """A sentence as far as its last planned token.

    `token_ids` are the prefix the LLM has to see; `positions` index the planned tokens in it; `starts`,
    `ends` are their spans in the caption and `words` the words they belong to.
    """

    sentence: int
    caption: str
    token_ids: list[int]
    positions: list[int]
    starts: list[int]
    ends: list[int]
    words: list[str]

    def only(self, kept: Sequence[int]) -> PlannedSentence:
        """Keep the planned tokens with these indices (ascending, at least one), cut after the last."""
        positions = [self.positions[i] for i in kept]
        return PlannedSentence(
            self.sentence,
            self.caption,
            self.token_ids[: positions[-1] + 1],
            positions,
            [self.starts[i] for i in kept],
            [self.ends[i] for i in kept],
            [self.words[i] for i in kept],
        )


@dataclass(frozen=True)
class Plan:
    """What was planned; `directory` is where it lies.

    `sentences` counts the corpus, `blank` its empty records; `tokens` the tokens that are not special,
    after `truncated` sentences were cut; `planned_sentences` those with a context. `prefixes` is how many
    tokens the LLM has to run on at least: prefixes that neighbors in encoding order share count once, so
    it is the number of distinct prefixes but for a few longer than the sort looks. `caption_bytes` is the
    sum over contexts of their caption's length in UTF-8, for the size on disk.
    """

    directory: Path
    corpus: str
    content_hash: str
    settings: PlanSettings
    model: str
    revision: str | None
    fingerprint: str
    sentences: int
    blank: int
    truncated: int
    tokens: int
    contexts: int
    prefixes: int
    planned_sentences: int
    caption_bytes: int

    def read(self, first: int = 0, stop: int | None = None) -> Iterator[PlannedSentence]:
        """Give the planned sentences in encoding order, streamed from disk; those from `first` to before `stop`."""
        for batch in self._batches(first, stop):
            for row in batch.to_pylist():
                yield PlannedSentence(**row)

    def count_contexts(self, first: int = 0, stop: int | None = None) -> int:
        """Count the contexts of the planned sentences from `first` to before `stop`."""
        return sum(len(batch["positions"].flatten()) for batch in self._batches(first, stop))

    def _batches(self, first: int, stop: int | None) -> Iterator[pa.RecordBatch]:
        stop = self.planned_sentences if stop is None else stop
        with pa.memory_map(str(self.directory / _SENTENCES)) as source:
            reader = pa.ipc.open_file(source)
            begin = 0
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                end = begin + batch.num_rows
                if first < end and begin < stop:
                    skip = max(first - begin, 0)
                    yield batch.slice(skip, min(stop, end) - begin - skip)
                begin = end

    def sample(self, count: int) -> Iterator[PlannedSentence]:
        """Give `count` planned sentences (all, if there are no more), evenly spread: each time the same ones."""
        count = min(count, self.planned_sentences)
        wanted = [i * self.planned_sentences // count for i in range(count)]
        with pa.memory_map(str(self.directory / _SENTENCES)) as source:
            reader = pa.ipc.open_file(source)
            first = 0
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                rows = [place - first for place in wanted if first <= place < first + batch.num_rows]
                for row in batch.take(pa.array(rows, pa.int64())).to_pylist():
                    yield PlannedSentence(**row)
                first += batch.num_rows


def make_plan(
    corpus: Corpus,
    model: LanguageModel,
    directory: Path,
    settings: PlanSettings | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan a corpus's contexts and write the plan to `directory`, replacing an earlier one.

    Memory grows with the contexts (about 100 bytes each) and the planned sentences (about 120 bytes
    each while they are sorted), never with their text.

    Raises:
        CorpusError: the corpus cannot be read, or gives no context at all.
        LatentBankError: the directory cannot be written, or its disk is full.
        ModelError: the tokenizer cannot tell where its tokens stand in the sentence.
    """
    settings = settings or PlanSettings()
    progress = progress or Silent()
    _prepare(directory)
    unsorted = directory / "unsorted.arrow"
    chooser = _Chooser(corpus.name, model, settings)
    counts, digest = Counts(), hashlib.blake2b(digest_size=16)
    sentences = read_sentences(corpus, counts)
    keys: list[npt.NDArray[np.int32]] = []
    try:
        with pa.OSFile(str(unsorted), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            while batch := list(islice(sentences, _BATCH)):
                for sentence in batch:
                    hash_sentence(digest, sentence)
                planned = list(chooser.choose(batch))
                if planned:
                    keys.append(_sort_keys(planned))
                    writer.write_batch(_to_arrow(planned))
                progress.update(counts.sentences)
        if not chooser.contexts:
            raise CorpusError(
                f"Corpus '{corpus.name}' gives no context: its sentences have no token after the first one(s)."
            )
        order = np.lexsort(np.concatenate(keys).T[::-1])
        plan = Plan(
            directory=directory,
            corpus=corpus.name,
            content_hash=digest.hexdigest(),
            settings=settings,
            model=model.name,
            revision=model.revision,
            fingerprint=model.fingerprint(),
            sentences=counts.sentences,
            blank=counts.blank,
            truncated=chooser.truncated,
            tokens=chooser.tokens,
            contexts=chooser.contexts,
            prefixes=_write_sorted(unsorted, directory, order, progress),
            planned_sentences=len(order),
            caption_bytes=chooser.caption_bytes,
        )
        data = asdict(plan) | {"version": PLAN_VERSION}
        del data["directory"]
        fresh = directory / f"{_DESCRIPTION}.new"
        fresh.write_text(json.dumps(data, indent=1), encoding="utf-8")
        fresh.replace(directory / _DESCRIPTION)
    except OSError as error:
        raise _unusable(directory, error) from None
    finally:
        for left in (unsorted, directory / f"{_SENTENCES}.new", directory / f"{_DESCRIPTION}.new"):
            left.unlink(missing_ok=True)
    return plan


def load_plan(directory: Path) -> Plan | None:
    """Read a plan's description; None where there is none (or one that was not finished).

    Raises:
        LatentBankError: it was written by another version, or is damaged.
    """
    try:
        data = json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))
        if data.pop("version") != PLAN_VERSION:
            raise ValueError("another version")
        data["settings"] = PlanSettings(**data["settings"])
        plan = Plan(directory=directory, **data)
        with pa.memory_map(str(directory / _SENTENCES)) as source:
            pa.ipc.open_file(source)  # a damaged file fails here
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, LatentBankError):
        raise LatentBankError(
            f"{directory} holds no plan that this latentbank can read; plan the corpus again."
        ) from None
    return plan


def content_hash(corpus: Corpus, progress: Progress | None = None) -> str:
    """Hash a corpus's sentences in their order, to tell whether it changed.

    Raises:
        CorpusError: it cannot be read.
    """
    counts, digest = Counts(), hashlib.blake2b(digest_size=16)
    for sentence in read_sentences(corpus, counts):
        hash_sentence(digest, sentence)
        if progress and counts.sentences % 10_000 == 0:
            progress.update(counts.sentences)
    return digest.hexdigest()


def hash_sentence(digest: Any, sentence: str) -> None:
    """Add one sentence to a content hash, its length first so that no two corpora can run together."""
    raw = sentence.encode()
    digest.update(struct.pack("<I", len(raw)) + raw)


class _Chooser:
    """Applies the rules of "What becomes a context" to sentences in corpus order."""

    def __init__(self, corpus: str, model: LanguageModel, settings: PlanSettings) -> None:
        self.corpus, self.settings = corpus, settings
        self.tokenizer: Any = model.tokenizer
        self.special = set(self.tokenizer.all_special_ids)
        bos = model.bos_token_id if settings.bos == "always" else None
        self.forced = [] if bos is None else [bos]
        self.limit = min(settings.max_tokens, model.max_length)
        self.stored: set[bytes] = set()
        self.per_token = np.zeros(max(model.vocab_size, len(self.tokenizer)), dtype=np.int64)
        self.tokens = self.contexts = self.truncated = self.next = self.caption_bytes = 0

    def choose(self, sentences: Sequence[str]) -> Iterator[PlannedSentence]:
        # A special token's name inside a sentence is text: split_special_tokens keeps it from becoming one.
        encoded = self.tokenizer(
            list(sentences),
            add_special_tokens=not self.forced,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows = zip(
            sentences,
            encoded["input_ids"],
            encoded["special_tokens_mask"],
            encoded["offset_mapping"],
            strict=True,
        )
        for caption, ids, special, offsets in rows:
            planned = self._one(self.next, caption, ids, special, offsets)
            self.next += 1
            if planned is not None:
                yield planned

    def _one(
        self,
        sentence: int,
        caption: str,
        ids: list[int],
        special: list[int],
        offsets: list[tuple[int, int]],
    ) -> PlannedSentence | None:
        if self.forced:
            ids, special, offsets = (
                self.forced + ids,
                [1] * len(self.forced) + special,
                [(0, 0)] * len(self.forced) + offsets,
            )
        # An unknown character becomes a special token (<unk>) without being marked as one.
        real = [i for i, id_ in enumerate(ids) if not special[i] and id_ not in self.special]
        if real and real[-1] >= self.limit:
            self.truncated += 1
            real = [i for i in real if i < self.limit]
        self.tokens += len(real)
        cap = self.settings.contexts_per_token
        open_ = [i for i in real[self.settings.skip :] if self.per_token[ids[i]] < cap]
        if not open_:
            return None
        wanted, chosen = set(open_), []
        for i, key in enumerate(prefix_ids(self.corpus, ids[: open_[-1] + 1])):
            # Counted again: the sentence itself may have used up a token's last place.
            if i in wanted and key not in self.stored and self.per_token[ids[i]] < cap:
                self.stored.add(key)
                self.per_token[ids[i]] += 1
                chosen.append(i)
        if not chosen:
            return None
        self.contexts += len(chosen)
        self.caption_bytes += len(chosen) * len(caption.encode())
        words = Words(caption)
        spans = [tight(caption, *offsets[i]) for i in chosen]
        if not all(0 <= start <= end <= len(caption) for start, end in spans):
            raise ModelError("The tokenizer gives spans outside the sentence; it cannot be used for a bank.")
        return PlannedSentence(
            sentence,
            caption,
            ids[: chosen[-1] + 1],
            chosen,
            [start for start, _ in spans],
            [end for _, end in spans],
            [words.at(start, end) for start, end in spans],
        )


def _to_arrow(planned: Iterable[PlannedSentence]) -> pa.RecordBatch:
    rows = list(planned)
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in _SCHEMA]
    return pa.record_batch(columns, schema=_SCHEMA)


def _sort_keys(planned: Sequence[PlannedSentence]) -> npt.NDArray[np.int32]:
    keys = np.full((len(planned), _SORT_TOKENS), -1, dtype=np.int32)
    for row, one in zip(keys, planned, strict=True):
        head = one.token_ids[:_SORT_TOKENS]
        row[: len(head)] = head
    return keys


def _write_sorted(unsorted: Path, directory: Path, order: npt.NDArray[np.intp], progress: Progress) -> int:
    """Rewrite the planned sentences in `order`; gives the number of prefixes that no neighbors share."""
    progress.stage("sorting", "sentences")
    prefixes, last = 0, [-1]
    fresh = directory / f"{_SENTENCES}.new"
    with (
        pa.memory_map(str(unsorted)) as mapped,
        pa.OSFile(str(fresh), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
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
                prefixes += len(ids) - shared_length(last, ids)
                last = ids
            writer.write_table(part)
            progress.update(at + len(rows), len(order))
    fresh.replace(directory / _SENTENCES)
    return prefixes


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the leading elements that two sequences share."""
    length = min(len(one), len(other))
    for i in range(length):
        if one[i] != other[i]:
            return i
    return length


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # First, so that a plan that is being replaced never passes for a finished one.
        (directory / _DESCRIPTION).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from None


def _unusable(directory: Path, error: OSError) -> LatentBankError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return LatentBankError(
        f"The plan cannot be written to {directory} ({reason}); make room there or name another folder."
    )


def same_request(plan: Plan, corpus: str, settings: PlanSettings, fingerprint: str) -> bool:
    """Tell whether a plan answers a request for this corpus name, these settings and this model."""
    own = (plan.corpus, plan.settings, plan.fingerprint)
    return own == (corpus, settings, fingerprint)
