"""The picture of a followed token: its words layer by layer, and beside them how far it drifts."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.errors import QueryError
from latentbank.files import write_whole
from latentbank.query.evaluation.figures import need_matplotlib
from latentbank.query.lenses.registry import score_of, title_of
from latentbank.query.output.fonts import fonts_for, quiet_about_glyphs
from latentbank.query.output.grids import shorten
from latentbank.query.reading.reading import excerpt

if TYPE_CHECKING:
    from latentbank.query.following.followed import Followed, Step

FORMATS = ("png", "svg", "pdf", "html")
_ROW, _CELL, _WORD = 0.25, 0.92, 12  # inches of a layer's row and of a word's cell, and letters of a word
_IMAGE, _CURVES = 2.6, 2.3  # inches
_LEAST = 2.4  # inches of the whole picture's height
_SETTINGS: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "latentbank"}
_LINES = (
    ("previous", "layer before", "C0", "-"),
    ("first", "first layer", "C1", "-"),
    ("centred_previous", "layer before, centred", "C0", ":"),
    ("centred_first", "first layer, centred", "C1", ":"),
)


def save_followed(followed: Followed, path: Path) -> Path:
    """Write a picture of a followed token, or a page with the picture and a table, and return its path.

    Layers go down. Each has the best words of every lens, coloured by their scores, and the cosines of the drift.

    Args:
        followed: the token.
        path: the file; its suffix says the format: .png, .svg, .pdf or .html.

    Raises:
        QueryError: the path has another suffix.
        LatentBankError: matplotlib is not installed, or the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise QueryError(f"{path} has no suffix of a picture; use .png, .svg, .pdf or .html.")
    if kind == "html":
        return write_whole(path, _page(followed).encode())
    return write_whole(path, draw_followed(followed, kind))


def draw_followed(followed: Followed, kind: str) -> bytes:
    """Return the picture of a followed token as a file: "png", "svg" or "pdf".

    Raises:
        LatentBankError: matplotlib is not installed.
    """
    need_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    words = [one.word for step in followed.steps for found in step.neighbors.values() for one in found]
    fonts = fonts_for("".join([followed.title, *words]))
    columns = {
        lens: max(1, max(len(step.neighbors[lens]) for step in followed.steps)) for lens in followed.lenses
    }
    widths = [_CELL * count for count in columns.values()] + [_CURVES]
    if followed.image is not None:
        widths.insert(0, _IMAGE)
    height = max(_LEAST, _ROW * len(followed.steps) + 1.3)
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS), quiet_about_glyphs():
        figure = Figure(figsize=(sum(widths) + 0.8, height), layout="constrained")
        axes = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
        figure.suptitle(
            shorten(followed.title, int(11 * sum(widths))), fontsize=9, fontfamily=fonts, parse_math=False
        )
        if followed.image is not None:
            _draw_image(axes.pop(0), followed)
        for lens, axis in zip(followed.lenses, axes[:-1], strict=True):
            _draw_words(axis, followed, lens, columns[lens], fonts)
        _draw_drift(axes[-1], followed)
        undated: Any = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        figure.savefig(buffer, format=kind, dpi=160, metadata=undated.get(kind))
    return buffer.getvalue()


def _draw_image(axis: Any, followed: Followed) -> None:
    """Draw the image with a frame around the token's patch."""
    from matplotlib.patches import Rectangle

    assert followed.image is not None
    width, height = followed.image.size
    axis.imshow(followed.image, extent=(0, width, height, 0))
    if followed.place is not None and followed.place.box is not None:
        left, top, right, bottom = followed.place.box
        for colour, line in (("black", 3.5), ("white", 1.8)):
            frame = Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=line
            )
            axis.add_patch(frame)
    axis.set(xticks=[], yticks=[], anchor="N")


