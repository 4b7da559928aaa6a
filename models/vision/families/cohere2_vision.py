"""Command A Vision (Cohere 2)."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, crops_then_whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return square crops of the stretched image, row by row, then the whole image.

    What the processor calls its patch size is the number of tokens along a tile's side.
    """
    # Importing this module needs torchvision, as the processor does.
    from transformers.models.cohere2_vision.image_processing_cohere2_vision import get_optimal_tiled_canvas

    columns, rows = 1, 1
    if picture.setting("crop_to_patches"):
        size = picture.setting("size")
        columns, rows = get_optimal_tiled_canvas(
            picture.size[::-1],
            (int(size["height"]), int(size["width"])),
            int(picture.setting("min_patches")),
            int(picture.setting("max_patches")),
        )
    side = int(picture.processor.patch_size)
    return crops_then_whole(picture.size, rows, columns, side, cropped=rows * columns > 1)


FAMILY = Family("Command A Vision", ("cohere2_vision",), _places)
