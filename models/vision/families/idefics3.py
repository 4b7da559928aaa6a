"""Idefics3 and SmolVLM."""

from __future__ import annotations

import math

from latentbank.models.vision.geometry import Picture, Places, Size, crops_then_whole
from latentbank.models.vision.registry import Family

_LARGEST = 4096  # Idefics3's processor never makes a side longer than this.


def _places(picture: Picture) -> Places:
    """Return square crops of the stretched image, row by row, then the whole image.

    If the image is small, there is the whole image only.
    """
    images = picture.processor.image_processor
    side = math.isqrt(int(picture.processor.image_seq_len))
    crop = int(images.max_image_size["longest_edge"])
    width, height = picture.size
    if images.do_resize:
        width, height = _with_longer_side(picture.size, int(images.size["longest_edge"]), even_sides=True)
        if max(width, height) > _LARGEST:
            width, height = _with_longer_side((width, height), _LARGEST)
    rows = columns = 1
    if images.do_image_splitting:
        # The longer side becomes a multiple of the crop first; the shorter side is derived from it.
        if width >= height:
            columns = math.ceil(width / crop)
            rows = math.ceil(int(columns * crop / (width / height)) / crop)
        else:
            rows = math.ceil(height / crop)
            columns = math.ceil(int(rows * crop * (width / height)) / crop)
    return crops_then_whole(picture.size, rows, columns, side, cropped=rows * columns > 1)


def _with_longer_side(size: Size, longest: int, even_sides: bool = False) -> Size:
    """Return the size whose longer side is `longest`; the shorter side is rounded down, or made even."""
    width, height = size
    shape = width / height
    other = int(longest / shape if width >= height else longest * shape)
    other = max(other + (other % 2 if even_sides else 0), 1)
    return (longest, other) if width >= height else (other, longest)


FAMILY = Family("Idefics3", ("idefics3", "smolvlm"), _places)
