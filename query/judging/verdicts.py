"""Verdicts: what was answered to each question, and the Parquet file that holds them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from latentbank.errors import QueryError
from latentbank.files import write_whole
from latentbank.query.judging.questions import Question, Study, Subject
from latentbank.query.judging.votes import Vote

State = Literal["answered", "unreadable", "failed"]
"""Whether an answer came and could be read. Neither `unreadable` nor `failed` counts as a no."""


@dataclass(frozen=True)
class Verdict:
    """One rater's answer to one question.

    Attributes:
        question: the question's id.
        study: "words" or "sentences".
        subject: what the question was about, and whether it was a control.
        candidates: the words that were shown.
        rater: who answered: a person, or the judge's model.
        state: whether an answer came and could be read.
        concrete: words for what is visible in the box.
        abstract: words for a concept, mood or function of it.
        global_: words for what is visible elsewhere in the image.
        reasons: what the rater wrote before; of an unreadable answer, the answer.
        seconds: how long the answer took; 0 if not measured.
        tokens_in: tokens of the question, as the endpoint counts them; 0 for people.
        tokens_out: tokens of the answer.
        cost: price of the answer, in the currency of the prices given; None if there are none.
    """

    question: str
    study: Study
    subject: Subject
    candidates: tuple[str, ...]
    rater: str
    state: State = "answered"
    concrete: tuple[str, ...] = ()
    abstract: tuple[str, ...] = ()
    global_: tuple[str, ...] = ()
    reasons: str = ""
    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None

    @classmethod
    def of(cls, question: Question, rater: str, **answer: Any) -> Verdict:
        """Return a verdict on a question; `answer` are the attributes from `state` on."""
        words = tuple(candidate.word for candidate in question.candidates)
        return cls(question.id, question.study, question.subject, words, rater, **answer)

    @property
    def interpretable(self) -> bool | None:
        """Whether at least one word describes the token; None if there is no readable answer."""
        return None if self.state != "answered" else bool(self.concrete or self.abstract or self.global_)

    def vote(self) -> Vote | None:
        """Return the verdict as a vote; None if there is no readable answer."""
        if self.interpretable is None:
            return None
        kinds = {"concrete": self.concrete, "abstract": self.abstract, "global": self.global_}
        relations = frozenset(kind for kind, words in kinds.items() if words)
        given = tuple(
            "+".join(kind for kind, words in kinds.items() if word in words) for word in self.candidates
        )
        control, words = self.subject.control, self.candidates
        return Vote(
            self.subject.item, self.rater, self.interpretable, relations, self.study, control, words, given
        )


_WORDS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("question", "study", "item", "model", "image", "lens")),
        *((name, pa.int32()) for name in ("layer", "row", "column", "index")),
        *((name, pa.string()) for name in ("control", "rater", "state")),
        ("candidates", _WORDS),
        ("interpretable", pa.bool_()),
        *((name, _WORDS) for name in ("concrete", "abstract", "global")),
        ("reasons", pa.string()),
        ("seconds", pa.float32()),
        *((name, pa.int32()) for name in ("tokens_in", "tokens_out")),
        ("cost", pa.float64()),
    ]
)
"""Columns of a file of verdicts; a row is a verdict. `control` is empty for a token's own words."""


def verdict_bytes(verdicts: Iterable[Verdict]) -> bytes:
    """Return verdicts as a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist([row_of(one) for one in verdicts], SCHEMA), buffer, compression="zstd"
    )
    return bytes(buffer.getvalue().to_pybytes())


def save_verdicts(path: str | os.PathLike[str], verdicts: Iterable[Verdict]) -> Path:
    """Write verdicts to a Parquet file, whole or not at all.

    Raises:
        LatentBankError: the file cannot be written.
    """
    return write_whole(Path(path).expanduser(), verdict_bytes(verdicts))


def read_verdicts(paths: Iterable[str | os.PathLike[str]]) -> list[Verdict]:
    """Read the verdicts of Parquet files.

    Raises:
        QueryError: a file cannot be read, or holds something else.
    """
    found: list[Verdict] = []
    for path in paths:
        try:
            found += [_verdict(row) for row in pq.read_table(path, partitioning=None).to_pylist()]
        except (OSError, KeyError, TypeError, pa.ArrowException):
            raise QueryError(f"{path} holds no verdicts.") from None
    return found


def row_of(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a row with the columns of `SCHEMA`."""
    subject = verdict.subject
    names = ("question", "study", "rater", "state", "interpretable", "reasons", "seconds")
    counted = ("tokens_in", "tokens_out", "cost", "concrete", "abstract", "candidates")
    row = {name: getattr(verdict, name) for name in (*names, *counted)}
    about = ("item", "model", "image", "lens", "layer", "row", "column", "index", "control")
    return row | {name: getattr(subject, name) for name in about} | {"global": verdict.global_}


def _verdict(row: dict[str, Any]) -> Verdict:
    """Return the verdict of a row; the image's path is not kept."""
    about = ("model", "image", "lens", "layer", "row", "column", "index", "control")
    subject = Subject(source="", **{name: row[name] for name in about})
    return Verdict(
        question=row["question"],
        study=cast("Study", row["study"]),
        subject=subject,
        candidates=_words(row["candidates"]),
        rater=row["rater"],
        state=cast("State", row["state"]),
        concrete=_words(row["concrete"]),
        abstract=_words(row["abstract"]),
        global_=_words(row["global"]),
        reasons=row["reasons"] or "",
        seconds=row["seconds"] or 0.0,
        tokens_in=row["tokens_in"] or 0,
        tokens_out=row["tokens_out"] or 0,
        cost=row["cost"],
    )


def _words(words: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(words or ())
