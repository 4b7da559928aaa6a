"""PaliGemma."""

from __future__ import annotations

import math

from latentbank.models.vision.geometry import Picture, Places, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a square."""
    side = math.isqrt(int(picture.processor.image_seq_length))
    return whole(picture.size, side, side)


FAMILY = Family("PaliGemma", ("paligemma",), _places)
