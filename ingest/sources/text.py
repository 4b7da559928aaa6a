"""Text files: a sentence on each line."""

from __future__ import annotations

from collections.abc import Iterator

from latentbank.ingest.sources.base import Format
from latentbank.ingest.sources.lines import open_lines


def read_text(path: str, column: str | None) -> Iterator[str | None]:  # noqa: ARG001
    """Yield the lines of a text file, which has no columns."""
    with open_lines(path) as lines:
        for _, line in lines:
            yield line


FORMAT = Format((".txt",), read_text, compressed=True)
