"""What the output of all commands shares: JSON, tables of facts, sizes and counts as text."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank


def print_json(data: Any) -> None:
    """Print data as indented JSON."""
    print(_printable(json.dumps(data, ensure_ascii=False, indent=1)))


@contextmanager
def json_list() -> Iterator[Callable[[Any], None]]:
    """Print a JSON list, each entry when the function that is yielded is called with it.

    After an error in the block, the list ends with the last entry; nothing is printed if there is none.
    """
    count = 0

    def put(entry: Any) -> None:
        nonlocal count
        print("," if count else "[", _printable(json.dumps(entry, ensure_ascii=False)), sep="\n")
        count += 1

    try:
        yield put
    except BaseException:
        if count:
            print("]")
        raise
    print("]" if count else "[]")


def _printable(text: str) -> str:
    """Return JSON with what the encoding of standard output lacks as JSON's own escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, _ESCAPES).decode(encoding)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


_ESCAPES = "latentbank-json"
codecs.register_error(_ESCAPES, _escaped)


def console(*, error: bool = False) -> Console:
    """Return a console on standard output, or on standard error."""
    return Console(stderr=error)


def print_facts(rows: Sequence[tuple[str, str]], *, error: bool = False) -> None:
    """Print names and values in two columns, on standard output or on standard error."""
    table = Table(show_header=False, box=None)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    console(error=error).print(table)


def size_text(count: float) -> str:
    """Return a number of bytes as text: "512 kB", "1.2 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def corpora_text(corpora: Sequence[str], left_out: Sequence[str]) -> str:
    """Return the names of corpora, and of the incomplete ones that were left out."""
    return listed(corpora) + (f" (without {listed(left_out)}: incomplete)" if left_out else "")


def show_ways(bank: Bank) -> None:
    """Say on standard error how the bank was searched last."""
    ways: dict[str, list[int]] = {}
    for layer, way in bank.searched.items():
        ways.setdefault(way, []).append(layer)
    for way, layers in ways.items():
        print(f"searched: layer{'s' * (len(layers) > 1)} {listed(layers)}, {way}", file=sys.stderr)
