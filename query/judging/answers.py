"""Answers of a judge on disk, found by what was asked.

Each answer is a line of JSON, written as soon as it arrives: a process that is killed loses none that it had taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentbank.errors import LatentBankError
from latentbank.files import make_folder, sync
from latentbank.locks import locked


@dataclass(frozen=True)
class Answer:
    """What a judge wrote.

    Attributes:
        text: its text.
        tokens_in: tokens of the question, as the endpoint counts them; 0 if it does not.
        tokens_out: tokens of the answer.
        seconds: how long it took.
    """

    text: str
    tokens_in: int
    tokens_out: int
    seconds: float


def key_of(asked: Mapping[str, Any]) -> str:
    """Return the key of an answer: a digest of all that was asked, pictures included."""
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


class AnswerFile:
    """The answers of one judge; see `open_answers`.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, or create it. A last line that a kill has cut off is removed.

        Raises:
            LatentBankError: the file cannot be read or written, or holds something else.
        """
        self.path = path
        self._answers: dict[str, Answer] = {}
        try:
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                sync(path.parent)
            self._read()
        except OSError as error:
            raise self._unwritable(error) from None

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    key = record.pop("key")
                    self._answers[key] = Answer(**record)
                except (ValueError, TypeError, KeyError, AttributeError):
                    if not line.endswith(b"\n"):
                        break
                    raise LatentBankError(
                        f"{self.path} holds something else than answers; choose another folder for answers.",
                        argument="answers",
                    ) from None
                whole += len(line)
                if not line.endswith(b"\n"):
                    os.write(self._file, b"\n")
                    return
        os.truncate(self.path, whole)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """Return the answer to what was asked; None if there is none yet."""
        return self._answers.get(key)

    def all(self) -> list[Answer]:
        """Return all answers."""
        return list(self._answers.values())

    def put(self, key: str, answer: Answer) -> None:
        """Write an answer. When this returns, the end of this process does not lose it; `sync` is for power losses.

        Raises:
            LatentBankError: it cannot be written.
        """
        line = json.dumps({"key": key, **asdict(answer)}).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, end)
            raise self._unwritable(error) from None
        self._answers[key] = answer

    def sync(self) -> None:
        """Write all answers to the disk itself."""
        with suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        os.close(self._file)

    def _unwritable(self, error: OSError) -> LatentBankError:
        return LatentBankError(
            f"Answers cannot be kept in {self.path} ({error.strerror or error}); check the folder and the disk.",
            argument="answers",
        )


@contextmanager
def open_answers(folder: Path, base_url: str, model: str) -> Iterator[AnswerFile]:
    """Open the answers of a judge in a folder, for one run at a time, so that nothing is paid for twice.

    Args:
        folder: the folder; it is made if it is missing.
        base_url: the endpoint.
        model: the judge's model.

    Raises:
        Locked: another run asks this judge.
        LatentBankError: the file cannot be read or written.
    """
    digest = hashlib.blake2b(f"{base_url}\n{model}".encode(), digest_size=6).hexdigest()
    name = re.sub(r"[^\w.-]+", "-", model).strip("-.")[:60]
    path = folder / f"{name or 'judge'}-{digest}.jsonl"
    try:
        make_folder(folder)
        lock = locked(path.with_suffix(".lock"), f"asks the judge {model}", wait=False)
        with lock:
            answers = AnswerFile(path)
            try:
                yield answers
            finally:
                answers.close()
    except OSError as error:
        raise LatentBankError(
            f"The folder {folder} cannot be written ({error.strerror or error}); choose another.",
            argument="answers",
        ) from None
