"""Ovis 2."""

from __future__ import annotations

import math

from transformers.models.ovis2.image_processing_pil_ovis2 import (
    get_min_tile_covering_grid,
    get_optimal_tiled_canvas,
)

from latentbank.models.vision.geometry import Picture, Places, Unplaced, equal_crops, join, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the whole image stretched to a square, then square crops of the stretched image, row by row."""
    vision = picture.config.vision_config
    if (int(vision.image_size) // int(vision.patch_size)) % int(vision.hidden_stride):
        raise Unplaced  # the last token of a row would show fewer patches
    side = math.isqrt(int(picture.processor.image_seq_length))
    columns, rows = _layout(picture)
    crops = equal_crops(picture.size, rows, columns, side) if rows * columns > 1 else []
    return join([whole(picture.size, side, side), *crops])


def _layout(picture: Picture) -> tuple[int, int]:
    """Return the columns and rows of crops."""
    largest = int(picture.setting("max_patches"))
    if not picture.setting("crop_to_patches") or largest <= 1:
        return 1, 1
    size = picture.setting("size")
    height, width = int(size["height"]), int(size["width"])
    if picture.setting("use_covering_area_grid"):
        columns, rows = get_min_tile_covering_grid(picture.size[::-1], height, largest, 0.9)
    else:
        smallest = int(picture.setting("min_patches"))
        columns, rows = get_optimal_tiled_canvas(picture.size[::-1], (height, width), smallest, largest)
    return columns, rows


FAMILY = Family("Ovis 2", ("ovis2",), _places)
