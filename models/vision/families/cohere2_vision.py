"""Command A Vision (Cohere 2)."""

from __future__ import annotations

from latentbank.models.vision.families.internvl import tiled
from latentbank.models.vision.geometry import Picture, Places
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return square crops of the stretched image, row by row, then the whole image.

    What the processor calls its patch size is the number of tokens along a tile's side.
    """
    # Importing this module needs torchvision, as the processor does.
    from transformers.models.cohere2_vision.image_processing_cohere2_vision import get_optimal_tiled_canvas

    return tiled(picture, int(picture.processor.patch_size), get_optimal_tiled_canvas)


FAMILY = Family("Command A Vision", ("cohere2_vision",), _places)
