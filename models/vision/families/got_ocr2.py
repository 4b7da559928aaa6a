"""GOT-OCR 2."""

from __future__ import annotations

import math

from latentbank.models.vision.families.internvl import tiled
from latentbank.models.vision.geometry import Picture, Places
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return the whole image stretched to a square, or, if asked for, InternVL's crops."""
    return tiled(picture, math.isqrt(int(picture.processor.num_image_tokens)))


FAMILY = Family("GOT-OCR 2", ("got_ocr2",), _places)
