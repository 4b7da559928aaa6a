"""Votes: whether a token's words or sentences describe it, by people and by a judge.

An item is one token of one image, read with one model: its name is `MODEL/IMAGE/PATCH`.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentbank.errors import QueryError
from latentbank.text import listed

log = logging.getLogger("latentbank")

KINDS = ("concrete", "abstract", "global")
"""How a word can describe a token: visible in its box; a concept, mood or function; visible elsewhere in the image."""

JUDGE = "judge"
"""The rater's name in a judge's votes."""

_NEEDED = ("item", "rater", "interpretable")


@dataclass(frozen=True)
class Vote:
    """One rater's vote on one item.

    Attributes:
        item: the token: `MODEL/IMAGE/PATCH`.
        rater: who voted; "judge" is the judge.
        interpretable: whether at least one of the words describes the token.
        relations: how they describe it, of `KINDS`; empty if none does.
        study: what was shown, such as "words" or "sentences"; empty if the file does not say.
        control: what the words are, if they are not the token's own, such as "other image".
        words: the words that were judged; empty if the file does not say.
        kinds: of each word the kinds it was given, joined by `+`; empty if the file does not say.
        shown: of each word what was shown, which may be a sentence; empty if the file does not say.
    """

    item: str
    rater: str
    interpretable: bool
    relations: frozenset[str] = frozenset()
    study: str = ""
    control: str = ""
    words: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The first part of the item's name."""
        return self.item.partition("/")[0]

    @property
    def image(self) -> str:
        """The second part of the item's name; the whole name if it has no parts."""
        parts = self.item.split("/")
        return parts[1] if len(parts) > 1 else self.item


def read_votes(paths: Iterable[Path]) -> list[Vote]:
    """Read votes from CSV files (`.csv`) or JSON lines (`.jsonl`) with `item`, `rater` and `interpretable`.

    `relations` (kinds joined by `+`, in JSON also a list) and `study` may be left out. If a rater votes on an item more
    than once, the last vote counts, so that a file can be appended to. `read_ballots` reads a judge's verdicts, too.

    Raises:
        QueryError: a file cannot be read, or a vote is incomplete; the message names file and line.
    """
    votes: dict[tuple[str, str, str], Vote] = {}
    for path in paths:
        for line, row in _rows(path):
            vote = _vote(row, f"{path}, line {line}")
            votes[vote.study, vote.item, vote.rater] = vote
    if not votes:
        raise QueryError("There are no votes in these files.")
    return list(votes.values())


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Iterate over the rows of a file, with their line numbers."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise QueryError(f"{path} is neither a .csv, .jsonl nor .parquet file, so its votes cannot be read.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, row
            else:
                yield from json_lines(file.read(), str(path))
    except OSError as error:
        raise QueryError(f"{path} cannot be read ({error.strerror or error}).") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise QueryError(f"{path} holds no votes as text in UTF-8 ({error}).") from None


def json_lines(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Iterate over the objects of JSON lines, with the numbers of their lines; empty lines are skipped.

    A last line that breaks off is left out with a warning: a program was stopped while it wrote it.

    Args:
        text: the lines.
        name: of the file, for messages.

    Raises:
        QueryError: a line is not a JSON object; the message names file and line.
    """
    *lines, rest = text.split("\n")  # not splitlines, which also splits inside of JSON's strings
    for number, line in enumerate([*lines, rest], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
            if number > len(lines):
                log.warning("%s breaks off in line %d; this line is left out.", name, number)
                return
        if not isinstance(record, dict):
            raise QueryError(f"{name}, line {number}: this is not a JSON object.")
        yield number, record


def _vote(row: Mapping[str, Any], where: str) -> Vote:
    if missing := [name for name in _NEEDED if row.get(name) in (None, "")]:
        raise QueryError(f"{where}: {listed(missing)} is missing; a vote needs {listed(_NEEDED)}.")
    relations = row.get("relations") or ()
    kinds = relations.split("+") if isinstance(relations, str) else list(relations)
    if unknown := sorted({str(kind) for kind in kinds} - set(KINDS)):
        raise QueryError(f"{where}: the relation {listed(unknown)} is not one of {listed(KINDS)}.")
    return Vote(
        item=str(row["item"]),
        rater=str(row["rater"]),
        interpretable=_yes(row["interpretable"], where),
        relations=frozenset(kinds),
        study=str(row.get("study") or ""),
        control=str(row.get("control") or ""),
        words=_texts(row.get("candidates")),
        kinds=_texts(row.get("kinds")),
        shown=_texts(row.get("shown")),
    )


def _texts(given: object) -> tuple[str, ...]:
    """Return the texts of a list; none for anything else, as in CSV files."""
    return tuple(map(str, given)) if isinstance(given, list) else ()


def _yes(value: object, where: str) -> bool:
    text = str(value).strip().lower()
    if text not in ("0", "1", "true", "false"):
        raise QueryError(f"{where}: interpretable is '{text}'; it can be 1, 0, true or false.")
    return text in ("1", "true")
