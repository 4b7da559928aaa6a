"""InternVL."""

from __future__ import annotations

import math
from collections.abc import Callable

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from latentbank.models.vision.geometry import Picture, Places, crops_then_whole
from latentbank.models.vision.registry import Family

Canvas = Callable[[tuple[int, int], tuple[int, int], int, int], tuple[int, int]]
"""From height and width of an image and of a crop, and the least and the most crops, to columns and rows of crops."""


def _places(picture: Picture) -> Places:
    """Return square crops of the stretched image, row by row, then the whole image."""
    return tiled(picture, math.isqrt(int(picture.processor.image_seq_length)))


def tiled(picture: Picture, side: int, canvas: Canvas = get_optimal_tiled_canvas) -> Places:
    """Return what the image processor of GOT-OCR 2, which several families use, makes of an image.

    These are square crops of the stretched image, row by row, then the whole image. If the image fits into a single
    crop, or is not to be cropped, there is the whole image only.

    Args:
        picture: the image.
        side: rows and columns of tokens in each tile.
        canvas: how a family's processor chooses the columns and rows of crops.
    """
    columns, rows = 1, 1
    if picture.setting("crop_to_patches"):
        size = picture.setting("size")
        columns, rows = canvas(
            picture.size[::-1],
            (int(size["height"]), int(size["width"])),
            int(picture.setting("min_patches")),
            int(picture.setting("max_patches")),
        )
    return crops_then_whole(picture.size, rows, columns, side, cropped=rows * columns > 1)


FAMILY = Family("InternVL", ("internvl", "qianfan_ocr"), _places)
