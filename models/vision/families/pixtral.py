"""Pixtral and Mistral 3."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a multiple of the patch size.

    Row breaks have token ids of their own, so they are not image positions.
    """
    step = int(picture.processor.patch_size * picture.processor.spatial_merge_size)
    rows, columns = (int(pixels) // step for pixels in picture.inputs["image_sizes"][picture.index])
    return whole(picture.size, rows, columns)


FAMILY = Family("Pixtral", ("llava/pixtral", "mistral3", "mistral_large4"), _places)
