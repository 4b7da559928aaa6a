"""Inkling 2."""

from __future__ import annotations

import numpy as np

from latentbank.models.vision.geometry import Picture, Places, grid
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the image keeps its size and is padded on the right and below to whole squares, one a token."""
    _, rows, columns = (int(n) for n in picture.inputs["image_grid_thw"][picture.index])
    side = picture.processor.image_processor.size
    return grid(
        picture.size,
        np.arange(rows + 1, dtype=np.float64) * int(side["height"]),
        np.arange(columns + 1, dtype=np.float64) * int(side["width"]),
    )


FAMILY = Family("Inkling 2", ("inkling2",), _places)
