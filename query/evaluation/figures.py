"""Figures of evaluations, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.errors import LatentBankError
from latentbank.files import write_whole
from latentbank.query.lenses.registry import lens_classes, title_of

if TYPE_CHECKING:
    from latentbank.query.evaluation.scoring import Share
    from latentbank.query.evaluation.tables import Evaluation, Weights


def draw_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw an evaluation's figures as PNG files, and return their paths.

    `shares.png` shows the share of patches that each lens names, by visual layer, with its controls. `first.png` shows
    in which bank layer the nearest neighbor lies, by visual layer; it needs a lens with a bank. `bank-layers.png` shows
    the share that each bank layer names alone, at the visual layers where bank layers were searched alone.

    Raises:
        LatentBankError: matplotlib is not installed, or the folder cannot be written.
    """
    drawn = [draw_shares(evaluation, folder / "shares.png")]
    if evaluation.alignment:
        drawn.append(draw_first(evaluation, folder / "first.png"))
    if any(entry.named for entry in evaluation.alignment):
        drawn.append(draw_bank_layers(evaluation, folder / "bank-layers.png"))
    return drawn


def draw_shares(evaluation: Evaluation, path: Path) -> Path:
    """Draw the share of object patches named, by visual layer: by neighbors, and by distinct words."""
    figure = new_figure(11, 4.2)
    for number, distinct in enumerate((False, True)):
        axes = figure.add_subplot(1, 2, number + 1)
        for row in evaluation.rows:
            if row.layer != evaluation.about["visual_layers"][0] or row.distinct != distinct:
                continue
            rows = [
                evaluation.row(row.lens, layer, projector=row.projector, images=row.images, distinct=distinct)
                for layer in evaluation.about["visual_layers"]
            ]
            true = (row.projector, row.images) == ("trained", "true")
            label = title_of(row.lens)
            if not true:
                label += ", random projector" if row.projector == "random" else ""
                label += ", shuffled images" if row.images == "shuffled" else ""
            style = {("trained", "true"): "-", ("trained", "shuffled"): ":", ("random", "true"): "--"}
            if (row.projector, row.images) in style:
                _line(
                    axes,
                    evaluation.about["visual_layers"],
                    [row.concrete for row in rows],
                    label=label,
                    color=_lens_colour(row.lens),
                    linestyle=style[row.projector, row.images],
                    band=true,
                )
        axes.set_title(f"first five {'distinct words' if distinct else 'neighbors'}{_corrected(evaluation)}")
        axes.set_xlabel("visual layer")
        axes.set_ylabel("object patches named, %")
        axes.set_ylim(bottom=0)
    _legend(figure)
    return save_figure(figure, path)


def draw_bank_layers(evaluation: Evaluation, path: Path) -> Path:
    """Draw what each bank layer names alone, and its mean cosine, at the visual layers where it was searched alone."""
    figure = new_figure(11, 4.2)
    layers = list(
        dict.fromkeys(entry.visual_layer for entry in evaluation.alignment if entry.named is not None)
    )
    for number, (what, title) in enumerate(
        (("named", "object patches named, %"), ("cosine", "mean cosine of the nearest neighbor"))
    ):
        axes = figure.add_subplot(1, 2, number + 1)
        for place, layer in enumerate(layers):
            colour = _shade(place, len(layers))
            for projector in ("trained", "random"):
                found = [
                    entry
                    for entry in evaluation.alignment
                    if (entry.projector, entry.visual_layer) == (projector, layer) and entry.named is not None
                ]
                if not found:
                    continue
                at = [entry.bank_layer for entry in found]
                style = "-" if projector == "trained" else "--"
                label = f"visual layer {layer}" + (", random projector" if projector == "random" else "")
                if what == "cosine":
                    axes.plot(
                        at, [entry.cosine for entry in found], style, marker=".", color=colour, label=label
                    )
                else:
                    shares = [entry.named for entry in found if entry.named is not None]
                    _line(axes, at, shares, label=label, color=colour, linestyle=style, band=len(layers) == 1)
        axes.set_xlabel(f"bank layer, searched alone{_corrected(evaluation)}")
        axes.set_ylabel(title)
        if what == "named":
            axes.set_ylim(bottom=0)
    _legend(figure)
    return save_figure(figure, path)


