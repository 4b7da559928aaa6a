"""Finding the column that holds the sentences: by its name, or as the only one that holds text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked, Kind
from latentbank.text import listed

COLUMNS = ("text", "sentence", "caption", "content")
"""Names of a text column that are taken wherever they are, also while they are empty, best first."""
HEAD = 100
"""Records from whose values a format without declared types tells which columns hold text."""

# Last parts of names whose columns are never guessed to hold sentences.
_NO_SENTENCES = re.compile(
    "ids?|u?uid|guid|ur[li]s?|links?|href|paths?|files?|file(name|path)|images?|img|picture|photo|audio|video|name|key|hash"
    "|md5|sha1?|sha256|split|licen[cs]e|lang|language|date|time|timestamp|index|number|source|dataset|type"
    "|.*(ur[li]|path|filename|uuid|imgid|sentid)"
)
_FILE = re.compile(
    r".*\.(jpe?g|png|gif|webp|bmp|tiff?|svg|heic|mp[34]|wav|flac|avi|mov|pdf|html?|json|txt)", re.I
)
_ADDRESS = re.compile(r"(\w+://|www\.|mailto:)\S+|(/|\./|\.\./|~/|[A-Za-z]:\\).*")
# One word of ASCII with a digit or a sign that words lack; a full stop counts only between other characters.
_ID = re.compile(r"(?=[!-~]+$)(\S*[\d_/\\@#=:|]\S*|\S+\.\w\S*)")


def find_column(where: str, kinds: Mapping[str, Kind], column: str | None) -> str:
    """Return the name of the text column.

    Args:
        where: the file or dataset, for messages.
        kinds: all columns.
        column: the column asked for; None: it is found.

    Raises:
        CorpusError: there is no such column, it is not text, or it is unclear which one is meant.
    """
    if column is not None:
        require_column(where, kinds, column)
        return column
    named = [name for best in COLUMNS for name in kinds if name.casefold() == best]
    if named:
        texts = [name for name in named if is_text(kinds[name])]
        if not texts:
            raise _no_text(where, kinds, named[0])
        return texts[0]
    possible = [
        name
        for name, kind in kinds.items()
        if kind in (Kind.TEXT, Kind.EMPTY, Kind.NESTED) and not is_reference_name(name)
    ]
    if len(possible) == 1 and is_text(kinds[possible[0]]):
        return possible[0]
    names = listed(kinds) or "none"
    if not any(is_text(kind) for kind in kinds.values()):
        raise CorpusError(f"{where}: none of its columns holds text ({names}); convert it.")
    raise CorpusError(
        f"{where}: cannot tell which column holds the sentences; name one of these: {names}.",
        argument="column",
    )


def require_column(where: str, kinds: Mapping[str, Kind], column: str) -> None:
    """Check that a column is there and can hold text.

    Raises:
        CorpusError: it is not there, or it holds something else.
    """
    if column not in kinds:
        raise no_column(where, kinds, column)
    if not is_text(kinds[column]):
        raise _no_text(where, kinds, column)


def no_column(where: str, columns: Iterable[str], column: str) -> CorpusError:
    """Return the error for a file that lacks the corpus's column."""
    if not (names := listed(columns)):
        return CorpusError(
            f"{where} has no columns, so it has no column {column!r}; make it a corpus of its own."
        )
    return CorpusError(f"{where} has no column {column!r}; choose one of these: {names}.", argument="column")


def better_names(column: str) -> frozenset[str]:
    """Return the column names that would have been taken instead of a column that was found."""
    known = column.casefold()
    return frozenset(COLUMNS[: COLUMNS.index(known)] if known in COLUMNS else COLUMNS)


def is_text(kind: Kind) -> bool:
    """Return whether a column can be asked for."""
    return kind in (Kind.TEXT, Kind.EMPTY, Kind.REFERENCE)


def kind_of(values: Iterable[object]) -> Kind:
    """Return what a column holds, from some of its values."""
    kinds = {_kind(value) for value in values} - {Kind.EMPTY}
    for kind in (Kind.OTHER, Kind.NESTED, Kind.TEXT, Kind.REFERENCE):
        if kind in kinds:
            return kind if kind is not Kind.OTHER or Kind.NESTED not in kinds else Kind.NESTED
    return Kind.EMPTY


def is_reference(text: str) -> bool:
    """Return whether a text is no sentence in itself: a number, a date, an address, an id or a path."""
    text = text.strip()
    if not any(map(str.isalpha, text)):
        return True
    return any(pattern.fullmatch(text) for pattern in (_ADDRESS, _FILE, _ID))


def is_reference_name(name: str) -> bool:
    """Return whether a column of this name is never guessed to hold sentences: id, image_url, fileName, split."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", name))
    last = words[-1].casefold() if words else ""
    return bool(_NO_SENTENCES.fullmatch(last))


def arrow_kinds(schema: pa.Schema) -> dict[str, Kind]:
    """Return what the columns of an Arrow schema hold, as far as their types tell."""
    return {entry.name: _arrow_kind(entry.type) for entry in schema}


def kinds_to_look_at(kinds: Mapping[str, Kind], asked: Asked) -> list[str]:
    """Return the columns of strings and lists, if neither a name that was asked for nor a known one decides."""
    if asked.column is not None or any(name.casefold() in COLUMNS for name in kinds):
        return []
    return [name for name, kind in kinds.items() if kind in (Kind.TEXT, Kind.NESTED)]


def kinds_with_values(kinds: Mapping[str, Kind], values: Mapping[str, Sequence[object]]) -> dict[str, Kind]:
    """Return what columns hold by their types and some of their values. A list stays one while it is empty."""
    found = {name: kind_of(cells) for name, cells in values.items()}
    return {**kinds} | {
        name: kind for name, kind in found.items() if kind is not Kind.EMPTY or kinds[name] is Kind.TEXT
    }


def _arrow_kind(type_: pa.DataType) -> Kind:
    if pa.types.is_dictionary(type_):  # pandas' categories
        type_ = type_.value_type
    if type_ in (pa.string(), pa.large_string(), pa.string_view()):
        return Kind.TEXT
    if pa.types.is_null(type_):
        return Kind.EMPTY
    return Kind.NESTED if pa.types.is_list(type_) or pa.types.is_large_list(type_) else Kind.OTHER


def _kind(value: object) -> Kind:
    if value is None:
        return Kind.EMPTY
    if isinstance(value, str):
        if not value.strip():
            return Kind.EMPTY
        return Kind.REFERENCE if is_reference(value) else Kind.TEXT
    return Kind.NESTED if isinstance(value, list) and holds_sentence(value) else Kind.OTHER


def holds_sentence(value: object) -> bool:
    """Return whether there is a string of several words anywhere inside a value."""
    if isinstance(value, str):
        return len(value.split()) > 1 and not is_reference(value)
    if isinstance(value, dict):
        return any(map(holds_sentence, value.values()))
    return isinstance(value, list) and any(map(holds_sentence, value))


def _no_text(where: str, kinds: Mapping[str, Kind], column: str) -> CorpusError:
    texts = listed(name for name, kind in kinds.items() if is_text(kind))
    do = f"choose one of these: {texts}" if texts else "convert it"
    what = "holds lists, not text" if kinds[column] is Kind.NESTED else "is not text"
    return CorpusError(f"{where}: column {column!r} {what}; {do}.", argument="column" if texts else None)
