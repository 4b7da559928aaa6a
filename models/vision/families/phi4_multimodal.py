"""Phi-4-multimodal."""

from __future__ import annotations

import math

from latentbank.models.vision.geometry import Picture, Places, Unplaced, even, grid, join, unplaced
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return a stitched view with a newline after each row, a separator, then the whole canvas, with newlines too.

    The image keeps its shape at the upper left of a canvas of square crops. Rows and columns of the stitched view that
    lie in the padding are left out, those of the whole canvas are not.
    """
    tile, patch = int(picture.setting("size")["height"]), int(picture.setting("patch_size"))
    if tile % (2 * patch):
        raise Unplaced
    side = tile // patch // 2
    width, height = picture.size
    high, wide = (int(n) for n in picture.inputs["image_sizes"][picture.index])
    across, down = wide / width, high / height
    fitted = (wide, int(height * across)) if across < down else (int(width * down), high)
    edges = [
        even(0, whole * length / inside, whole // tile * side)
        for whole, length, inside in zip((high, wide), (height, width), fitted[::-1], strict=True)
    ]
    # A merged row counts if its first patch does.
    kept = [
        math.ceil((whole // patch - (whole - inside) // patch) / 2)
        for whole, inside in zip((high, wide), fitted[::-1], strict=True)
    ]
    stitched = [part[: count + 1] for part, count in zip(edges, kept, strict=True)]
    canvas = [even(0, part[-1], side) for part in edges]
    return join(
        [
            grid(picture.size, stitched[0], stitched[1], tile=1, newlines=True),
            unplaced(1, picture.size),
            grid(picture.size, canvas[0], canvas[1], newlines=True),
        ]
    )


FAMILY = Family("Phi-4-multimodal", ("phi4_multimodal",), _places)
