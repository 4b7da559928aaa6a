"""The figure of two models compared: which layers are alike, and how much at the same depth."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbank.files import write_whole
from latentbank.query.evaluation.figures import need_matplotlib

if TYPE_CHECKING:
    from latentbank.query.evaluation.experiments.models import ModelsCompared

_MEASURES = (("neighbors", "neighbors in common, %"), ("cka", "CKA, %"))


def draw_models(compared: ModelsCompared, path: Path) -> Path:
    """Draw a comparison as a PNG file, and return its path.

    Two heat maps show every layer of the first model beside every layer of the second; the curves on the right show the
    layers at the same depth, with 95 % intervals, beside random weights.

    Raises:
        LatentBankError: matplotlib is not installed, or the file cannot be written.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.3), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    figure.suptitle(
        f"{compared.banks[0]} beside {compared.banks[1]}: {compared.contexts:,} contexts of {compared.words:,} words",
        fontsize=10,
    )
    for axis, (name, title) in zip(axes, _MEASURES, strict=False):
        _draw_pairs(axis, compared, name, title)
    _draw_depths(axes[2], compared)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return write_whole(path, buffer.getvalue())


def _draw_pairs(axis: Any, compared: ModelsCompared, name: str, title: str) -> None:
    layers, others = (
        list(dict.fromkeys(getattr(pair, side) for pair in compared.pairs)) for side in ("layer", "other")
    )
    values = np.array([100 * getattr(pair, name).value for pair in compared.pairs])
    values = values.reshape(len(layers), len(others))
    axis.imshow(values, cmap="viridis", vmin=0, vmax=100, origin="lower", aspect="auto")
    if values.size <= 400:
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > 60 else "white"
            axis.text(column, row, f"{value:.0f}", fontsize=6, color=colour, ha="center", va="center")
    axis.set_xticks(range(len(others)), [str(layer) for layer in others], fontsize=7)
    axis.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=7)
    axis.set_xlabel(f"layer of {compared.banks[1]}", fontsize=8)
    axis.set_ylabel(f"layer of {compared.banks[0]}", fontsize=8)
    axis.set_title(title, fontsize=9)


def _draw_depths(axis: Any, compared: ModelsCompared) -> None:
    lines = [("-", compared.banks[1], [compared.at(*pair) for pair in compared.depths])]
    if compared.random:
        lines.append(("--", "random weights", list(compared.random)))
    for style, label, pairs in lines:
        places = [pair.layer for pair in pairs]
        for colour, (name, _) in zip(("C0", "C1"), _MEASURES, strict=True):
            shares = [getattr(pair, name) for pair in pairs]
            what = "neighbors" if name == "neighbors" else "CKA"
            axis.plot(
                places,
                [100 * share.value for share in shares],
                style,
                color=colour,
                marker=".",
                label=f"{what}, {label}",
            )
            axis.fill_between(
                places,
                [100 * share.low for share in shares],
                [100 * share.high for share in shares],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
    axis.axhline(100 * compared.chance, color="0.7", linewidth=1)
    axis.set_ylim(min(0, axis.get_ylim()[0]), 103)
    axis.set_xlabel(f"layer of {compared.banks[0]}, beside the same depth", fontsize=8)
    axis.set_ylabel("% (gray: neighbors by chance)", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False)
