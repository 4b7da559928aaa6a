"""CSV and TSV files: the first row names the columns, and every cell is text as it stands.

They are read here rather than by `datasets`, which cannot say which line of which file is broken, takes the sentence
"NA" for a missing one and dates for timestamps, and settles on types after the first block of a file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Format
from latentbank.ingest.sources.columns import HEAD, find_column
from latentbank.ingest.sources.lines import compression_of, open_lines


def read_csv(path: str, column: str | None) -> Iterator[str | None]:
    """Yield the cells of the text column; None for an empty row.

    Raises:
        CorpusError: a row is malformed or has another number of cells than the header, or the column is not found.
    """
    name = path.lower()
    if compression_of(name):
        name = name.rpartition(".")[0]
    delimiter = "\t" if name.endswith(".tsv") else ","
    with open_lines(path) as lines:
        yield from _cells(path, (line for _, line in lines), delimiter, column)


def _cells(path: str, lines: Iterator[str], delimiter: str, column: str | None) -> Iterator[str | None]:
    numbered = _rows(path, lines, delimiter)
    header = next(numbered, (0, list[str]()))[1]
    if not header:
        return
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise CorpusError(f"{path}: its columns are not separated by {delimiter!r}; convert it.")
    head = list(islice(numbered, HEAD))
    kinds: dict[str, bool | None] = {}
    for place, name in enumerate(header):
        cells = [row[place] for _, row in head if len(row) > place and row[place].strip()]
        # A column of numbers is not found by itself but may be named: every CSV cell is text.
        kinds[name] = None if all(map(_is_number, cells)) else True
    place = header.index(find_column(path, kinds, column))
    for number, row in chain(head, numbered):
        if row and len(row) != len(header):
            raise CorpusError(
                f"{path}, line {number}: {len(row)} cells where the header has {len(header)}; "
                "put quotes around cells that hold the delimiter."
            )
        yield row[place] if row else None


def _rows(path: str, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its last line."""
    # strict: a stray quote is an error, where the lenient reader would swallow lines or drop the quote.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {reader.line_num}: {error}; put quotes around cells that hold quotes, "
            "delimiters or line ends, and double the quotes in them."
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


FORMAT = Format((".csv", ".tsv"), read_csv, compressed=True)