def _draw_words(axis: Any, followed: Followed, lens: str, columns: int, fonts: list[str]) -> None:
    """Draw a lens's words: a row for each layer, a cell for each word, darker the higher its score."""
    import numpy as np

    scores = np.full((len(followed.steps), columns), np.nan)
    for row, step in enumerate(followed.steps):
        for column, one in enumerate(step.neighbors[lens]):
            scores[row, column] = one.score
    low, high = float(np.nanmin(scores, initial=1)), float(np.nanmax(scores, initial=0))
    axis.imshow(scores, cmap="Blues", aspect="auto", vmin=low - (high - low) / 3, vmax=high, alpha=0.9)
    for row, step in enumerate(followed.steps):
        for column, one in enumerate(step.neighbors[lens]):
            dark = high > low and scores[row, column] > low + 0.55 * (high - low)
            axis.text(
                column,
                row,
                shorten(one.word, _WORD),
                fontsize=7,
                fontfamily=fonts,
                color="white" if dark else "black",
                ha="center",
                va="center",
                parse_math=False,
            )
    axis.set_xticks([])
    axis.set_yticks(range(len(followed.steps)), [str(layer) for layer in followed.layers], fontsize=7)
    axis.set_ylabel("layer", fontsize=8)
    axis.set_title(title_of(lens), fontsize=9)
    axis.set_xlabel(f"nearest words; {score_of(lens)} {low:.2f} to {high:.2f}", fontsize=7)


def _draw_drift(axis: Any, followed: Followed) -> None:
    """Draw the cosines of the drift beside the layers that they belong to."""
    for name, label, colour, style in _LINES:
        values = [getattr(step.drift, name) for step in followed.steps]
        rows = [row for row, value in enumerate(values) if value is not None]
        if rows:
            axis.plot(
                [values[row] for row in rows],
                rows,
                color=colour,
                linestyle=style,
                marker=".",
                markersize=4,
                linewidth=1.2,
                label=label,
            )
    axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axis.set(ylim=(len(followed.steps) - 0.5, -0.5), yticks=[])
    axis.tick_params(labelsize=7)
    axis.set_title("cosine with itself at the …", fontsize=9)
    if axis.get_legend_handles_labels()[0]:
        below = -0.3 / max(_LEAST - 1.3, _ROW * len(followed.steps))  # a third of an inch: below the numbers
        axis.legend(fontsize=6, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, below))


def _page(followed: Followed) -> str:
    """Return a page that needs nothing else: the picture, and a table with the captions of the nearest contexts."""
    picture = draw_followed(followed, "svg").decode()
    picture = picture[picture.index("<svg") :]
    rows = "\n".join(_row(step, lens, followed) for step in followed.steps for lens in followed.lenses)
    title = html.escape(followed.title)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem }}
figure {{ margin: 0; overflow-x: auto; background: #fff }} svg {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse }} td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }}
tr {{ border-top: 1px solid #8884 }} mark {{ background: #ffe08a; color: #000 }} div {{ overflow-x: auto }}
:root {{ color-scheme: light dark }}
</style>
<h1>{title}</h1>
<p>{html.escape(followed.model)}{", bank " + html.escape(followed.bank) if followed.bank else ""}. Layers go down; \
words are darker the higher their score. The curves show the cosine of the hidden state with itself at the layer \
before and at the first layer; dotted: without the mean {html.escape(followed.means)}.</p>
<figure role="img" aria-label="Words and drift of {title}, layer by layer; the table below says the same">
{picture}</figure>
<div><table><tr><th>layer<th>lens<th>cosine with the layer before<th>nearest words<th>nearest context</tr>
{rows}</table></div>
</html>
"""


def _row(step: Step, lens: str, followed: Followed) -> str:
    found = step.neighbors[lens]
    words = ", ".join(f"{html.escape(one.word)} {one.score:.2f}" for one in found)
    caption = ""
    if found and found[0].caption:
        caption = (
            html.escape(excerpt(found[0], 90, "\0", "\1")).replace("\0", "<mark>").replace("\1", "</mark>")
        )
    before = "" if step.drift.previous is None else f"{step.drift.previous:.3f}"
    if step.drift.previous is None and step.drift.centred_previous is not None:
        before = f"{step.drift.centred_previous:.3f} (centred)"
    name = title_of(lens) if len(followed.lenses) > 1 or lens != "latent" else "LatentLens"
    return f"<tr><td>{step.layer}<td>{name}<td>{before}<td>{words}<td>{caption}</tr>"
