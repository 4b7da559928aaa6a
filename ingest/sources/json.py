"""JSON: lines of objects, and documents that hold a list of objects or strings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from typing import Any

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked, Kind, Table, TableFormat
from latentbank.ingest.sources.columns import HEAD, better_names, kind_of, no_column
from latentbank.ingest.sources.lines import (
    damaged,
    is_remote,
    next_line,
    open_bytes,
    open_lines,
    read_lines,
    where_of,
)
from latentbank.ingest.sources.records import find_records

_Row = tuple[int, dict[str, Any]]


@contextmanager
def open_json_lines(path: str, asked: Asked) -> Iterator[Table]:
    """Open a file with an object on each line. A missing key and an empty line are missing texts.

    Raises:
        CorpusError: a line is not a JSON object; while reading, a value is not text.
    """
    with open_lines(path) as lines:
        yield _table_of_lines(where_of(path), lines, asked)


@contextmanager
def open_json_document(path: str, asked: Asked) -> Iterator[Table]:
    """Open a .json file: a list of objects or strings, an object that holds such a list, or JSON lines after all.

    All but JSON lines is read into memory whole.

    Raises:
        NoRecords: it holds no list of records.
        CorpusError: it is malformed, or it is unclear which of its lists is meant.
    """
    where = where_of(path)
    with open_bytes(path) as stream:
        begun = _first_lines(where, stream)
        if len(begun) > 1:
            if asked.field is not None:
                raise CorpusError(
                    f"{where} holds an object on each line and no list of records; leave out the field.",
                    argument="field",
                )
            yield _table_of_lines(where, read_lines(where, stream, begun), asked)
            return
        document = _parsed(where, b"".join(begun) + _rest(where, stream))
    if document is None:
        yield Table({}, lambda _: iter(()))
        return
    field, records = find_records(where, document, asked)
    strings = [record for record in records if isinstance(record, str)]
    if strings or not records:
        if asked.column is not None and strings:
            raise no_column(where, (), asked.column)
        yield Table({}, lambda _: iter(records), field)
        return
    rows = [row or {} for row in records]
    names = dict.fromkeys(name for row in rows for name in row)
    kinds = {name: kind_of(row.get(name) for row in rows) for name in names}
    yield Table(kinds, lambda column: (row.get(column) for row in rows), field)


def _table_of_lines(where: str, lines: Iterable[tuple[int, str]], asked: Asked) -> Table:
    rows = _objects(where, lines)
    head, filled = list[_Row](), 0
    while filled < HEAD and (row := next(rows, None)) is not None:
        head.append(row)
        filled += bool(row[1])
    names = dict.fromkeys(name for _, row in head for name in row)
    kinds = {name: kind_of(row.get(name) for _, row in head) for name in names}
    if asked.column is not None and filled == HEAD:
        kinds.setdefault(asked.column, Kind.EMPTY)  # writers leave out nulls: a later row may have the key

    def texts(column: str) -> Iterator[str | None]:
        found = column in names or not names
        better = better_names(column) - names.keys() if asked.column is None else frozenset()
        for number, row in chain(head, rows):
            if not better.isdisjoint(row):
                late = next(name for name in row if name in better)
                raise CorpusError(
                    f"{where}, line {number}: column {late!r} appears first here, after {column!r} was taken for the "
                    "sentences; name the column.",
                    argument="column",
                )
            value = row.get(column)
            found = found or column in row
            if value is not None and not isinstance(value, str):
                what = type(value).__name__
                raise CorpusError(
                    f"{where}, line {number}: column {column!r} holds {what}, not text; convert it."
                )
            yield value
        if not found:
            raise no_column(where, names, column)

    return Table(kinds, texts)


def _objects(where: str, lines: Iterable[tuple[int, str]]) -> Iterator[_Row]:
    decode = json.JSONDecoder().raw_decode
    for number, line in lines:
        text = line.strip()
        try:
            row, end = decode(text) if text else ({}, 0)
        except (ValueError, RecursionError):
            row, end = None, 0
        if end != len(text) or not isinstance(row, dict):
            raise CorpusError(f"{where}, line {number}: not a JSON object; put one object on each line.")
        yield number, row


def _first_lines(where: str, stream: BufferedReader) -> list[bytes]:
    """Return what tells JSON lines from a document: its first line and, if that is a whole object, a second one.

    Blank lines before them are left out.
    """
    first = _not_blank(where, stream)
    if not first.endswith(b"\n") or not _is_object(first):
        return [first]
    second = _not_blank(where, stream)
    return [first, second] if second else [first]


def _not_blank(where: str, stream: BufferedReader) -> bytes:
    while True:
        line = next_line(where, stream, 0)
        if not line or line.strip(b" \t\r\n\xef\xbb\xbf"):
            return line


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _rest(where: str, stream: BufferedReader) -> bytes:
    try:
        return stream.read()
    except OSError:
        if is_remote(where):
            raise
        raise damaged(where, "within the document") from None


def _parsed(where: str, data: bytes) -> Any:
    """Return what a document holds; None for an empty one."""
    if not data.strip():
        return None
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = (
            str(error) if isinstance(error, json.JSONDecodeError) else "no text in UTF-8, or nested too deep"
        )
        raise CorpusError(f"{where}: not a JSON document ({reason}); check it.") from None


LINES = TableFormat((".jsonl", ".ndjson"), open_json_lines, compressed=True)
DOCUMENT = TableFormat((".json",), open_json_document, compressed=True)
