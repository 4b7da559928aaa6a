"""Finding the records in a JSON document: a list of objects or of strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked
from latentbank.ingest.sources.columns import (
    COLUMNS,
    HEAD,
    find_column,
    holds_sentence,
    is_reference,
    is_text,
    kind_of,
)
from latentbank.text import listed

_Records = Sequence[Any]
_DEEP = 4  # lists that a message names lie at most this deep


class NoRecords(CorpusError):
    """The document holds no list of records."""


def find_records(where: str, document: Any, asked: Asked) -> tuple[str | None, _Records]:
    """Return the records of a document and the field that holds them; None: the document is the list.

    Records are objects or strings; null stands for a missing one. A scalar is never one of them.

    Args:
        where: the file, for messages.
        document: as it was parsed.
        asked: the field and the column asked for.

    Raises:
        NoRecords: there is no list of records.
        CorpusError: there is no such field, or it is unclear which list is meant.
    """
    if asked.field is not None:
        records = _at(document, asked.field.split("."))
        if not _are_records(records):
            raise CorpusError(
                f"{where} has no list of records {asked.field!r}{_choice(document)}.", argument="field"
            )
        return asked.field, records
    if document == []:
        return None, []
    if isinstance(document, list):
        if not _are_records(document):
            raise NoRecords(f"{where} holds no list of objects or of strings; convert it.")
        if isinstance(_first(document), dict) and _column_of(document, asked.column) is None:
            _refuse_if_deeper(where, document)
        return None, document
    lists = dict(_lists_in(document)) if isinstance(document, dict) else {}
    if not lists:
        raise NoRecords(f"{where} holds no list of objects or of strings; give a list of records.")
    for chosen in (_named(lists, asked.column), _with_sentences(lists, asked.column)):
        if len(chosen) == 1:
            return chosen[0], lists[chosen[0]]
        if chosen:
            break
    raise CorpusError(
        f"{where}: cannot tell which list holds the sentences{_choice(document)}.", argument="field"
    )


def _named(lists: dict[str, _Records], column: str | None) -> list[str]:
    """Return the fields whose records have the column asked for, or one of the known names."""
    wanted = {*COLUMNS} if column is None else {column.casefold()}

    def is_named(field: str, records: _Records) -> bool:
        if isinstance(_first(records), str):
            return column is None and _last(field).removesuffix("s") in wanted
        return not wanted.isdisjoint(name.casefold() for record in records[:HEAD] for name in record or ())

    return [field for field, records in lists.items() if is_named(field, records)]


def _with_sentences(lists: dict[str, _Records], column: str | None) -> list[str]:
    """Return the fields with a column that can only be the one with the sentences, or with sentences as they are."""
    if column is not None:
        return []
    found = []
    for field, records in lists.items():
        name = _column_of(records, None)
        values = [record.get(name) if name and record else record for record in records[:HEAD]]
        if (name or isinstance(_first(records), str)) and any(
            isinstance(value, str) and (holds_sentence(value) or not (value.isascii() or is_reference(value)))
            for value in values
        ):
            found.append(field)
    return found


def _column_of(records: _Records, column: str | None) -> str | None:
    """Return the text column of records of objects; None: there is none, or it is unclear."""
    if not isinstance(_first(records), dict):
        return None
    rows = [record or {} for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    kinds = {name: kind_of(row.get(name) for row in rows) for name in names}
    if column is not None:
        return column if column in kinds and is_text(kinds[column]) else None
    try:
        return find_column("", kinds, None)
    except CorpusError:
        return None


def _refuse_if_deeper(where: str, document: list[Any]) -> None:
    """Raise an error that names lists inside the records; nothing if there is none, so that columns are named."""
    deeper = [field for field, records in _all_lists(document) if _holds_text(records)]
    if deeper:
        raise CorpusError(
            f"{where}: no column of its records is known to hold the sentences; name a column, or one of these lists: "
            f"{listed(deeper)}.",
            argument="field",
        )


def _holds_text(records: _Records) -> bool:
    return any(map(holds_sentence, records[:HEAD]))


def _choice(document: Any) -> str:
    """Return the end of a message: the lists to choose from."""
    fields = [field for field, _ in _all_lists(document)]
    return f"; name one of these: {listed(fields)}" if fields else "; it has none"


def _all_lists(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, _Records]]:
    """Yield all lists of records inside a value with their fields, also those inside the records of lists."""
    if depth >= _DEEP:
        return
    for field, records in _lists_in(value, prefix):
        yield field, records
        yield from _all_lists(records, f"{field}.", depth + 1)


def _lists_in(value: Any, prefix: str = "") -> Iterator[tuple[str, _Records]]:
    """Yield the lists of records in an object, in the objects in it, and in the records of a list."""
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, dict)]
        for name in dict.fromkeys(name for row in rows[:HEAD] for name in row):
            records = _at(rows, [name])
            if _are_records(records) and any(isinstance(row.get(name), list) for row in rows[:HEAD]):
                yield prefix + name, records
    elif isinstance(value, dict):
        for name, inner in value.items():
            if _are_records(inner):
                yield prefix + name, inner
            elif isinstance(inner, dict):
                yield from _lists_in(inner, f"{prefix}{name}.")


def _at(value: Any, field: Sequence[str]) -> Any:
    """Return what lies at a field; of the records of a list, all of their lists, one after the other."""
    for name in field:
        if isinstance(value, list):
            found = [row.get(name) for row in value if isinstance(row, dict)]
            value = [part for part in found if isinstance(part, dict)]
            value += [item for part in found if isinstance(part, list) for item in part]
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _are_records(value: Any) -> bool:
    """Return whether a value is a list of objects or a list of strings, with at least one."""
    if not isinstance(value, list) or _first(value) is None:
        return False
    return all(item is None or isinstance(item, type(_first(value))) for item in value) and isinstance(
        _first(value), dict | str
    )


def _first(records: Any) -> Any:
    return next((record for record in records if record is not None), None)


def _last(field: str) -> str:
    return field.rpartition(".")[2].casefold()
