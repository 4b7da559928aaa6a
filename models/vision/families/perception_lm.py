"""Perception LM."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, Unplaced, equal_crops, join, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the whole image stretched to a square, then square crops of the stretched image, row by row."""
    images = picture.processor.image_processor
    tile, pooling = int(picture.setting("tile_size")), int(picture.processor.pooling_ratio)
    patches = tile // int(picture.processor.patch_size)
    if patches % pooling:
        raise Unplaced  # the pooled windows would overlap
    side = patches // pooling
    base = whole(picture.size, side, side)
    if picture.setting("vision_input_type") != "thumb+tile":
        return base
    columns, rows = 1, 1
    if picture.setting("max_num_tiles") > 1:
        width, height = picture.size
        columns, rows = images._fit_image_to_canvas(width, height, tile) or images._find_closest_aspect_ratio(
            width, height, tile
        )
    return join([base, *equal_crops(picture.size, rows, columns, side)])


FAMILY = Family("Perception LM", ("perception_lm",), _places)
