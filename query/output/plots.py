"""Figures of image readings for papers, drawn by matplotlib: words on patches over a heat map with a colour bar."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.errors import QueryError
from latentbank.files import write_whole
from latentbank.query.evaluation.figures import need_matplotlib
from latentbank.query.lenses.registry import score_of, title_of
from latentbank.query.output.fonts import fonts_for, quiet_about_glyphs
from latentbank.query.output.grids import choose_tile, correction_of, panels_of, shorten, told_lines
from latentbank.query.output.timelines import SIZE, draw_sound, is_sound, sound_tokens
from latentbank.values import Layers

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading, TokenReading

FORMATS = ("png", "pdf", "svg")
_SIDE = 3.4  # longer side of an image, in inches
_LARGEST, _SMALLEST = 9.0, 3.5  # font sizes of a word, in points
_TOLD = 7.0  # font size of the tokens of an answer, in points
_LETTER = 0.62  # width of a letter, relative to the font size
_SETTINGS: Any = {
    "pdf.fonttype": 42,
    "svg.hashsalt": "latentbank",
}  # text stays text; the same figure, the same file


def plot_reading(
    reading: Reading,
    layer: int | None = None,
    lens: str | None = None,
    tile: int | None = None,
    axis: Any = None,
    *,
    words: bool = True,
    heat: bool = True,
) -> Any:
    """Draw one layer of an image's, video's or sound's reading into a matplotlib axis.

    A sound has no patches: its scores are bars over time, with the words above.

    Args:
        reading: of an image; it must still hold the image.
        layer: the visual layer; None: the first.
        lens: None: the first.
        tile: the tile whose tokens are drawn; None: the first. Of a video, a tile is a step of time.
        axis: the axis to draw into; None: the axis of a new figure of pyplot.
        words: write the best word on each patch, and the tokens of the model's answer below with theirs.
        heat: colour each patch by its best score (cosine, LogitLens's probability, or the corrected score), with a
            colour bar.

    Returns:
        The axis.

    Raises:
        QueryError: it is not the reading of an image, or has no such lens, layer or tile.
        LatentBankError: matplotlib is not installed.
    """
    chosen = reading.layers[0] if layer is None else layer
    name = lens or reading.lenses[0]
    sound = is_sound(reading)
    tokens = (
        sound_tokens(reading, chosen, name)
        if sound
        else reading.patches(chosen, name, choose_tile(reading, tile))
    )
    need_matplotlib()
    if axis is None:
        from matplotlib import pyplot

        axis = pyplot.subplots(figsize=_size(reading, 1, 1), layout="constrained")[1]
    _draw(axis, reading, tokens, chosen, name, words=words, heat=heat)
    return axis


def save_plot(
    reading: Reading,
    path: str | os.PathLike[str],
    layers: Layers | None = None,
    lenses: str | Sequence[str] | None = None,
    tile: int | None = None,
) -> Path:
    """Write a figure of an image's reading: a row for each visual layer, a column for each lens.

    Args:
        reading: of an image; it must still hold the image.
        path: the file; its suffix says the format: .png (200 dots per inch), .pdf or .svg.
        layers: visual layers to draw; None: all.
        lenses: lenses to draw; None: all.
        tile: as for `plot_reading`; None: of a video, a column for each step of time.

    Raises:
        QueryError: as for `plot_reading`, or the path has another suffix.
        LatentBankError: matplotlib is not installed, or the file cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_image(bank, vlm, "cat.jpg", layers=[0, 8])
        >>> path = lb.save_plot(reading, "cat.pdf")
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise QueryError(f"{path} has no suffix of a figure; use .png, .pdf or .svg.")
    if not is_sound(reading):
        choose_tile(reading, tile)  # words without a place are not drawn here
    panels = panels_of(reading, layers, lenses, tile)
    rows, columns = panels.layers, panels.lenses
    need_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=_size(reading, len(rows), len(columns)), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for down, layer in enumerate(rows):
        for across, lens in enumerate(columns):
            _draw(
                axes[down][across], reading, panels.tokens[down][across], layer, lens, words=True, heat=True
            )
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS), quiet_about_glyphs():
        # Without a date, the same reading gives the same file.
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        figure.savefig(buffer, format=kind, dpi=200, metadata=undated.get(kind))
    return write_whole(Path(path), buffer.getvalue())


