"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a multiple of the patch size, then squares are merged."""
    _, rows, columns = (int(n) for n in picture.inputs["image_grid_thw"][picture.index])
    merge = int(picture.processor.image_processor.merge_size)
    return whole(picture.size, rows // merge, columns // merge)


FAMILY = Family("Qwen-VL", ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), _places)
