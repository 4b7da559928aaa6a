"""Labelled images: what evaluation needs to know of an image to tell which words of a lens are true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LabelledObject:
    """An object in a labelled image.

    Attributes:
        name: an English noun, of one word or more.
        box: left, top, right and bottom of its visible pixels.
        coverage: the share of each patch of the image that it covers, row by row, float32 `[rows * columns]`.
        attributes: words that are true of it, such as its colour and its place in the image, in lower case.
    """

    name: str
    box: tuple[int, int, int, int]
    coverage: npt.NDArray[np.float32]
    attributes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LabelledImage:
    """An image whose contents are known.

    Attributes:
        image: RGB.
        objects: they do not overlap, and their coverage is of one grid of patches.
        background: words that are true of what no object covers, such as its colour, in lower case.
    """

    image: Image.Image
    objects: tuple[LabelledObject, ...]
    background: frozenset[str] = frozenset()
