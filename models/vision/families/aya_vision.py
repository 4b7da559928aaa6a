"""Aya Vision."""

from __future__ import annotations

from latentbank.models.vision.families.internvl import tiled
from latentbank.models.vision.geometry import Picture, Places
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return InternVL's crops, then the whole image; the processor's patch size is that of a token."""
    return tiled(picture, int(picture.processor.img_size) // int(picture.processor.patch_size))


FAMILY = Family("Aya Vision", ("aya_vision",), _places)
