"""Chameleon."""

from __future__ import annotations

import math

from latentbank.models.vision.families.llava import seen
from latentbank.models.vision.geometry import Picture, Places
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the shorter side is resized and the longer side cropped.

    Each token is a word of a visual vocabulary, so small changes of the pixels may not change it.
    """
    height, width = picture.inputs["pixel_values"].shape[-2:]
    return seen(picture, (width, height), height // math.isqrt(int(picture.processor.image_seq_length)))


FAMILY = Family("Chameleon", ("chameleon",), _places)
