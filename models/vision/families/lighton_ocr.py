"""LightOnOCR."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, even, grid
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a multiple of the patch size, then squares are merged.

    An odd row or column of patches at the end belongs to no token.
    """
    step = int(picture.processor.effective_patch_size)
    height, width = (int(pixels) for pixels in picture.inputs["image_sizes"][picture.index])
    rows, columns = height // step, width // step
    return grid(
        picture.size,
        even(0, picture.size[1] * rows * step / height, rows),
        even(0, picture.size[0] * columns * step / width, columns),
    )


FAMILY = Family("LightOnOCR", ("lighton_ocr",), _places)
