"""What a judge found, and what it costs, as tables and JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from latentbank.cli.output.text import console, print_json
from latentbank.text import count_text

if TYPE_CHECKING:
    from latentbank.query.judging.agreement import Estimate
    from latentbank.query.judging.judge import Bill
    from latentbank.query.judging.shares import Shares
    from latentbank.query.judging.verdicts import Verdict


def show_bill(bill: Bill, *, as_json: bool) -> None:
    """Print what a run would ask for."""
    if as_json:
        print_json(asdict(bill))
        return
    how = "as earlier answers of this judge" if bill.measured else "guessed from letters and pixels"
    kept = f" ({bill.kept:,} answers are there)" if bill.kept else ""
    print(
        f"{count_text(bill.calls, 'call')}{kept}, {bill.tokens_in:,} tokens of questions and about", end=" "
    )
    print(
        f"{bill.tokens_out:,} of answers ({how})" + (f", {bill.cost:,.2f}." if bill.cost is not None else ".")
    )
    if bill.cost is None:
        print("Give --price-in and --price-out to see the cost.")


def show_verdicts(verdicts: Sequence[Verdict], new: int, file: Path, *, as_json: bool) -> None:
    """Print the shares by model, lens and layer, beside those of controls, and what was asked.

    Args:
        verdicts: the verdicts.
        new: how many answers have come in this run.
        file: where the verdicts are.
    """
    from latentbank.query.judging.shares import shares_of

    rows = shares_of(verdicts)
    states = Counter(verdict.state for verdict in verdicts)
    costs = [verdict.cost for verdict in verdicts if verdict.cost is not None]
    about: dict[str, Any] = {
        "file": str(file),
        "questions": len(verdicts),
        "new_answers": new,
        "unreadable": states["unreadable"],
        "failed": states["failed"],
        "tokens_in": sum(verdict.tokens_in for verdict in verdicts),
        "tokens_out": sum(verdict.tokens_out for verdict in verdicts),
        "cost": sum(costs) if costs else None,
    }
    if as_json:
        print_json({"shares": [row.to_dict() for row in rows], **about})
        return
    for table in _tables(rows):
        console().print(table)
    cost = f", {about['cost']:,.2f} in all" if costs else ""
    print(
        f"{count_text(len(verdicts), 'verdict')} in {file}: {count_text(new, 'new answer')}, "
        f"{about['tokens_in']:,} and {about['tokens_out']:,} tokens{cost}."
    )
    if states["unreadable"]:
        print(f"{count_text(states['unreadable'], 'answer')} could not be read; shares are of the others.")
    if states["failed"]:
        reason = next(verdict.reasons for verdict in verdicts if verdict.state == "failed")
        print(
            f"{count_text(states['failed'], 'question')} got no answer ({reason}); the same command asks again.",
            file=sys.stderr,
        )


def _tables(rows: Sequence[Shares]) -> Iterator[Table]:
    """Yield a table for each model: the tokens' own words, and beside them what the judge finds in controls."""
    for study, rater, model in dict.fromkeys((row.study, row.rater, row.model) for row in rows):
        of_model = [row for row in rows if (row.study, row.rater, row.model) == (study, rater, model)]
        found = {(row.control, row.lens, row.layer): row for row in of_model}
        controls = [name for name in dict.fromkeys(row.control for row in of_model) if name]
        title = f"{model}: tokens that their {study} describe, by {rater}, %"
        table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 0))
        table.add_column("lens", no_wrap=True)
        for name in ("layer", "read", "any (95 %)", "concrete", "abstract", "global", *controls):
            longest = max(map(len, name.split()))
            table.add_column(name, justify="right", no_wrap=name not in controls, min_width=longest)
        for row in of_model:
            if row.control:
                continue
            others = (found.get((control, row.lens, row.layer)) for control in controls)
            table.add_row(
                row.lens,
                "all" if row.layer is None else str(row.layer),
                f"{row.answered:,}",
                _percent(row.interpretable, interval=True),
                *(_percent(share) for share in (row.concrete, row.abstract, row.global_)),
                *("–" if other is None else _percent(other.interpretable) for other in others),
                end_section=row.layer is None,
            )
        yield table


def _percent(share: Estimate, *, interval: bool = False) -> str:
    if share.value is None:
        return "–"
    if not interval or share.low is None or share.high is None:
        return f"{100 * share.value:.1f}"
    return f"{100 * share.value:.1f} ({100 * share.low:.0f}–{100 * share.high:.0f})"
