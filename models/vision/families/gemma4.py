"""Gemma 4."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a multiple of the patch size, then squares are averaged.

    The positions are (column, row) of each patch, and -1 where the patches are padding.
    """
    columns, rows = (int(n) + 1 for n in picture.inputs["image_position_ids"][picture.index].amax(dim=0))
    merge = int(picture.setting("pooling_kernel_size"))
    return whole(picture.size, rows // merge, columns // merge)


FAMILY = Family("Gemma 4", ("gemma4",), _places)
