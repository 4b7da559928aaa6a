"""The figure of the experiment on causes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentbank.query.evaluation.experiments.cause_tables import CauseTables
from latentbank.query.evaluation.figures import new_figure, save_figure

_COLOURS = {
    "thing": "C1",
    "named": "C3",
    "random": "C7",
    "near": "C0",
    "named, as many": "C3",
    "not named": "C2",
}


def draw_cause_tables(tables: CauseTables, path: Path) -> Path:
    """Draw the change of a thing's name by the layer from which on tokens are ablated, as a PNG file.

    The upper row compares named tokens with random ones and those as near, the lower row named tokens with as many of
    the same thing that are not named.

    Raises:
        LatentBankError: matplotlib is not installed, or the file cannot be written.
    """
    ways = list(dict.fromkeys(effect.way for effect in tables.effects))
    figure = new_figure(1.5 + 3.4 * max(1, len(ways)), 6.4)
    for row, groups in enumerate((("named", "near", "random"), ("named, as many", "not named"))):
        first: Any = None
        for column, way in enumerate(ways):
            axes = figure.add_subplot(2, len(ways), row * len(ways) + column + 1, sharey=first)
            first = first or axes
            for group in groups:
                found = [
                    effect
                    for effect in tables.effects
                    if (effect.way, effect.group) == (way, group) and effect.layer is not None
                ]
                at = [effect.layer for effect in found]
                axes.plot(
                    at,
                    [effect.word.value for effect in found],
                    marker=".",
                    color=_COLOURS[group],
                    label=group,
                )
                low, high = [effect.word.low for effect in found], [effect.word.high for effect in found]
                axes.fill_between(at, low, high, color=_COLOURS[group], alpha=0.15, linewidth=0)
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.set_title(way)
            if row:
                axes.set_xlabel("ablated from layer")
            if not column:
                axes.set_ylabel("log-probability of the name, change")
                axes.legend(fontsize=8, frameon=False)
    return save_figure(figure, path)
