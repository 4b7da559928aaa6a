"""The figure of an image's ablations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.query.evaluation.figures import new_figure, save_figure

if TYPE_CHECKING:
    from latentbank.query.causes.results import Causes

_GROUPS = (
    ("showing", "tokens that show it", "C3"),
    ("random", "as many at random", "C7"),
    ("near", "as near", "C0"),
)


def draw_causes(found: Causes, path: Path) -> Path:
    """Draw the change of the word's log-probability by layer, for each way and group of tokens, as a PNG file.

    Raises:
        LatentBankError: matplotlib is not installed, or the file cannot be written.
    """
    ways = list(dict.fromkeys(effect.way for effect in found.effects))
    figure = new_figure(1.5 + 3.4 * len(ways), 3.8)
    for number, way in enumerate(ways):
        axes = figure.add_subplot(1, len(ways), number + 1, sharey=figure.axes[0] if number else None)
        for group, label, colour in _GROUPS:
            drawn = [effect for effect in found.effects if (effect.way, effect.group) == (way, group)]
            points = [(effect.layer, effect.word) for effect in drawn if effect.word is not None]
            at = [layer for layer, _ in points]
            axes.plot(at, [word.mean for _, word in points], marker=".", color=colour, label=label)
            low, high = [word.low for _, word in points], [word.high for _, word in points]
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_title(way)
        axes.set_xlabel("ablated from layer")
        if number == 0:
            axes.set_ylabel(f"log-probability of '{found.word}', change")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return save_figure(figure, path)
