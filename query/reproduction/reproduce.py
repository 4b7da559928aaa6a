"""Reproduce the paper's tables and figures: run a plan's stages and write the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latentbank.progress import Progress
from latentbank.query.reproduction.build import stages_of
from latentbank.query.reproduction.measured import FIGURES, Measured, published, write_table
from latentbank.query.reproduction.parts import Report
from latentbank.query.reproduction.plan import Plan
from latentbank.query.reproduction.report import save_report
from latentbank.query.reproduction.stages import Done, run_stages
from latentbank.query.reproduction.world import World
from latentbank.version import __version__


@dataclass(frozen=True)
class Reproduced:
    """What a reproduction wrote.

    Attributes:
        page: the report, an HTML file.
        table: its numbers with those that were published, a Parquet file.
        rows: the numbers measured here.
        stages: the stages.
    """

    page: Path
    table: Path
    rows: tuple[Measured, ...]
    stages: tuple[Done, ...]


def reproduce(
    plan: Plan,
    world: World,
    folder: Path,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Reproduced:
    """Run a plan's stages and write `report.html` and `report.parquet`. Run again, it continues where it stopped.

    Args:
        plan: what is reproduced.
        world: what the stages take from outside.
        folder: where everything is written: `stages` with a folder for each stage, and the report.
        progress: receives the progress of each stage.
        say: called with a line of text at each stage.

    Raises:
        LatentBankError: a stage fails; what was done before it stays.
    """
    at = folder / "stages"
    done = run_stages(stages_of(plan, world, at), at, progress, say)
    rows = tuple(row for stage in done for row in stage.rows)
    about = {"plan": plan.to_dict(), "judge": world.rater, "version": __version__}
    shown = [row for row in rows if row.figure in FIGURES]
    table = write_table(folder / "report.parquet", [*shown, *published()], about)
    report = Report(plan, world.rater, rows, published(), tuple(done), world.tag is not None)
    page = save_report(folder / "report.html", report)
    return Reproduced(page, table, rows, tuple(done))
