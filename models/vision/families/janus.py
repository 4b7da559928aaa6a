"""Janus and DeepSeek-VL."""

from __future__ import annotations

import math

from latentbank.models.vision.geometry import Picture, Places, Unplaced, even, grid
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the image keeps its shape and is padded to a square, with the image in the middle.

    A very long strip is made wider than its shape asks for.
    """
    side = math.isqrt(int(picture.processor.num_image_tokens))
    scale = int(picture.setting("size")["height"]) / max(picture.size)
    smallest = int(picture.setting("min_size"))
    width, height = (max(round(length * scale), smallest) for length in picture.size)
    square = max(width, height)
    if not picture.setting("do_pad") and width != height:
        raise Unplaced
    edges = even(0, square, side)
    return grid(
        picture.size,
        (edges - (square - height) // 2) * picture.size[1] / height,
        (edges - (square - width) // 2) * picture.size[0] / width,
    )


FAMILY = Family("Janus", ("janus", "deepseek_vl"), _places)
