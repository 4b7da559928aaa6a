"""Molmo 2's image processor on Pillow, because transformers' own needs torchvision."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoImageProcessor, BatchFeature, PretrainedConfig
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, SizeDict
from transformers.models.molmo2.image_processing_molmo2 import (
    Molmo2ImageProcessorKwargs,
    arange_for_pooling,
    compute_crop_geometry,
)


class PillowMolmo2ImageProcessor(PilBackend):
    """Crops, patches and pools as transformers' class does, with the same arithmetic for sizes and windows.

    Only the colours differ if an image shrinks: Pillow smooths it and that class does not.
    """

    valid_kwargs = Molmo2ImageProcessorKwargs
    model_input_names: ClassVar[Any] = [
        "pixel_values",
        "image_token_pooling",
        "image_grids",
        "image_num_crops",
    ]
    resample = 2
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size: ClassVar[Any] = {"height": 378, "width": 378}
    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    max_crops = 8
    overlap_margins: ClassVar[Any] = [4, 4]
    patch_size = 14
    pooling_size: ClassVar[Any] = [2, 2]

    def _preprocess(self, images: list[np.ndarray], size: SizeDict, **settings: Any) -> BatchFeature:
        made = [self._preprocess_image(image, size.height, settings) for image in images]
        offsets = np.cumsum([0] + [patches.shape[0] * patches.shape[1] for patches, _, _ in made])
        pooling = [
            torch.where(windows >= 0, windows + offset, -1)
            for (_, windows, _), offset in zip(made, offsets[:-1].tolist(), strict=True)
        ]
        return BatchFeature(
            {
                "pixel_values": torch.cat([patches for patches, _, _ in made]),
                "image_token_pooling": torch.cat(pooling),
                "image_grids": torch.tensor([grids for _, _, grids in made]),
                "image_num_crops": torch.tensor([len(patches) for patches, _, _ in made]),
            }
        )

    def _preprocess_image(
        self, image: np.ndarray, crop: int, settings: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Return patches [views, patches, values], windows of their indices [tokens, 4], and both grids."""
        patch, margins = settings["patch_size"], settings["overlap_margins"]
        down, across, height, width = compute_crop_geometry(
            *image.shape[-2:], settings["max_crops"], margins, crop, patch
        )
        side = crop // patch
        step = side - sum(margins)

        def view(size: tuple[int, int]) -> np.ndarray:
            resized = self.resize(
                image, SizeDict(height=size[0], width=size[1]), resample=settings["resample"]
            )
            scaled = self.rescale(resized, settings["rescale_factor"])
            return self.normalize(scaled, settings["image_mean"], settings["image_std"])

        canvas = view((height, width))
        starts = [
            (row * step * patch, column * step * patch) for row in range(down) for column in range(across)
        ]
        views = [view((crop, crop)), *(canvas[:, y : y + crop, x : x + crop] for y, x in starts)]
        patches = torch.tensor(np.stack(views)).unfold(2, patch, patch).unfold(3, patch, patch)
        patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(len(views), side * side, -1)

        def owner(count: int, tiles: int) -> tuple[torch.Tensor, torch.Tensor]:
            """Return for one side the crop that each patch of the canvas is taken from, and the patch's place in it."""
            places = torch.arange(count)
            tile = ((places - margins[0]) // step).clamp(0, tiles - 1)
            return tile, places - tile * step

        (tile_y, y), (tile_x, x) = owner(height // patch, down), owner(width // patch, across)
        tile = tile_y[:, None] * across + tile_x + 1
        grid = tile * side * side + y[:, None] * side + x
        low, *low_size = arange_for_pooling(
            torch.arange(side * side).reshape(side, side), *settings["pooling_size"]
        )
        high, *high_size = arange_for_pooling(grid, *settings["pooling_size"])
        return patches, torch.cat([low, high]), [*low_size, *high_size]


class _Registered(PretrainedConfig):
    """The name that the processor is registered under, so that files can name it."""

    model_type = "pillow_molmo2"


AutoImageProcessor.register(_Registered, image_processor_classes={"pil": PillowMolmo2ImageProcessor})
