"""Kimi K2.5."""

from __future__ import annotations

import numpy as np

from latentbank.models.vision.geometry import Picture, Places, grid
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the image is scaled down if it is large, then padded on the right and below to whole squares."""
    from transformers.models.kimi_k25.image_processing_kimi_k25 import navit_resize  # needs torchvision

    images = picture.processor.image_processor
    width, height = picture.size
    patch, merge = int(images.patch_size), int(images.merge_size)
    (down, across), _ = navit_resize(
        height, width, patch, merge, int(images.max_patches), int(images.size["max_height"])
    )
    _, rows, columns = (int(n) // merge for n in picture.inputs["image_grid_thw"][picture.index])
    step = float(patch * merge)
    return grid(
        picture.size,
        np.arange(rows + 1) * step * height / down,
        np.arange(columns + 1) * step * width / across,
    )


FAMILY = Family("Kimi K2.5", ("kimi_k25",), _places)
