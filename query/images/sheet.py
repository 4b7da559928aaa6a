"""Ranked patches as one picture: a sheet of their images, each patch marked, its rank and name below."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from latentbank.files import write_whole
from latentbank.query.images.gallery import score_text
from latentbank.query.output.pictures import font_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentbank.bank.images.points import Patch
    from latentbank.query.images.results import RankedPatches

_SIDE, _GAP, _BELOW, _HEADING = 220, 12, 44, 40
_COLUMNS = 5
_QUIET = (95, 101, 110)
_MARK = (11, 87, 196)


def draw_sheet(found: RankedPatches) -> Image.Image:
    """Return an answer as a picture, RGB: five images in a row, the patches marked."""
    groups: list[Sequence[Patch]] = (
        list(found.images()) if found.by_image else [(patch,) for patch in found.patches]
    )
    rows = max(1, -(-len(groups) // _COLUMNS))
    columns = min(_COLUMNS, max(1, len(groups)))
    width = _GAP + columns * (_SIDE + _GAP)
    sheet = Image.new("RGB", (width, _HEADING + rows * (_SIDE + _BELOW + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), _shortened(found.question, font_of(20), width - 2 * _GAP), "black", font_of(20))
    for number, group in enumerate(groups):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), _HEADING + row * (_SIDE + _BELOW + _GAP)
        sheet.paste(_drawn(found.picture(group[0]), group), (left, top))
        name = _shortened(f"{number + 1}  {group[0].image}", font_of(14), _SIDE)
        draw.text((left, top + _SIDE + 4), name, "black", font_of(14))
        draw.text((left, top + _SIDE + 23), score_text(group[0]), _QUIET, font_of(12))
    return sheet


def save_sheet(found: RankedPatches, path: str | os.PathLike[str]) -> Path:
    """Write an answer as a PNG file, whole or not at all, and return its path.

    Raises:
        LatentBankError: the file cannot be written.
    """
    data = io.BytesIO()
    draw_sheet(found).save(data, "PNG")
    return write_whole(Path(path), data.getvalue())


def _drawn(picture: bytes | None, group: Sequence[Patch]) -> Image.Image:
    """Return an image in a square, darker but for its patches."""
    width, height = group[0].size
    scale = _SIDE / max(width, height, 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if picture is None:
        image = Image.new("RGB", size, (200, 205, 212))
    else:
        image = Image.open(io.BytesIO(picture)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    boxes = [_scaled(patch.box, scale) for patch in group if patch.box is not None]
    if boxes:
        dark = image.point([round(value * 0.6) for value in range(256)] * 3)
        for box in boxes:
            dark.paste(image.crop(box), box[:2])
        image, draw = dark, ImageDraw.Draw(dark)
        for left, top, right, bottom in boxes:
            corner = max(left, right - 1), max(top, bottom - 1)
            draw.rectangle((left, top, *corner), outline="white", width=4)
            draw.rectangle((left + 1, top + 1, corner[0] - 1, corner[1] - 1), outline=_MARK, width=2)
    square = Image.new("RGB", (_SIDE, _SIDE), (241, 243, 246))
    square.paste(image, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return square


def _scaled(box: tuple[float, float, float, float], scale: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, right, bottom


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text, cut to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
