"""LLaVA-NeXT and LLaVA-NeXT-Video."""

from __future__ import annotations

import math

import numpy as np
from transformers.image_processing_utils import select_best_resolution

from latentbank.models.vision.geometry import Edges, Picture, Places, grid, join, patch_edges, squeezed
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the whole image stretched to a square, then a stitched view that keeps its shape, with newlines."""
    config = picture.config
    patch, side = int(config.vision_config.patch_size), int(config.vision_config.image_size)
    base = squeezed(picture.size, side, patch)
    down, across = stitched(picture)
    return join([base, grid(picture.size, down, across, tile=1, newlines=True)])


def stitched(picture: Picture) -> tuple[Edges, Edges]:
    """Return the edges of the rows and of the columns of the stitched view, in pixels of the original image.

    The image is scaled to fit the best of a few canvases and centred on it. The encoder sees each square of the canvas
    alone. Rows or columns of tokens that lie in the padding are dropped, as many on either side.
    """
    config = picture.config
    patch, side = int(config.vision_config.patch_size), int(config.vision_config.image_size)
    width, height = picture.size
    high, wide = select_best_resolution((height, width), config.image_grid_pinpoints)
    square = patch_edges(side, patch)
    down, across = (
        np.concatenate([[0.0], *(square[1:] + start for start in range(0, length, side))])
        for length in (high, wide)
    )
    scale_across, scale_down = wide / width, high / height
    if scale_across < scale_down:
        fitted = (wide, min(math.ceil(height * scale_across), high))
    else:
        fitted = (min(math.ceil(width * scale_down), wide), high)
    rows, columns = len(down) - 1, len(across) - 1
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        down = _without(down, (rows - kept) // 2)
    else:
        kept = int(round(width * (rows / height), 7))
        across = _without(across, (columns - kept) // 2)
    return (
        (down - (high - fitted[1]) // 2) * height / fitted[1],
        (across - (wide - fitted[0]) // 2) * width / fitted[0],
    )


def _without(edges: Edges, padding: int) -> Edges:
    """Return edges without the first and the last `padding` parts."""
    return edges[padding : len(edges) - padding]


FAMILY = Family("LLaVA-NeXT", ("llava_next", "llava_next_video"), _places)
