"""HunYuan-VL."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, join, unplaced, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a multiple of the patch size, then squares are merged.

    Each row ends with a newline token, and a begin and an end token are image positions, too.
    """
    _, rows, columns = (int(n) for n in picture.inputs["image_grid_thw"][picture.index])
    merge = int(picture.processor.image_processor.merge_size)
    tile = whole(picture.size, rows // merge, columns // merge, newlines=True)
    if not picture.processor.cat_extra_token:
        return tile
    return join([unplaced(1, picture.size), tile, unplaced(1, picture.size)])


FAMILY = Family("HunYuan-VL", ("hunyuan_vl",), _places)
