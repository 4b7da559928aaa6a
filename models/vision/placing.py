"""Placing visual tokens: by their family's rules, else by a processor that squeezes the whole image, else nowhere.

Nothing is guessed: a token whose place is not known has none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from latentbank.errors import QueryError
from latentbank.models.vision.geometry import (
    Picture,
    Places,
    Size,
    Unplaced,
    grid,
    nowhere,
    patch_edges,
)
from latentbank.models.vision.registry import places_of
from latentbank.models.vision.tokens import VisualTokens
from latentbank.text import first_line

log = logging.getLogger(__name__)

# Image processors of transformers that do no more than their settings say: resize, crop, pad, scale colours.
_PLAIN = {"CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor", "DeiTImageProcessor"}
_PLAIN |= {"BlipImageProcessor", "BitImageProcessor", "LlavaImageProcessor"}


class Placing:
    """Places the visual tokens of one model.

    Attributes:
        rule: the family's function, or None if no family knows the model's type.
        geometry: how boxes are found, for people: `exact, qwen2_vl`, or `unknown, TYPE: ...`.
    """

    def __init__(self, name: str, config: Any, processor: Any) -> None:
        """Find the rules for a model.

        Args:
            name: the model's name, for messages.
            config: its configuration.
            processor: its processor.
        """
        self.name, self.config, self.processor = name, config, processor
        self.rule = places_of(config)
        self._told: set[str] = set()
        if self.rule is not None:
            self.geometry = f"exact, {config.model_type}"
        elif _squeezes(getattr(processor, "image_processor", None)):
            self.rule = squeezed_whole
            self.geometry = f"exact, {config.model_type}: the whole image is squeezed, a token for each patch"
        else:
            self.geometry = self._unknown("there are no rules for models of this type")

    def places(
        self, sizes: Sequence[Size], first: int, inputs: Mapping[str, Any], count: int
    ) -> list[tuple[Places, str]]:
        """Return the places of the image positions of one prompt, image by image, each with how they were found.

        Args:
            sizes: width and height of each image.
            first: number of the first image among all.
            inputs: the processor's output for all images.
            count: number of image positions in the prompt.

        Raises:
            QueryError: there are several images, and it is not known which positions are whose.
        """
        geometry = self.geometry
        if self.rule is not None:
            try:
                places = [
                    self.rule(Picture(size, self.config, self.processor, inputs, first + number, len(sizes)))
                    for number, size in enumerate(sizes)
                ]
                if sum(map(len, places)) == count:
                    return [(place, geometry) for place in places]
                why = "its processor does not follow the rules known for this type"
            except Unplaced:
                why = "its processor has settings that the rules for this type do not know"
            except Exception as error:  # another package's rules can fail in any way
                why = f"the rules for this type fail ({type(error).__name__}: {first_line(error)[:120]})"
            geometry = self._unknown(why)
        if len(sizes) > 1:
            raise QueryError(
                f"Which of the {count} visual tokens of {self.name} belong to which image is not known: use a prompt "
                "with one image.",
                argument="prompt",
            )
        return [(nowhere(count), geometry)]

    def _unknown(self, why: str) -> str:
        """Return a geometry without places; log each reason once."""
        if why not in self._told:
            self._told.add(why)
            log.warning(
                "Where the visual tokens of %s (type %s) are in the image is not known: %s. They have no place.",
                self.name,
                self.config.model_type,
                why,
            )
        return f"unknown, {self.config.model_type}: {why}"


def squeezed_whole(picture: Picture) -> Places:
    """Return one tile of the whole image, with a token for each patch.

    Raises:
        Unplaced: the model's input is not one view of each image.
    """
    pixels = picture.inputs.get("pixel_values")
    patch = getattr(getattr(picture.config, "vision_config", None), "patch_size", None)
    target = picture.processor.image_processor.size
    if pixels is None or pixels.dim() != 4 or not isinstance(patch, int):
        raise Unplaced
    height, width = pixels.shape[-2:]
    if (height, width) != (target["height"], target["width"]):
        raise Unplaced
    return grid(
        picture.size,
        patch_edges(height, patch) / height * picture.size[1],
        patch_edges(width, patch) / width * picture.size[0],
    )


def _squeezes(images: Any) -> bool:
    """Return whether an image processor squeezes the whole image into one size, whatever its shape."""
    kind = type(images).__name__.removesuffix("Pil").removesuffix("Fast")
    target = getattr(images, "size", None) or {}
    return bool(
        kind in _PLAIN
        and images.do_resize
        and not getattr(images, "do_center_crop", False)
        and not getattr(images, "do_pad", False)
        and target.get("height")
        and target.get("width")
    )


def tokens_at(
    size: tuple[int, int], places: Places, geometry: str, states: Mapping[int, Tensor], positions: Tensor
) -> VisualTokens:
    """Return the visual tokens among the image positions of one image; `states` are those of the whole sequence."""
    visual = places.visual
    here = positions[torch.from_numpy(visual)]
    return VisualTokens(
        states={layer: state[here.to(state.device)] for layer, state in states.items()},
        boxes=places.boxes[visual],
        rows=places.rows[visual],
        columns=places.columns[visual],
        tiles=places.tiles[visual],
        size=size,
        geometry=geometry,
        positions=here.numpy(),
    )
