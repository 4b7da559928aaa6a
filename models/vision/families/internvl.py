"""InternVL."""

from __future__ import annotations

import math

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from latentbank.models.vision.geometry import Picture, Places, crops_then_whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return square crops of the stretched image, row by row, then the whole image.

    If the image fits into a single crop, there is the whole image only.
    """
    images = picture.processor.image_processor
    side = math.isqrt(int(picture.processor.image_seq_length))
    columns, rows = 1, 1
    if getattr(picture.processor, "images_kwargs", {}).get("crop_to_patches", True):
        tile = (int(images.size["height"]), int(images.size["width"]))
        columns, rows = get_optimal_tiled_canvas(
            picture.size[::-1], tile, int(images.min_patches), int(images.max_patches)
        )
    return crops_then_whole(picture.size, rows, columns, side, cropped=rows * columns > 1)


FAMILY = Family("InternVL", ("internvl",), _places)
