"""Gemma 3."""

from __future__ import annotations

import math

from latentbank.models.vision.geometry import Picture, Places, even, grid, join, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the whole image stretched to a square, then, if pan-and-scan is on, crops along its longer side."""
    side = math.isqrt(int(picture.config.mm_tokens_per_image))
    width, height = picture.size
    parts = [whole(picture.size, side, side)]
    crops = _pan_and_scan(picture)
    step = math.ceil(max(width, height) / max(crops, 1))
    for number in range(crops):
        along = even(number * step, min((number + 1) * step, max(width, height)), side)
        down, across = (even(0, height, side), along) if width >= height else (along, even(0, width, side))
        parts.append(grid(picture.size, down, across, tile=number + 1))
    return join(parts)


def _pan_and_scan(picture: Picture) -> int:
    """Return the number of crops that Gemma 3's processor makes.

    It is about the ratio of the image's sides if the image is large enough, otherwise 0.
    """
    # Settings of the processor class take precedence over those in the image processor's file.
    settings = {**dict(vars(picture.processor.image_processor)), **picture.processor.images_kwargs}
    long, short = max(picture.size), min(picture.size)
    if not settings["do_pan_and_scan"] or long / short < settings["pan_and_scan_min_ratio_to_activate"]:
        return 0
    smallest = settings["pan_and_scan_min_crop_size"]
    crops = min(math.floor(long / short + 0.5), long // smallest)
    crops = min(max(crops, 2), settings["pan_and_scan_max_num_crops"])
    return crops if min(math.ceil(long / crops), short) >= smallest else 0


FAMILY = Family("Gemma 3", ("gemma3",), _places)
