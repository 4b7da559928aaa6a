"""Finding the column that holds the sentences."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from latentbank.errors import CorpusError
from latentbank.text import listed

COLUMNS = ("text", "sentence", "caption", "content")
"""Names of a text column that are taken where several columns hold strings, best first."""
HEAD = 100
"""Records from whose values a format without declared types tells which columns hold text."""


def find_column(where: str, kinds: Mapping[str, bool | None], column: str | None) -> str:
    """Return the name of the text column.

    Args:
        where: the file or dataset, for messages.
        kinds: all columns: True (text), False (not text) or None (unknown).
        column: the column asked for; None: it is found.

    Raises:
        CorpusError: there is no such column, it is not text, or it is unclear which one is meant.
    """
    names = listed(kinds) or "none"
    if column is not None:
        if column not in kinds:
            raise CorpusError(f"{where} has no column {column!r}; choose one of these: {names}.")
        if kinds[column] is False:
            raise CorpusError(f"{where}: column {column!r} is not text; choose one of these: {names}.")
        return column
    texts = [name for name, kind in kinds.items() if kind]
    if len(texts) == 1:
        return texts[0]
    for name in COLUMNS:
        if kinds.get(name, False) is not False:
            return name
    if len(kinds) == 1 and None in kinds.values():
        return next(iter(kinds))
    if False in kinds.values() and len(set(kinds.values())) == 1:
        raise CorpusError(f"{where}: none of its columns holds text ({names}); convert it.")
    raise CorpusError(
        f"{where}: cannot tell which column holds the sentences; name one of these: {names}.",
        argument="column",
    )


def is_arrow_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow column holds strings, perhaps as a dictionary (pandas' categories)."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(kind in (pa.string(), pa.large_string(), pa.string_view()))
