"""What the output of all commands shares: JSON, tables of facts, sizes and counts as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from latentbank.text import listed


def print_json(data: Any) -> None:
    """Print data as indented JSON."""
    print(json.dumps(data, ensure_ascii=False, indent=1))


def console() -> Console:
    """Return a console on standard output."""
    return Console()


def print_facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = Table(show_header=False, box=None)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    console().print(table)


def size_text(count: float) -> str:
    """Return a number of bytes as text: "512 kB", "1.2 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count_text(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 node", "3 nodes"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def corpora_text(corpora: Sequence[str], left_out: Sequence[str]) -> str:
    """Return the names of corpora, and of the incomplete ones that were left out."""
    return listed(corpora) + (f" (without {listed(left_out)}: incomplete)" if left_out else "")
