"""Reproductions as tables and JSON: what a plan costs, and what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from latentbank.cli.output.text import print_json
from latentbank.query.lenses.registry import title_of

if TYPE_CHECKING:
    from latentbank.query.reproduction.estimate import Cost
    from latentbank.query.reproduction.reproduce import Reproduced


def show_estimate(cost: Cost, *, as_json: bool, aside: bool = False) -> None:
    """Print what a plan costs, as JSON or a table; `aside`: to standard error, beside another result."""
    if as_json:
        print_json(cost.to_dict())
        return
    table = Table("model", "bank, GPU h", "reading, GPU h", "banks, GB", "questions", title_justify="left")
    table.title = "what the plan costs"
    for model in cost.models:
        hours = (f"{model.bank_hours:.2f}", f"{model.reading_hours:.2f}", f"{model.bank_gb:.1f}")
        table.add_row(model.name, *hours, f"{model.calls:,}")
    console = Console(stderr=aside)
    console.print(table)
    price = f", for {cost.judge_cost:,.2f} by the plan's prices" if cost.judge_cost else ""
    console.print(
        f"In all {cost.gpu_hours:.1f} GPU hours, {cost.disk_gb:.1f} GB of banks and {cost.calls:,} questions to the "
        f"judge{price}.",
        highlight=False,
    )


def show_reproduced(made: Reproduced, *, as_json: bool) -> None:
    """Print the shares of interpretable tokens, and where the report is; as JSON all numbers that were measured."""
    if as_json:
        stages = [
            {"name": stage.name, "seconds": stage.seconds, "skipped": stage.skipped} for stage in made.stages
        ]
        rows = [row.to_dict() for row in made.rows]
        print_json({"report": str(made.page), "table": str(made.table), "stages": stages, "rows": rows})
        return
    table = Table("model", "lens", "interpretable, % (95 %)", "other image", title_justify="left")
    table.title = "tokens that the lens's words describe, mean over the visual layers"
    shares = {
        (row.model, row.lens, row.kind): row
        for row in made.rows
        if row.figure == "shares" and row.layer is None
    }
    for (model, lens, kind), row in shares.items():
        if kind != "any":
            continue
        interval = (
            "" if row.low is None or row.high is None else f" ({100 * row.low:.1f} to {100 * row.high:.1f})"
        )
        noise = shares.get((model, lens, "any, other image"))
        table.add_row(
            model,
            title_of(lens),
            f"{100 * row.value:.1f}{interval}",
            "" if noise is None else f"{100 * noise.value:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"The report is {made.page}, its numbers are in {made.table}.", highlight=False, soft_wrap=True
    )
