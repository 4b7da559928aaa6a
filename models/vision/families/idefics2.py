"""Idefics 2."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, join, mixed
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the four quarters of the image, if it is split, then the whole image.

    A resampler mixes all patches of a part, so a token shows all of its part and has no row or column.
    """
    count = int(picture.processor.image_seq_len)
    width, height = picture.size
    middle, centre = width // 2, height // 2
    quarters = [
        (left, top, right, bottom)
        for top, bottom in ((0, centre), (centre, height))
        for left, right in ((0, middle), (middle, width))
    ]
    if not picture.setting("do_image_splitting"):
        quarters = []
    parts = [mixed(box, count, tile) for tile, box in enumerate(quarters, start=1)]
    return join([*parts, mixed((0, 0, width, height), count)])


FAMILY = Family("Idefics 2", ("idefics2",), _places)