def draw_first(evaluation: Evaluation, path: Path) -> Path:
    """Draw in which bank layer the nearest neighbor of a patch lies, by visual layer, for both projectors."""
    projectors: list[Weights] = ["trained", "random"]
    figure = new_figure(11, 4.2)
    for number, projector in enumerate(projectors):
        found = [entry for entry in evaluation.alignment if entry.projector == projector]
        if not found:
            continue
        axes = figure.add_subplot(1, 2, number + 1)
        layers = list(dict.fromkeys(entry.visual_layer for entry in found))
        bank_layers = list(dict.fromkeys(entry.bank_layer for entry in found))
        below = [0.0] * len(layers)
        for place, bank_layer in enumerate(bank_layers):
            heights = [100 * entry.first for entry in found if entry.bank_layer == bank_layer]
            axes.bar(
                [str(layer) for layer in layers],
                heights,
                bottom=below,
                color=_shade(place, len(bank_layers)),
                label=f"bank layer {bank_layer}",
            )
            below = [low + height for low, height in zip(below, heights, strict=True)]
        axes.set_title(f"{projector} projector{_corrected(evaluation)}")
        axes.set_xlabel("visual layer")
        axes.set_ylabel("nearest neighbor's bank layer, % of object patches")
    _legend(figure)
    return save_figure(figure, path)


def draw_compared(compared: Sequence[tuple[str, Evaluation]], path: Path, lens: str = "latent") -> Path:
    """Draw the share that a lens names by visual layer in several evaluations, and its means beside them."""
    figure = new_figure(11, 4.2)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for place, (label, evaluation) in enumerate(compared):
        colour = _shade(place, len(compared))
        layers = evaluation.about["visual_layers"]
        shares = [evaluation.row(lens, layer).concrete for layer in layers]
        _line(left, layers, shares, label=label, color=colour, linestyle="-", band=True)
        mean = evaluation.row(lens).concrete
        errors = [[100 * (mean.value - mean.low)], [100 * (mean.high - mean.value)]]
        right.barh([label], [100 * mean.value], xerr=errors, color=colour, capsize=3)
    left.set_xlabel("visual layer")
    left.set_ylabel(f"object patches named by {title_of(lens)}, %")
    left.set_ylim(bottom=0)
    right.set_xlabel("mean over the visual layers, %")
    right.invert_yaxis()
    _legend(figure)
    return save_figure(figure, path)


def _corrected(evaluation: Evaluation) -> str:
    """Return what a figure says of the correction."""
    mode = evaluation.about.get("correction")
    return f", corrected: {mode}" if mode else ""


def _legend(figure: Any) -> None:
    """Add one legend for all axes below them, where it covers no line."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = min(len(labels), 4)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _line(
    axes: Any,
    at: Sequence[int],
    shares: Sequence[Share],
    *,
    label: str,
    color: Any,
    linestyle: str,
    band: bool,
) -> None:
    values = [100 * share.value for share in shares]
    (line,) = axes.plot(at, values, linestyle=linestyle, marker=".", color=color, label=label)
    if band:
        low, high = [100 * share.low for share in shares], [100 * share.high for share in shares]
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def need_matplotlib() -> None:
    """Check that figures can be drawn. Call it before computing anything for them.

    Raises:
        LatentBankError: matplotlib is not installed.
    """
    try:
        import_module("matplotlib")
    except ImportError:
        raise LatentBankError("Figures need matplotlib: install matplotlib.") from None


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of a size in inches; raises LatentBankError without matplotlib."""
    need_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _lens_colour(lens: str) -> str | None:
    """Return matplotlib's colour of a lens, which is the same in every figure."""
    names = list(lens_classes())
    return f"C{names.index(lens)}" if lens in names else None


def _shade(place: int, of: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * place / max(1, of - 1))


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure as a PNG file, whole or not at all, and return its path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return write_whole(path, buffer.getvalue())
