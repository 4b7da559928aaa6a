"""LLaVA-OneVision."""

from __future__ import annotations

import math

import numpy as np

from latentbank.models.vision.families.llava_next import stitched
from latentbank.models.vision.geometry import (
    Edges,
    Picture,
    Places,
    grid,
    join,
    patch_edges,
    squeezed,
    unplaced,
)
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return what LLaVA-NeXT has, but with a large stitched view scaled down.

    Several images in one prompt get one padded square each and no stitched view.
    """
    config = picture.config
    patch, side = int(config.vision_config.patch_size), int(config.vision_config.image_size)
    if picture.together > 1:
        longer = max(picture.size)
        left, top = (-float((longer - length) // 2) for length in picture.size)
        edges = patch_edges(side, patch) * longer / side
        return join([grid(picture.size, top + edges, left + edges), unplaced(1, picture.size)])
    base = squeezed(picture.size, side, patch)
    down, across = stitched(picture)
    most = int(str(config.vision_aspect_ratio).removeprefix("anyres_max_"))
    ratio = math.sqrt((len(down) - 1) * (len(across) - 1) / (most * (side // patch) ** 2))
    if ratio > 1.1:
        down, across = (_fewer(edges, int((len(edges) - 1) // ratio)) for edges in (down, across))
    return join([base, grid(picture.size, down, across, tile=1, newlines=True)])


def _fewer(edges: Edges, count: int) -> Edges:
    """Return edges of `count` parts that divide the old parts evenly among them."""
    old = np.arange(len(edges), dtype=np.float64)
    return np.interp(np.linspace(0, len(edges) - 1, count + 1), old, edges)


FAMILY = Family("LLaVA-OneVision", ("llava_onevision",), _places)
