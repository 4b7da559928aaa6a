"""Fuyu."""

from __future__ import annotations

import math

import numpy as np

from latentbank.models.vision.geometry import Picture, Places, grid
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile of patches; the last row and column reach over the image's edges.

    Only a large image is resized. Row breaks have a token id of their own, so they are not image positions.
    """
    width, height = picture.size
    size, patch = picture.setting("size"), picture.setting("patch_size")
    wide, high = width, height
    if picture.setting("do_resize") and (width > size["width"] or height > size["height"]):
        scale = min(size["height"] / height, size["width"] / width)
        wide, high = int(width * scale), int(height * scale)
    rows, columns = math.ceil(high / patch["height"]), math.ceil(wide / patch["width"])
    return grid(
        picture.size,
        np.arange(rows + 1, dtype=np.float64) * patch["height"] * height / high,
        np.arange(columns + 1, dtype=np.float64) * patch["width"] * width / wide,
    )


FAMILY = Family("Fuyu", ("fuyu",), _places)
