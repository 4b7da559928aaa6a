"""The figure of silence: coverage against precision, and what falls silent at each level."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.files import write_whole
from latentbank.query.evaluation.figures import need_matplotlib
from latentbank.query.lenses.registry import title_of

if TYPE_CHECKING:
    from latentbank.query.evaluation.experiments.silence import SilenceScores

_MARKED = 0.05


def draw_silence(scores: SilenceScores, path: Path) -> Path:
    """Draw the scores of all visual layers together as a PNG file, and return its path.

    On the left, the share of object patches that have words, and the share of these that are named, from the lowest
    level to that at which all have words. On the right, by level: the share of the words given that stand on
    background, the share of background that is silent, and the share of true words that is kept.

    Raises:
        LatentBankError: matplotlib is not installed, or the file cannot be written.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = list(dict.fromkeys((row.lens, row.correction) for row in scores.rows))
    for number, (lens, correction) in enumerate(kinds):
        rows = scores.of(lens, correction)
        label = title_of(lens) + (f", corrected: {correction}" if correction else "")
        color = f"C{number}"
        covered = [100 * row.coverage.value for row in rows]
        precise = [100 * row.precision.value for row in rows]
        left.plot(covered, precise, ".-", color=color, label=label)
        left.fill_between(
            covered,
            [100 * row.precision.low for row in rows],
            [100 * row.precision.high for row in rows],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
        marked = [row for row in rows if row.fdr == _MARKED]
        left.plot(
            [100 * row.coverage.value for row in marked],
            [100 * row.precision.value for row in marked],
            "o",
            color=color,
            markersize=9,
            fillstyle="none",
        )
        levels = [row.fdr for row in rows]
        for style, what, values in (
            ("-", "true words kept", [row.kept.value for row in rows]),
            ("--", "background silent", [row.silent_background.value for row in rows]),
            (":", "words on background", [row.background.value for row in rows]),
        ):
            right.plot(
                levels,
                [100 * value for value in values],
                style,
                color=color,
                label=what if not number else None,
            )
    left.set_xlabel(f"object patches with words, % (circle: level {_MARKED})")
    left.set_ylabel("of these, named, %")
    left.set_ylim(0, 100)
    right.set_xscale("log")
    right.set_xlabel("level: largest share of false words")
    right.set_ylabel("%")
    right.axvline(_MARKED, color="0.8", linewidth=1)
    left.legend(fontsize=8, frameon=False)
    right.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return write_whole(path, buffer.getvalue())
