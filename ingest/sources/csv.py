"""CSV and TSV files: the first row names the columns, and every cell is text as it stands.

They are read here rather than by `datasets`, which cannot say which line of which file is broken, takes the sentence
"NA" for a missing one and dates for timestamps, and settles on types after the first block of a file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked, Table, TableFormat
from latentbank.ingest.sources.columns import COLUMNS, HEAD, is_reference, kind_of
from latentbank.ingest.sources.lines import LONGEST_LINE, open_lines, where_of

_Row = tuple[int, list[str]]
_KEY = re.compile(r"(\w*_)?(id|ids|uuid|url|uri|path|file_?name)|\w*(Id|ID|Url|URL|Path|FileName)", re.ASCII)
_SENTENCE_END = re.compile(r".*\w.*[.!?…。！？।؟][\"'”’»)]*", re.S)


@contextmanager
def open_csv(path: str, asked: Asked, delimiter: str) -> Iterator[Table]:
    """Open a file of cells, with or without a header. Without one, the columns are called 1, 2, 3 and so on.

    Raises:
        CorpusError: it is unclear whether there is a header; while reading, a row is malformed or has another number of
            cells than the first.
    """
    where = where_of(path)
    with open_lines(path) as lines:
        rows = _rows(where, (line for _, line in lines), delimiter)
        first = next((row for row in rows if any(map(str.strip, row[1]))), (0, list[str]()))
        head = list(islice(rows, HEAD))
        if not first[1]:
            yield Table({}, lambda _: iter(()))
            return
        names = [name.strip() for name in first[1]]
        if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
            raise CorpusError(f"{where}: its columns are not separated by {delimiter!r}; convert it.")
        if asked.header is False:
            names = [str(number) for number in range(1, len(names) + 1)]
            head = [first, *head]
        elif asked.header is None:
            _check_header(where, names, head, asked.column)
        kinds = {
            name: kind_of(row[place] for _, row in head if len(row) > place)
            for place, name in enumerate(names)
        }

        def texts(column: str) -> Iterator[str | None]:
            if names.count(column) > 1:
                raise CorpusError(f"{where} has several columns {column!r}; give them different names.")
            return _cells(where, chain(head, rows), len(names), names.index(column))

        yield Table(kinds, texts)


def _cells(where: str, rows: Iterator[_Row], width: int, place: int) -> Iterator[str | None]:
    for number, row in rows:
        if row and len(row) != width:
            raise CorpusError(
                f"{where}, line {number}: the row and the header differ in length ({len(row)} and {width} cells); "
                "put quotes around cells that hold the delimiter, and leave no cell out."
            )
        yield row[place] if row else None


def _check_header(where: str, names: Sequence[str], head: Sequence[_Row], column: str | None) -> None:
    """Check that the first row names columns, by known names or because it looks unlike the rows below.

    Raises:
        CorpusError: it may as well be the first of the rows.
    """
    if any(name.casefold() in COLUMNS or name == column or _KEY.fullmatch(name) for name in names):
        return
    cells = [[row[place] for _, row in head if len(row) > place] for place in range(len(names))]
    looks = [{_look(cell) for cell in column if cell.strip()} for column in cells]
    compared = [(name, found) for name, found in zip(names, looks, strict=True) if found and name]
    alike = bool(compared) and all(_look(name) in found for name, found in compared)
    # "No." names a column of numbers, and "A dog runs." none.
    sentence = any(
        _SENTENCE_END.fullmatch(name) and found != {"reference"}
        for name, found in zip(names, looks, strict=True)
    )
    if alike or sentence:
        raise CorpusError(
            f"{where}: cannot tell whether its first row ({', '.join(names)[:80]}) names the columns or is a row like "
            "the others; say whether it has a header.",
            argument="header",
        )


def _look(cell: str) -> str:
    """Return what kind of text a cell holds, to compare it with others."""
    return "reference" if is_reference(cell) else "word" if len(cell.split()) == 1 else "words"


def _rows(where: str, lines: Iterator[str], delimiter: str) -> Iterator[_Row]:
    """Yield each row with the number of its last line."""
    # strict: a stray quote is an error, where the lenient reader would swallow lines or drop the quote.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begun = reader.line_num + 1
        before = csv.field_size_limit(LONGEST_LINE)  # of the process: others keep theirs
        try:
            row = next(reader, None)
        except csv.Error as error:
            if "field limit" in str(error):
                raise CorpusError(
                    f"{where}, line {begun}: a cell is longer than {LONGEST_LINE:,} characters; close its quotes "
                    "or split it into sentences."
                ) from None
            raise CorpusError(
                f"{where}, line {reader.line_num}: {error}; put quotes around cells that hold quotes, "
                "delimiters or line ends, and double the quotes in them."
            ) from None
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        yield reader.line_num, row


CSV = TableFormat((".csv",), partial(open_csv, delimiter=","), compressed=True)
TSV = TableFormat((".tsv",), partial(open_csv, delimiter="\t"), compressed=True)