def _size(reading: Reading, rows: int, columns: int) -> tuple[float, float]:
    """Return width and height of a figure in inches, with room for titles, colour bars and the model's answer."""
    width, height = _panel(reading)
    lines = max(
        len(_answer_lines(reading, layer, lens)) for layer in reading.layers for lens in reading.lenses
    )
    return max(2.0, width + 0.8) * columns, (max(1.2, height + 0.4) + 1.3 * _TOLD * lines / 72) * rows


def _panel(reading: Reading) -> tuple[float, float]:
    """Return width and height of the image in a panel, in inches; of a sound, those of its time axis."""
    if is_sound(reading):
        return SIZE
    assert reading.size is not None
    width, height = reading.size
    scale = _SIDE / max(width, height)
    return width * scale, height * scale


def _draw(
    axis: Any,
    reading: Reading,
    tokens: Sequence[TokenReading],
    layer: int,
    lens: str,
    *,
    words: bool,
    heat: bool,
) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    lines = _answer_lines(reading, layer, lens) if words else []
    fonts = fonts_for("".join([*lines, *(token.neighbors[0].word for token in tokens if token.neighbors)]))
    if is_sound(reading):
        draw_sound(axis, reading, tokens, layer, lens, words=words, fonts=fonts)
        if lines:
            axis.set_xlabel(
                "\n".join(["seconds", *lines]), fontsize=_TOLD, fontfamily=fonts, parse_math=False
            )
        return
    image = reading.frame(tokens[0].place.tile if tokens[0].place else None)
    assert image is not None
    assert reading.size is not None
    width, height = reading.size
    axis.imshow(image, extent=(0, width, height, 0), interpolation="none")
    drawn = [token for token in tokens if token.neighbors]
    made = correction_of(reading, drawn)
    boxes = [token.place.box for token in drawn if token.place is not None and token.place.box is not None]
    patches = [Rectangle((left, top), right - left, bottom - top) for left, top, right, bottom in boxes]
    if patches:
        frames = PatchCollection(patches, edgecolor=(1, 1, 1, 0.5), linewidth=0.4, facecolor="none")
        if heat:
            frames = PatchCollection(
                patches, edgecolor=(1, 1, 1, 0.5), linewidth=0.4, cmap="viridis", alpha=0.55
            )
            frames.set_array([token.neighbors[0].score for token in drawn])
            scale = f"best {'corrected score' if made else score_of(lens)}"
            axis.figure.colorbar(frames, ax=axis, label=scale, fraction=0.046, pad=0.02)
        axis.add_collection(frames)
    if words:
        inch = _SIDE / max(width, height)
        for token, box in zip(drawn, boxes, strict=True):
            _write(axis, token.neighbors[0].word, box, 72 * inch, fonts)
    step = reading.tile_name(tokens[0].place.tile) if reading.frames and tokens[0].place else ""
    told = [f"{title_of(lens)}, visual layer {layer}", step, f"corrected: {made}" if made else ""]
    axis.set_title(", ".join(filter(None, told)), fontsize=9)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    if lines:
        # A word such as $x$ is not a formula.
        axis.set_xlabel("\n".join(lines), fontsize=_TOLD, fontfamily=fonts, loc="left", parse_math=False)


def _answer_lines(reading: Reading, layer: int, lens: str) -> list[str]:
    """Return the tokens of the model's answer with their best words, in lines as wide as the image's panel."""
    answer = reading.around(layer, lens).get("answer", [])
    return told_lines(answer, int(72 * _panel(reading)[0] / (_LETTER * _TOLD)))


def _write(
    axis: Any, word: str, box: tuple[float, float, float, float], scale: float, fonts: list[str]
) -> None:
    """Draw a word on a patch, as large as it fits; `scale` is the number of points per pixel of the image."""
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = box
    width, height = (right - left) * scale, (bottom - top) * scale
    text = shorten(word, 40)
    size = min(_LARGEST, 0.6 * height, width / (_LETTER * max(1, len(text))))
    if size < _SMALLEST:
        size = min(_SMALLEST, 0.6 * height)
        text = shorten(word, max(2, int(width / (_LETTER * size)))) if size > 0 else ""
    if not text or size < 1:
        return
    axis.text(
        (left + right) / 2,
        (top + bottom) / 2,
        text,
        fontsize=size,
        fontfamily=fonts,
        color="white",
        ha="center",
        va="center",
        parse_math=False,  # a word such as $x$ is not a formula
        path_effects=[withStroke(linewidth=1.2, foreground="black")],
    )
