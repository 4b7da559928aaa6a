"""The contract of a corpus format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A kind of file that a corpus can be read from.

    Another package adds one through an entry point of the group `latentbank.sources` that leads to a `Format`:

        [project.entry-points."latentbank.sources"]
        subtitles = "subtitles.corpus:FORMAT"
    """

    suffixes: tuple[str, ...]
    """Endings of file names, in lower case with the dot: (".csv", ".tsv")."""
    read: Callable[[str, str | None], Iterator[str | None]]
    """Called with a path and the column asked for (None: found, where the format has columns); yields the texts in
    order, None for a missing one. Raises CorpusError for a file it cannot read. Memory should not grow with the file.
    """
    compressed: bool = False
    """Whether files may also end in .gz or .zst; `open_lines` of `latentbank.ingest.sources.lines` reads those."""
