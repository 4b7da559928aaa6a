"""Molmo 2."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentbank.models.vision.geometry import Edges, Picture, Places, grid, join
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the whole image stretched to a square, then a stitched view of overlapping crops of the stretched image.

    Patches are pooled in windows. Windows at the edges may hold fewer patches.
    """
    grids = [[int(n) for n in row] for row in picture.inputs["image_grids"]]
    before = sum(a * b + c * d for a, b, c, d in grids[: picture.index])
    pooling = picture.inputs["image_token_pooling"][before:].cpu().numpy() >= 0
    high, wide = (int(n) for n in picture.processor.image_processor.pooling_size)
    parts = []
    rows, columns, *rest = grids[picture.index]
    for tile, (down, across) in enumerate([(rows, columns), tuple(rest)]):
        windows = pooling[: down * across].reshape(down, across, high, wide)
        pooling = pooling[down * across :]
        heights = windows.any(axis=(1, 3)).sum(axis=1)
        widths = windows.any(axis=(0, 2)).sum(axis=1)
        parts.append(
            grid(
                picture.size,
                _edges_of(heights) * picture.size[1],
                _edges_of(widths) * picture.size[0],
                tile,
            )
        )
    return join(parts)


def _edges_of(lengths: Any) -> Edges:
    """Return edges from 0 to 1 of parts with these relative lengths."""
    return np.concatenate([[0.0], np.cumsum(lengths) / lengths.sum()])


FAMILY = Family("Molmo 2", ("molmo2",), _places)
