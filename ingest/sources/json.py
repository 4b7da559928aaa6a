"""JSON: lines of objects, and documents with a list of objects or strings."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Format
from latentbank.ingest.sources.columns import HEAD, find_column
from latentbank.ingest.sources.dataset import plain_errors, streamed
from latentbank.ingest.sources.lines import open_lines


def read_json_lines(path: str, column: str | None) -> Iterator[str | None]:
    """Yield the values of the text column, an object on each line; None for a missing key or an empty line.

    Raises:
        CorpusError: a line is not a JSON object, a value is not text, or the column is not found.
    """
    with open_lines(path) as lines:
        numbered = _objects(path, lines)
        head = list(islice(numbered, HEAD))
        kinds: dict[str, bool | None] = {}
        for _, row in head:
            for name, value in row.items():
                if value is not None:
                    kinds[name] = isinstance(value, str) and kinds.get(name) is not False
                else:
                    kinds.setdefault(name)
        if not kinds:
            return
        chosen = find_column(path, kinds, column)
        for number, row in chain(head, numbered):
            value = row.get(chosen)
            if value is not None and not isinstance(value, str):
                what = type(value).__name__
                raise CorpusError(
                    f"{path}, line {number}: column {chosen!r} holds {what}, not text; convert it."
                )
            yield value


def read_json_document(path: str, column: str | None) -> Iterator[str | None]:
    """Yield the text column of a .json file: a list of objects or strings, or JSON lines after all.

    The file is read into memory whole.

    Raises:
        CorpusError: it is malformed, or the column is not found.
    """
    if os.path.getsize(path) == 0:
        return  # `datasets` stops with an error without a reason
    import datasets

    with plain_errors(path):
        # `datasets` takes file names for globs.
        builder = datasets.load_dataset_builder("json", data_files=glob.escape(os.path.abspath(path)))
    yield from streamed(path, builder, "train", column)


def _objects(path: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, object]]]:
    decode = json.JSONDecoder().raw_decode
    for number, line in lines:
        text = line.strip()
        try:
            row, end = decode(text) if text else ({}, 0)
        except (ValueError, RecursionError):
            row, end = None, 0
        if end != len(text) or not isinstance(row, dict):
            raise CorpusError(f"{path}, line {number}: not a JSON object; put one object on each line.")
        yield number, row


LINES = Format((".jsonl", ".ndjson"), read_json_lines, compressed=True)
DOCUMENT = Format((".json",), read_json_document)
