"""Text files: a sentence on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Format
from latentbank.ingest.sources.lines import open_lines, where_of


def read_text(path: str, column: str | None) -> Iterator[str | None]:
    """Yield the lines of a text file, which has no columns.

    Raises:
        CorpusError: its first line is a JSON object, so that it holds JSON lines and no sentences.
    """
    begun = False
    for line in read_lines_as_they_are(path, column):
        if not begun and line and line.strip():
            begun = True
            if _is_json_object(line):
                raise CorpusError(
                    f"{where_of(path)} holds JSON, not sentences; read it in the format jsonl, or in the format txt to "
                    "take its lines as they are.",
                    argument="format",
                )
        yield line


def read_lines_as_they_are(path: str, column: str | None) -> Iterator[str | None]:  # noqa: ARG001
    """Yield the lines of a text file, whatever they hold."""
    with open_lines(path) as lines:
        for _, line in lines:
            yield line


def _is_json_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


FORMAT = Format((".txt",), read_text, compressed=True, columns=False)
AS_IT_IS = Format((".txt",), read_lines_as_they_are, compressed=True, columns=False)
"""For those who ask for the format txt."""
