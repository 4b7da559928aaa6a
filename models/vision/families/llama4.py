"""Llama 4."""

from __future__ import annotations

import math

import torch

from latentbank.models.vision.geometry import Picture, Places, crops, even, grid, join, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return square crops of a canvas with the image at its upper left, row by row, then the whole image.

    The image keeps its shape on the canvas. If the canvas is a single square, it is the only tile.
    """
    # Importing this module needs torchvision, as the processor does.
    from transformers.models.llama4.image_processing_llama4 import (
        find_supported_resolutions,
        get_best_fit,
        get_max_res_without_distortion,
    )

    tile = int(picture.setting("size")["height"])
    side = math.isqrt((tile // picture.processor.patch_size) ** 2 // picture.processor.downsample_ratio)
    width, height = picture.size
    most = bool(picture.setting("resize_to_max_canvas"))
    canvases = torch.tensor(
        find_supported_resolutions(picture.setting("max_patches"), picture.setting("size"))
    )
    high, wide = (int(n) for n in get_best_fit((height, width), canvases, most))
    limit = (high, wide)
    if not most:
        limit = (min(max(height, tile), high), min(max(width, tile), wide))
    fitted = [max(n, 1) for n in get_max_res_without_distortion((height, width), limit)]
    down = even(0, high * height / fitted[0], high // tile * side)
    across = even(0, wide * width / fitted[1], wide // tile * side)
    if high == wide == tile:
        return grid(picture.size, down, across)
    return join([*crops(picture.size, down, across, side), whole(picture.size, side, side)])


FAMILY = Family("Llama 4", ("llama4",), _places)
