"""The plan: the exact list of contexts an ingestion will store, made from the tokenizer alone.

A plan is a folder: `plan.json` describes what was planned and names the file that holds the planned sentences, in the
order in which they will be encoded (sorted by their tokens, so that shared prefixes are neighbors). Each planning
writes a file of its own, which is never written to again and stays while a job reads it (see `plan_files`).
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from latentbank.errors import LatentBankError
from latentbank.files import write_whole
from latentbank.identity import Digests, Identity, difference
from latentbank.ingest.sources.base import Read
from latentbank.locks import hold_shared
from latentbank.values import whole

PLAN_VERSION = 2
"""Version of the folder's layout; a plan of another version is made again."""
DESCRIPTION, SENTENCES = "plan.json", "sentences.arrow"
"""Names of the folder's files: the description, which is written last, and the sentences of earlier versions."""
SCHEMA = pa.schema(
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
"""Columns of the sentences file: the fields of `PlannedSentence`."""


# The smallest values of the numbers, and the settings that earlier versions lack.
_LEAST = {
    "skip": 0,
    "contexts_per_token": 1,
    "max_tokens": 1,
    "seed": 0,
    "first_position": 0,
    "split_position": 0,
}
_LATER = ("sampling", "seed", "first_position", "split_position")


@dataclass(frozen=True)
class PlanSettings:
    """How contexts are chosen.

    Args:
        bos: "tokenizer" adds special tokens as the tokenizer does by itself, "always" puts the model's
            BOS before every sentence, where there is one.
        skip: how many leading real tokens of a sentence are left out; the first has no context.
        contexts_per_token: at most so many contexts of one token; which ones, `sampling` says.
        max_tokens: longer sentences are cut (and counted); the model's own limit if that is less.
        sampling: "first" takes the first contexts of each token id in corpus order. "reservoir" takes a random sample
            of all distinct contexts of each decoded token: token ids that decode to the same text count as one.
        seed: of the sample.
        first_position: tokens at earlier positions are left out; positions count from 0, special tokens included.
        split_position: for a sample: tokens from this position on have `contexts_per_token` places of their own, and
            those before it as many; 0: all share the same places.

    Raises:
        LatentBankError: a value is not allowed.
    """

    bos: Literal["tokenizer", "always"] = "tokenizer"
    skip: int = 1
    contexts_per_token: int = 50
    max_tokens: int = 512
    sampling: Literal["first", "reservoir"] = "first"
    seed: int = 0
    first_position: int = 0
    split_position: int = 0

    def __post_init__(self) -> None:
        if self.bos not in ("tokenizer", "always"):
            raise LatentBankError(f"bos is '{self.bos}'; it can be tokenizer or always.", argument="bos")
        if self.sampling not in ("first", "reservoir"):
            raise LatentBankError(
                f"sampling is '{self.sampling}'; it can be first or reservoir.", argument="sampling"
            )
        for name, least in _LEAST.items():
            number = whole(getattr(self, name), name, least, error=LatentBankError)
            object.__setattr__(self, name, number)  # plain, because the ledger keeps it as JSON
        useless = [name for name in ("seed", "split_position") if getattr(self, name)]
        if self.sampling == "first" and useless:
            raise LatentBankError(
                f"{useless[0]} is for a random sample of the contexts; set sampling to reservoir, or leave "
                f"{useless[0]} out.",
                argument="sampling",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as the ledger keeps them: those that earlier versions lack only where they are used."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER or value != PlanSettings.__dataclass_fields__[name].default
        }


@dataclass(frozen=True)
class PlannedSentence:
    """A sentence up to its last planned token.

    Attributes:
        sentence: its index in the corpus, from 0.
        caption: its text.
        token_ids: the prefix that the LLM has to run on.
        positions: indices of the planned tokens in `token_ids`.
        starts: first characters of the planned tokens' spans in the caption.
        ends: ends of these spans, exclusive.
        words: the words that the planned tokens belong to.
    """

    sentence: int
    caption: str
    token_ids: list[int]
    positions: list[int]
    starts: list[int]
    ends: list[int]
    words: list[str]

    def only(self, kept: Sequence[int]) -> PlannedSentence:
        """Return the sentence with some of its planned tokens, cut after the last of them.

        Args:
            kept: indices into `positions`, ascending, at least one.
        """
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
    """What was planned.

    Attributes:
        directory: the plan's folder.
        corpus: name of the corpus.
        content_hash: hash of the sentences in their order.
        settings: how contexts were chosen.
        model: name of the LLM.
        revision: the LLM's revision, where known.
        fingerprint: the LLM's fingerprint.
        sentences: sentences of the corpus.
        blank: empty records of the corpus.
        truncated: sentences that were cut.
        tokens: tokens that are not special, after the cuts.
        contexts: contexts that will be stored in each layer.
        prefixes: tokens that the LLM has to run on at least. Prefixes that neighbors in encoding order share count
            once, so it is the number of distinct prefixes, except for a few longer than the sort compares.
        planned_sentences: sentences with at least one context.
        caption_bytes: sum over contexts of their caption's length in UTF-8, to estimate the size on disk.
        source: the files and the column that were read, and the first sentences.
        digests: the LLM's digests; None in a plan that an earlier version wrote.
        file: name of the file with the sentences. While the plan is in use, other jobs do not remove it.
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
    source: Read
    digests: Digests | None = None
    file: str = SENTENCES

    def __post_init__(self) -> None:
        held = hold_shared(self.directory / self.file)
        if held is not None:
            weakref.finalize(self, held.close)

    @property
    def identity(self) -> Identity:
        """What tells the LLM from others."""
        return Identity(self.fingerprint, self.digests)

    def read(self, first: int = 0, stop: int | None = None) -> Iterator[PlannedSentence]:
        """Yield the planned sentences in encoding order, streamed from disk; those from `first` to before `stop`."""
        for batch in self._batches(first, stop):
            for row in batch.to_pylist():
                yield PlannedSentence(**row)

    def count_contexts(self, first: int = 0, stop: int | None = None) -> int:
        """Return the number of contexts of the planned sentences from `first` to before `stop`."""
        return sum(len(batch["positions"].flatten()) for batch in self._batches(first, stop))

    def sample(self, count: int) -> Iterator[PlannedSentence]:
        """Yield `count` planned sentences (all, if there are fewer), evenly spread and the same in each call."""
        count = min(count, self.planned_sentences)
        numbers = [i * self.planned_sentences // count for i in range(count)]
        with self._opened() as reader:
            first = 0
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                rows = [number - first for number in numbers if first <= number < first + batch.num_rows]
                for row in batch.take(pa.array(rows, pa.int64())).to_pylist():
                    yield PlannedSentence(**row)
                first += batch.num_rows

    def _batches(self, first: int, stop: int | None) -> Iterator[pa.RecordBatch]:
        stop = self.planned_sentences if stop is None else stop
        with self._opened() as reader:
            begin = 0
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                end = begin + batch.num_rows
                if first < end and begin < stop:
                    skip = max(first - begin, 0)
                    yield batch.slice(skip, min(stop, end) - begin - skip)
                begin = end

    @contextmanager
    def _opened(self) -> Iterator[pa.RecordBatchFileReader]:
        try:
            source = pa.memory_map(str(self.directory / self.file))
        except OSError as error:
            raise LatentBankError(
                f"The plan in {self.directory} cannot be read any more ({error.strerror or error}): it was replaced or "
                "removed; run the job again."
            ) from None
        with source:
            yield pa.ipc.open_file(source)


def load_plan(directory: Path) -> Plan | None:
    """Load a plan from its folder; None if the folder holds none, or one that was not finished.

    Raises:
        LatentBankError: it was written by another version, or is damaged.
    """
    try:
        text = (directory / DESCRIPTION).read_bytes()
        try:
            return _parse(directory, text)
        except FileNotFoundError:
            if text == (directory / DESCRIPTION).read_bytes():
                return None  # its sentences are missing
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, LatentBankError):
        raise LatentBankError(
            f"{directory} holds no plan that this latentbank can read; plan the corpus again."
        ) from None
    return load_plan(directory)  # another job has just replaced it


def _parse(directory: Path, text: bytes) -> Plan:
    """Return the plan that a description describes, whose sentences can be read."""
    data = json.loads(text.decode())
    if data.pop("version") != PLAN_VERSION:
        raise ValueError("another version")
    data["settings"] = PlanSettings(**data["settings"])
    data["source"] = Read.of(data["source"])
    if data.get("digests") is not None:
        data["digests"] = Digests.from_dict(data["digests"])
    plan = Plan(directory=directory, **data)
    if Path(plan.file).name != plan.file:
        raise ValueError("the sentences are elsewhere")
    with pa.memory_map(str(directory / plan.file)) as source:
        pa.ipc.open_file(source)  # a damaged file fails here
    return plan


def save_description(plan: Plan) -> None:
    """Write the description of a plan whose sentences are written, which completes it.

    Raises:
        LatentBankError: the folder cannot be written.
    """
    digests = plan.digests.to_dict() if plan.digests else None
    data = asdict(replace(plan, digests=None)) | {"digests": digests, "version": PLAN_VERSION}
    del data["directory"]
    write_whole(plan.directory / DESCRIPTION, json.dumps(data, indent=1).encode())


def same_request(plan: Plan, corpus: str, settings: PlanSettings, model: Identity) -> bool:
    """Return whether a plan answers a request for this corpus name, these settings and this model."""
    same = difference(plan.identity, model) is None
    return same and (plan.corpus, plan.settings) == (corpus, settings)
