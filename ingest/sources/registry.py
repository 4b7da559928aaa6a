"""The formats that corpora can be read from: those in this package, and those of installed packages."""

from __future__ import annotations

import os
from collections.abc import Iterator

from latentbank.errors import CorpusError
from latentbank.extensions import extensions_of
from latentbank.ingest.sources import arrow, csv, json, parquet, text
from latentbank.ingest.sources.base import Format, TableFormat
from latentbank.ingest.sources.lines import compression_of
from latentbank.text import listed

GROUP = "latentbank.sources"
"""Group of the entry points through which packages add formats."""

_OWN = (text.FORMAT, csv.CSV, csv.TSV, json.LINES, json.DOCUMENT, parquet.FORMAT, arrow.FORMAT)
NAMED: dict[str, Format | TableFormat] = {
    "txt": text.AS_IT_IS,
    "csv": csv.CSV,
    "tsv": csv.TSV,
    "jsonl": json.LINES,
    "json": json.DOCUMENT,
    "parquet": parquet.FORMAT,
    "arrow": arrow.FORMAT,
}
"""The formats that can be asked for by name, for standard input and for files whose names do not tell."""


def format_named(name: str) -> Format | TableFormat:
    """Return the format of a name.

    Raises:
        CorpusError: there is none.
    """
    if name not in NAMED:
        raise CorpusError(
            f"There is no format {name!r}; choose one of these: {listed(NAMED)}.", argument="format"
        )
    return NAMED[name]


def format_of(path: str) -> Format | TableFormat | None:
    """Return the format of a file by its name; None if no format has its suffix.

    A suffix of this package's formats always means those, whatever is installed.

    Raises:
        CorpusError: an installed format cannot be loaded.
    """
    name = path.lower()
    compressed = compression_of(name) is not None
    suffix = os.path.splitext(os.path.splitext(name)[0] if compressed else name)[1]
    if not suffix:
        return None
    for known in _all_formats():
        if suffix in known.suffixes and (known.compressed or not compressed):
            return known
    return None


def described_formats() -> str:
    """Return the suffixes of all formats as a message lists them."""
    compressed: dict[str, bool] = {}
    for known in _all_formats():
        for suffix in known.suffixes:
            compressed.setdefault(suffix, known.compressed)
    packed = [suffix for suffix, is_compressed in compressed.items() if is_compressed]
    plain = [suffix for suffix, is_compressed in compressed.items() if not is_compressed]
    return f"{listed(packed)} (each also .gz or .zst) or {listed(plain)}"


def _all_formats() -> Iterator[Format | TableFormat]:
    """Go through the formats, ours first; the entry points are read only when none of ours is taken."""
    yield from _OWN
    yield from extensions_of(GROUP, "corpus format", (Format, TableFormat), _refuse)


def _refuse(message: str) -> None:
    raise CorpusError(message)
