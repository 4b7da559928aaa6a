"""What `latentbank doctor` saw, on one screen or as JSON (docs/json.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console, print_json
from latentbank.text import count_text

if TYPE_CHECKING:
    from latentbank.bank.doctor import Examination

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red", "unknown": "magenta"}


def show_examination(found: Examination, *, as_json: bool) -> None:
    """Print what was seen: a line for each check, and below it what to do, if there is something to do."""
    if as_json:
        print_json(
            {
                "where": found.where,
                "bank": found.bank,
                "well": found.well,
                "checks": [asdict(check) for check in found.checks],
            }
        )
        return
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in found.checks:
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, Text(check.seen))
        if check.remedy:
            table.add_row("", "", Text(f"→ {check.remedy}", style="italic"))
    console().print(table)
    states = [check.state for check in found.checks]
    wrong, warnings, unknown = (states.count(state) for state in ("wrong", "warning", "unknown"))
    summary = "Nothing is wrong" if not wrong else count_text(wrong, "thing is wrong", "things are wrong")
    if warnings:
        summary += f", {count_text(warnings, 'warning')}"
    if unknown:
        summary += f", {unknown} could not be seen"
    console().print(f"{summary}.", highlight=False)
