"""A plan's folder while plans are made, read and removed, by several jobs at once.

One job at a time makes a plan in a folder, under a lock. It writes the sentences to a file of a new name; the plan is
there, whole, when its description takes the place of the earlier one. Jobs that read the earlier plan keep its file,
which the next planning after them removes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from latentbank.errors import LatentBankError
from latentbank.files import make_folder
from latentbank.ingest.plan import DESCRIPTION, SENTENCES
from latentbank.locks import Locked, is_free, locked

LOCK = ".lock"
"""Name of the lock in a plan's folder while a plan is made there."""
_NAMES = re.compile(r"\.?(sentences|unsorted)-[0-9a-f]{8}\.arrow|\.plan\.json\.[0-9]+-[0-9a-f]{8}")


@dataclass(frozen=True)
class NewPlan:
    """The files of a plan that is being made.

    Attributes:
        unsorted: the planned sentences in the corpus's order; removed in the end.
        unfinished: where the sentences are written.
        sentences: the name that they get when they are complete.
    """

    unsorted: Path
    unfinished: Path
    sentences: Path


@contextmanager
def planning(directory: Path) -> Iterator[None]:
    """Let no other job make a plan in a folder during the block; wait for one that does.

    Raises:
        LatentBankError: the folder cannot be written.
    """
    try:
        make_folder(directory)
        with locked(directory / LOCK, f"makes a plan in {directory}") as held:
            earlier = _named(directory)
            yield
            if held:
                _clean(directory, earlier)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise LatentBankError(
            f"The plan cannot be written to {directory} ({reason}); make room there or choose another folder."
        ) from None


@contextmanager
def new_plan(directory: Path) -> Iterator[NewPlan]:
    """Provide names for the files of a new plan; what is not finished is removed. Only within `planning`."""
    mark = secrets.token_hex(4)
    unsorted, unfinished = (directory / f".{what}-{mark}.arrow" for what in ("unsorted", "sentences"))
    try:
        yield NewPlan(unsorted, unfinished, directory / f"sentences-{mark}.arrow")
    finally:
        for left in (unsorted, unfinished):
            left.unlink(missing_ok=True)


def remove_plans(folder: Path) -> None:
    """Remove a folder with plans as far as possible: a plan that is being made stays, and sentences that are read."""
    for directory in [Path(path) for path, _, files in os.walk(folder) if files]:
        with suppress(OSError, Locked), locked(directory / LOCK, "makes a plan there", wait=False) as held:
            earlier = _named(directory)
            (directory / DESCRIPTION).unlink(missing_ok=True)
            if held:
                _clean(directory, earlier)
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(path)


def _named(directory: Path) -> str | None:
    """Return the name of the file that a folder's description names; None: there is no description."""
    try:
        data = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(data.get("file", SENTENCES)) if isinstance(data, dict) else None


def _clean(directory: Path, earlier: str | None) -> None:
    """Remove what killed jobs left, and sentences that no plan names and no job reads.

    Args:
        directory: the plan's folder.
        earlier: name of the file of an earlier plan, which an earlier version may have written.
    """
    current = _named(directory)
    for path in directory.iterdir():
        ours = path.name == earlier or _NAMES.fullmatch(path.name)
        if ours and path.name != current and is_free(path):
            path.unlink(missing_ok=True)
