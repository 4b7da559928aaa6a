"""Charts of the report, drawn by matplotlib: one small chart each, as SVG, so that they fit a phone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.query.evaluation.figures import need_matplotlib

Line = tuple[Sequence[float], Sequence[float]]
"""Places and values."""

_SIZE = (4.6, 3.1)  # inches; the width of a phone at 100 %
_OTHERS = "#9aa0a6"


def lines(
    own: Mapping[str, Line],
    others: Mapping[str, Line],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    bands: Mapping[str, Line] | None = None,
    unit: float = 1.0,
) -> str:
    """Return a chart of lines as SVG.

    Args:
        own: lines with colours and a legend.
        others: published lines, thin and gray, with one entry in the legend.
        x: the horizontal axis's label.
        y: the vertical axis's label.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        bands: lower and upper ends of intervals by the names of lines.
        unit: values are multiplied by it; 100 for percent.
    """
    figure, axes = _axes()
    for number, (places, values) in enumerate(others.values()):
        label = "published" if number == 0 else None
        axes.plot(places, np.multiply(values, unit), color=_OTHERS, linewidth=0.8, label=label, zorder=1)
    for number, (name, (places, values)) in enumerate(own.items()):
        colour = f"C{number}"
        axes.plot(places, np.multiply(values, unit), marker=".", color=colour, label=name, zorder=3)
        if bands and name in bands:
            low, high = (np.multiply(end, unit) for end in bands[name])
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if bands is None else 0)
    _label(axes, x, y)
    if own or others:
        axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def stacked(places: Sequence[int], shares: Mapping[str, Sequence[float]], *, x: str, y: str) -> str:
    """Return a chart of stacked bars as SVG; `shares` hold a value for each place."""
    figure, axes = _axes(right=0.72)
    below = np.zeros(len(places))
    for number, (name, values) in enumerate(shares.items()):
        heights = 100 * np.asarray(values)
        axes.bar([str(place) for place in places], heights, bottom=below, color=f"C{number % 10}", label=name)
        below += heights
    _label(axes, x, y)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def heat_map(
    values: npt.NDArray[np.float64], rows: Sequence[int], columns: Sequence[int], *, x: str, y: str
) -> str:
    """Return a heat map of shares from 0 to 1 as SVG, with each share in percent; the first row is below."""
    figure, axes = _axes()
    axes.pcolormesh(values, cmap="viridis", vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
    for (row, column), value in np.ndenumerate(values):
        if value >= 0.005:
            colour = "black" if value > 0.6 else "white"
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color=colour,
            )
    axes.set_xticks(np.arange(len(columns)) + 0.5, [str(column) for column in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [str(row) for row in rows])
    _label(axes, x, y)
    return _svg(figure)


def _axes(right: float = 0.97) -> tuple[Any, Any]:
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    figure.subplots_adjust(left=0.14, right=right, bottom=0.16, top=0.96)
    return figure, figure.add_subplot()


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text as text, and the same file from the same numbers.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "latentbank"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
