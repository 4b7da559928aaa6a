"""Pictures of image readings: the image with the best word of a lens on each patch."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from latentbank.errors import LatentBankError, QueryError
from latentbank.files import require_suffix, write_whole
from latentbank.query.output.grids import correction_of, lists_of, panels_of, shorten, told
from latentbank.values import Layers

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading, TokenReading

# Fonts for the words, those that cover the most scripts first; the first one that the system has is used.
_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf", "Arial.ttf")
_PATCH = 72  # smallest width of a patch in pixels, so that a word is legible
_LARGEST = 2400  # largest width and height of a panel in pixels
_FONT = 15
_MARGIN = 10
_HEADING = 26
_LIST_WIDTH, _LIST_LINES = 640, 12  # of words below an image, in pixels and lines
_LINE = 20  # height of a line of an answer
_SHADE = 150  # opacity of the dark bar behind a word, of 255


def draw_reading(
    reading: Reading,
    layers: Layers | None = None,
    lenses: str | Sequence[str] | None = None,
    tile: int | None = None,
) -> Image.Image:
    """Return a picture of an image's reading: a row for each visual layer, a column for each lens.

    Each patch has the best word on it. If no token has a place in a grid, the words stand below the image. So does the
    model's answer, if one was read: each token with its best word.

    Args:
        reading: of an image; it must still hold the image.
        layers: visual layers to draw; None: all.
        lenses: lenses to draw; None: all.
        tile: the tile whose tokens are drawn; None: the first (the whole image, if the model sees it whole), or of a
            video, a column for each step of time.

    Raises:
        QueryError: it is not the reading of an image, or has no such lens, layer or tile.
    """
    if reading.image is None and reading.duration is not None:
        raise QueryError("A sound has no picture: use save_plot, which draws its words over time.")
    drawn = panels_of(reading, layers, lenses, tile)
    panels = [
        [
            _with_answer(
                _panel(reading, tokens, layer, lens, shown)
                if shown is not None
                else _listed(reading, tokens, layer, lens),
                reading.around(layer, lens).get("answer", []),
            )
            for lens, shown, tokens in zip(drawn.lenses, drawn.tiles, row, strict=True)
        ]
        for layer, row in zip(drawn.layers, drawn.tokens, strict=True)
    ]
    width = panels[0][0].width
    height = max(panel.height for row in panels for panel in row)
    page = Image.new(
        "RGB",
        (
            _MARGIN + (width + _MARGIN) * len(panels[0]),
            _MARGIN + (height + _MARGIN) * len(panels),
        ),
        "white",
    )
    for down, row in enumerate(panels):
        for across, panel in enumerate(row):
            page.paste(panel, (_MARGIN + across * (width + _MARGIN), _MARGIN + down * (height + _MARGIN)))
    return page


def save_reading(
    reading: Reading,
    path: str | os.PathLike[str],
    layers: Layers | None = None,
    lenses: str | Sequence[str] | None = None,
    tile: int | None = None,
) -> Path:
    """Write the picture of `draw_reading` as a PNG file, whole or not at all, and return its path.

    Raises:
        QueryError: as for `draw_reading`, or the path has the suffix of another format.
        LatentBankError: the file cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_image(bank, vlm, "cat.jpg", layers=[0, 8])
        >>> path = lb.save_reading(reading, "cat.png")
    """
    require_suffix(Path(path), (".png",), "A reading is drawn as PNG")
    return write_whole(Path(path), png_bytes(draw_reading(reading, layers, lenses, tile)))


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _listed(reading: Reading, tokens: Sequence[TokenReading], layer: int, lens: str) -> Image.Image:
    """Return a panel of tokens that stand in no grid: the image, and below it their words in order."""
    assert reading.image is not None
    scale = min(_LIST_WIDTH / reading.image.width, _LARGEST / reading.image.height)
    size = max(1, round(reading.image.width * scale)), max(1, round(reading.image.height * scale))
    lines = [f"{lens} lens, visual layer {layer}{_corrected(reading, tokens)}"]
    for heading, words in lists_of(tokens):
        lines += [f"{heading}:", *_wrapped(words)]
    panel = Image.new("RGB", (_LIST_WIDTH, size[1] + _HEADING * len(lines)), "white")
    draw = ImageDraw.Draw(panel)
    for number, line in enumerate(lines):
        top = 3 if number == 0 else size[1] + _HEADING * number + 3
        draw.text((2, top), line, "black", font_of(_FONT + (2 if number == 0 else 0)))
    panel.paste(reading.image.resize(size, Image.Resampling.LANCZOS), (0, _HEADING))
    return panel


def _wrapped(words: Sequence[str]) -> list[str]:
    """Return words as lines that fit below an image; an ellipsis stands for those that do not."""
    font = font_of(_FONT)
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _LIST_WIDTH - 20 or not lines[-1]:
            lines[-1] = longer
        elif len(lines) == _LIST_LINES:
            lines[-1] += " …"
            break
        else:
            lines.append(word)
    return lines


def _panel(reading: Reading, tokens: Sequence[TokenReading], layer: int, lens: str, tile: int) -> Image.Image:
    image = reading.frame(tile)
    assert image is not None
    width, height = image.size
    narrowest = min(t.place.box[2] - t.place.box[0] for t in tokens if t.place and t.place.box)
    scale = min(_PATCH / max(narrowest, 1e-6), _LARGEST / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    panel = Image.new("RGB", (size[0], size[1] + _HEADING), "white")
    heading = f"{lens} lens, visual layer {layer}" + (
        f", {reading.tile_name(tile)}" if tile or reading.frames else ""
    )
    heading += _corrected(reading, tokens)
    ImageDraw.Draw(panel).text((2, 3), heading, "black", _heading_font(heading, size[0] - 4))
    words = image.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    over = Image.new("RGBA", size)
    draw = ImageDraw.Draw(over)
    for token in tokens:
        _write(draw, token, scale)
    panel.paste(Image.alpha_composite(words, over).convert("RGB"), (0, _HEADING))
    return panel


def _heading_font(heading: str, width: int) -> ImageFont.FreeTypeFont:
    """Return the largest font in which a heading fits above a narrow image, but none below 8 pixels."""
    sizes = range(_FONT + 2, 7, -1)
    return next((font for size in sizes if (font := font_of(size)).getlength(heading) <= width), font_of(8))


def _corrected(reading: Reading, tokens: Sequence[TokenReading]) -> str:
    """Return what a heading says of the correction."""
    made = correction_of(reading, tokens)
    return f", corrected: {made}" if made else ""


def _with_answer(panel: Image.Image, answer: Sequence[TokenReading]) -> Image.Image:
    """Return a panel with the tokens of an answer and their best words below it, in lines that fit."""
    font = font_of(_FONT)
    lines: list[str] = []
    for item in map(told, answer):
        longer = f"{lines[-1]}   {item}" if lines else item
        if lines and font.getlength(longer) <= panel.width - 4:
            lines[-1] = longer
        else:
            lines.append(item)
    if not lines:
        return panel
    taller = Image.new("RGB", (panel.width, panel.height + _HEADING + _LINE * len(lines)), "white")
    taller.paste(panel, (0, 0))
    draw = ImageDraw.Draw(taller)
    draw.text((2, panel.height + 5), "answer, each token → its best word", (90, 90, 90), font)
    for number, line in enumerate(lines):
        draw.text((2, panel.height + _HEADING + _LINE * number), line, "black", font)
    return taller


def _write(draw: ImageDraw.ImageDraw, token: TokenReading, scale: float) -> None:
    """Draw a frame around a token's patch and its best word in the middle, on a dark translucent bar."""
    assert token.place is not None
    assert token.place.box is not None
    left, top, right, bottom = (edge * scale for edge in token.place.box)
    corner = max(left, right - 1), max(top, bottom - 1)  # a patch may be thinner than a pixel
    draw.rectangle((left, top, *corner), outline=(255, 255, 255, 110))
    if not token.neighbors:
        return
    word = shorten(token.neighbors[0].word, 40)
    font, text = _fit(word, right - left - 4, bottom - top)
    if font is None:
        return
    x0, y0, x1, y1 = font.getbbox(text)
    x, y = (left + right - (x1 - x0)) / 2, (top + bottom - (y1 - y0)) / 2
    draw.rectangle((x - 2, y - 2, x + x1 - x0 + 2, y + y1 - y0 + 2), fill=(0, 0, 0, _SHADE))
    draw.text((x - x0, y - y0), text, "white", font)


def _fit(word: str, width: float, height: float) -> tuple[ImageFont.FreeTypeFont | None, str]:
    """Return the largest font in which a word fits into a patch, and the word.

    A word that does not fit in the smallest font is cut. The font is None if the patch is too low for any word.
    """
    for size in range(min(_FONT, int(height) - 2), 8, -1):
        font = font_of(size)
        if font.getlength(word) <= width:
            return font, word
    if height < 9:
        return None, word
    font = font_of(9)
    while word and font.getlength(word + "…") > width:
        word = word[:-1]
    return font, word + "…"


@lru_cache(maxsize=32)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Return a font of a size in pixels that has as many scripts as this system offers.

    Raises:
        LatentBankError: Pillow has no FreeType.
    """
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    font = ImageFont.load_default(size)  # Pillow's own, which has Latin letters only
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise LatentBankError(
            "This build of Pillow has no FreeType, so it cannot draw words: reinstall pillow."
        )
    return font
