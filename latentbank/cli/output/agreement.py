"""Agreement of raters as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

from latentbank.cli.output.text import console

if TYPE_CHECKING:
    from latentbank.query.judging.agreement import Agreement, Estimate

_TITLES = {"judge": "the judge and the people's majority", "people": "people among themselves"}


def show_agreements(found: Sequence[Agreement]) -> None:
    """Print a table for each study and comparison; below each value its interval."""
    for study, between in dict.fromkeys((row.study, row.between) for row in found):
        rows = [row for row in found if (row.study, row.between) == (study, between)]
        title = f"{study}: {_TITLES[between]}" if study else _TITLES[between]
        table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("model, kind", overflow="fold")
        for name in ("items", "yes, %", "accuracy", "kappa", "rho", "alpha"):
            table.add_column(name, no_wrap=True)
        for row in rows:
            if row.kind == "any":
                table.add_section()
            estimates = map(_estimate, (row.accuracy, row.kappa, row.spearman, row.alpha))
            table.add_row(_name(row), f"{row.items:,}", f"{row.yes:.0%}"[:-1], *estimates)
        console().print(table)


def _name(row: Agreement) -> str:
    """Return what a row is about: a model in all, one of its kinds, or a control."""
    if row.control:
        return f"control: {row.control}"
    return row.model if row.kind == "any" else f"  {row.kind}"


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f}\n{estimate.low:.2f}–{estimate.high:.2f}"
