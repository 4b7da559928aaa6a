"""LFM2-VL."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, equal_crops, join, whole
from latentbank.models.vision.registry import Family

_LIMITS = ("max_image_tokens", "encoder_patch_size", "downsample_factor")


def _places(picture: Picture) -> Places:
    """Return square crops of the stretched image, row by row, then the whole image in its own shape.

    If the image is small, there is the whole image only.
    """
    images = picture.processor.image_processor
    width, height = picture.size
    limits = {name: picture.setting(name) for name in _LIMITS}
    step = int(limits["encoder_patch_size"]) * int(limits["downsample_factor"])
    wide, high = images.smart_resize(
        height, width, min_image_tokens=picture.setting("min_image_tokens"), **limits
    )
    fitted = whole(picture.size, high // step, wide // step)
    tolerance = picture.setting("max_pixels_tolerance")
    large = images._is_image_too_large(height, width, max_pixels_tolerance=tolerance, **limits)
    tiles = (int(picture.setting("min_tiles")), int(picture.setting("max_tiles")))
    if not large or not picture.setting("do_image_splitting") or tiles == (1, 1):
        return fitted
    tile = int(picture.setting("tile_size"))
    columns, rows, *_ = images._get_grid_layout(height, width, *tiles, tile)
    crops = equal_crops(picture.size, rows, columns, tile // step)
    if rows * columns == 1:
        return whole(picture.size, tile // step, tile // step)
    return join([*crops, fitted] if picture.setting("use_thumbnail") else crops)


FAMILY = Family("LFM2-VL", ("lfm2_vl",), _places)
