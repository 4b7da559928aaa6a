"""The contracts of corpus formats: files that find their own texts, and files with columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

Texts = Iterator[str | None]
"""Texts in their order; None stands for a missing one."""


class Kind(Enum):
    """What a column holds, as far as is known when it is chosen."""

    TEXT = auto()
    """Strings that can be sentences."""
    EMPTY = auto()
    """No value so far."""
    REFERENCE = auto()
    """Strings that are no sentences: numbers, dates, addresses, ids, paths."""
    NESTED = auto()
    """Lists that hold sentences."""
    OTHER = auto()
    """Neither strings nor lists of them."""


@dataclass(frozen=True)
class Asked:
    """What was asked for of files with columns; None: not asked for, so it is found."""

    column: str | None = None
    """The column that holds the sentences."""
    field: str | None = None
    """The list of records inside a JSON document, such as "annotations" or "images.sentences"."""
    header: bool | None = None
    """Whether the first row of a CSV file names its columns."""


@dataclass(frozen=True)
class LeftOut:
    """A file, or several of a kind, that a corpus's folder or dataset holds and that is not read."""

    file: str
    """Its path inside the folder, or the number of files and what they have in common."""
    reason: str
    """Why it is left out."""


@dataclass(frozen=True)
class Read:
    """What was read of a corpus. It holds no path of this machine: absolute paths are cut to the last part."""

    files: tuple[str, ...] = ()
    """The files, or the datasets that have no files of known kinds, in their order."""
    left_out: tuple[LeftOut, ...] = ()
    """What else is in the folders and datasets, and why it was left out."""
    column: str | None = None
    """The column that holds the sentences; None: no file has columns."""
    field: str | None = None
    """The list of records inside the JSON documents; None: there are none."""
    first: tuple[str, ...] = ()
    """The first three sentences, cut after 200 characters."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Read:
        """Return what `dataclasses.asdict` of another one holds, also after it went through JSON."""
        left = tuple(LeftOut(**entry) for entry in data["left_out"])
        files, first = tuple(data["files"]), tuple(data["first"])
        return cls(files, left, data["column"], data["field"], first)


@dataclass(frozen=True)
class Table:
    """An open file with columns."""

    columns: Mapping[str, Kind]
    """Its columns in their order. Without any, the file holds plain texts, which `texts("")` gives."""
    texts: Callable[[str], Texts]
    """Gives the cells of a column; to be called once. Raises CorpusError for a cell that is no text."""
    field: str | None = None
    """Where in a JSON document the records were."""


@dataclass(frozen=True)
class Format:
    """A kind of file that a corpus can be read from.

    Another package adds one through an entry point of the group `latentbank.sources` that leads to a `Format`, or to a
    `TableFormat` if its files have columns:

        [project.entry-points."latentbank.sources"]
        subtitles = "subtitles.corpus:FORMAT"
    """

    suffixes: tuple[str, ...]
    """Endings of file names, in lower case with the dot: (".csv", ".tsv")."""
    read: Callable[[str, str | None], Texts]
    """Called with a path and the column asked for, if any; yields the texts in order, None for a missing one. Raises
    CorpusError for a file it cannot read. Memory should not grow with the file.
    """
    compressed: bool = False
    """Whether files may also end in .gz or .zst; `open_lines` of `latentbank.ingest.sources.lines` reads those."""
    columns: bool = True
    """Whether a column can be asked for."""


@dataclass(frozen=True)
class TableFormat:
    """A kind of file with columns. The same column is taken from all files of a corpus."""

    suffixes: tuple[str, ...]
    """Endings of file names, in lower case with the dot."""
    open: Callable[[str, Asked], AbstractContextManager[Table]]
    """Called with a path and what was asked for; gives the table. Raises CorpusError for a file it cannot read."""
    compressed: bool = False
    """Whether files may also end in .gz or .zst."""
    columns: bool = True
    """Whether a column can be asked for: always."""
