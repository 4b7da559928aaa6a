"""What is left of lenses' words when tokens may be silent, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from latentbank.cli.output.text import console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from latentbank.query.evaluation.scoring import Share
    from latentbank.query.evaluation.silence import SilenceRow


def show_silence(rows: Iterable[SilenceRow]) -> None:
    """Print the scores of silence, a row for each lens, correction, level and visual layer."""
    table = Table(
        "lens",
        "corrected",
        "level",
        "layer",
        "words",
        "on background",
        "background silent",
        "true words kept",
        "coverage",
        "precision",
        "shuffled pixels",
        title="words that are left, % (95 %)",
        title_justify="left",
        caption="coverage: object patches with words; precision: of these, those that are named; shuffled pixels: "
        "images of them with any word",
        caption_justify="left",
    )
    for row in rows:
        table.add_row(
            row.lens,
            row.correction or "no",
            f"{row.fdr:.3g}",
            "all" if row.layer is None else str(row.layer),
            f"{row.words:,}",
            _shown(row.background),
            _shown(row.silent_background),
            _shown(row.kept),
            _shown(row.coverage),
            _shown(row.precision),
            "" if row.chance is None else _shown(row.chance),
        )
    console().print(table)


def _shown(share: Share) -> str:
    if not share.of:
        return "-"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
