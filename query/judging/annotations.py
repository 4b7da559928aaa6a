"""Answers of people, kept as JSON lines: each is on the disk before it is acknowledged.

A line is a vote as `read_votes` takes it, with the columns of a file of verdicts, and the kind of each word. A changed
answer is another line, and the last one counts. Several servers may append to one file.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from latentbank.errors import LatentBankError, QueryError
from latentbank.files import make_folder, sync
from latentbank.locks import locked
from latentbank.query.judging.verdicts import Verdict, row_of
from latentbank.query.judging.votes import JUDGE, KINDS, json_lines
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.query.judging.questions import Question

_LONGEST_LINE = 1 << 20
LONGEST_NAME = 60
"""Most letters of an annotator's name."""


class Annotations:
    """A file of answers. Several threads and processes may use it at once.

    Args:
        path: a `.jsonl` file; it is made with the first answer.

    Raises:
        QueryError: the file is none of JSON lines, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() != ".jsonl":
            raise QueryError(f"{path} is no .jsonl file; give answers a file with this ending.")
        self.path = path
        self._lock = threading.Lock()
        self._read = 0  # bytes of the file that are known
        self._answers: dict[str, dict[str, tuple[str, ...]]] = {}
        with self._lock:
            self._catch_up()

    def name_of(self, given: str) -> str:
        """Return an annotator's name as it is kept: as it was first written, whatever its case and spaces now.

        Raises:
            QueryError: it is empty, too long, not printable, or the judge's.
        """
        name = " ".join(given.split())
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise QueryError(f"Give a name of 1 to {LONGEST_NAME} letters.")
        if name.casefold() == JUDGE:
            raise QueryError(f"The name {JUDGE} is the judge's; choose another.")
        with self._lock:
            self._catch_up()
            known = {kept.casefold(): kept for kept in self._answers}
        return known.get(name.casefold(), name)

    def of(self, rater: str) -> Mapping[str, tuple[str, ...]]:
        """Return the kinds of an annotator's last answers by the questions' ids, also from other servers."""
        with self._lock:
            self._catch_up()
            return dict(self._answers.get(rater, {}))

    def save(self, question: Question, rater: str, kinds: Sequence[str]) -> None:
        """Append an answer; when this returns, it is on the disk.

        Args:
            question: the question.
            rater: the annotator's name, from `name_of`.
            kinds: for each candidate one of `KINDS`, or "" if it does not describe the token.

        Raises:
            QueryError: there is no such kind, or there are more or fewer than candidates.
            LatentBankError: the answer cannot be written; the file is as before.
        """
        line = json.dumps(_record(question, rater, kinds)).encode() + b"\n"
        with self._lock:
            try:
                make_folder(self.path.parent)
                with locked(self.path.with_name(f".{self.path.name}.lock"), f"writes to {self.path}"):
                    _append(self.path, line)
            except OSError as error:
                raise LatentBankError(
                    f"The answer could not be saved in {self.path} ({error.strerror or error}); check the disk and "
                    "answer again."
                ) from None
            self._catch_up()

    def _catch_up(self) -> None:
        """Read the lines that were appended since the last look; an unfinished last line is left for later."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:  # somebody has put another file in its place
                    self._read, self._answers = 0, {}
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise QueryError(f"{self.path} cannot be read ({error.strerror or error}).") from None
        whole = new[: new.rfind(b"\n") + 1]
        try:
            text = whole.decode()
        except UnicodeDecodeError as error:
            raise QueryError(f"{self.path} holds no answers as text in UTF-8 ({error}).") from None
        for _, record in json_lines(text, str(self.path)):
            rater, question, kinds = (record.get(name) for name in ("rater", "question", "kinds"))
            # Votes of other programs are no answers that one could go on with.
            if isinstance(rater, str) and isinstance(question, str) and isinstance(kinds, list):
                self._answers.setdefault(rater, {})[question] = tuple(map(str, kinds))
        self._read += len(whole)


def _record(question: Question, rater: str, kinds: Sequence[str]) -> dict[str, Any]:
    """Return an answer as a row of a file of verdicts, with what a vote needs besides."""
    if unknown := sorted(set(kinds) - {"", *KINDS}):
        raise QueryError(f"The kind {listed(unknown)} is not one of {listed(KINDS)}.")
    candidates = question.candidates
    if len(kinds) != len(candidates):
        raise QueryError(f"There are {len(kinds)} kinds for {len(candidates)} words; give one for each.")
    concrete, abstract, elsewhere = (
        tuple(one.word for one, given in zip(candidates, kinds, strict=True) if given == kind)
        for kind in KINDS
    )
    verdict = Verdict.of(question, rater, concrete=concrete, abstract=abstract, global_=elsewhere)
    answered = ("reasons", "seconds", "tokens_in", "tokens_out", "cost")  # of a judge
    return {
        **{name: value for name, value in row_of(verdict).items() if name not in answered},
        "relations": [kind for kind in KINDS if kind in kinds],
        "kinds": list(kinds),
        "shown": [candidate.marked() for candidate in candidates],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _append(path: Path, line: bytes) -> None:
    """Append a line and sync it; after a failure the file is as long as before.

    Raises:
        OSError: the file cannot be written.
    """
    new = not path.exists()
    with path.open("a+b", buffering=0) as file:
        end = _mend(file)
        try:
            if file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise
    if new:
        sync(path.parent)


def _mend(file: IO[bytes]) -> int:
    """End the file with a whole line, and return its length.

    A last line without its end is either somebody's own, or what a kill in the middle of writing left: then it was
    never acknowledged, and is removed.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _LONGEST_LINE))
    tail = file.read(_LONGEST_LINE)
    rest = tail[tail.rfind(b"\n") + 1 :]
    if not rest:
        return end
    try:
        whole = isinstance(json.loads(rest), dict)
    except ValueError:
        whole = False
    if whole:
        file.write(b"\n")
        return end + 1
    file.truncate(end - len(rest))
    return end - len(rest)
