"""A composite VLM whose encoder returns pixels: the colours of 4 x 4 parts of each of 2 x 3 patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector
from latentbank.models.language.model import LanguageModel

PARTS = 4


class PixelEncoder:
    """An encoder whose features are the colours of 4 x 4 parts of a patch."""

    name = "pixels"
    grid = (2, 3)
    features = 3 * PARTS * PARTS

    def fingerprint(self) -> str:
        return "pixels"

    def encode(self, images: Sequence[Image.Image]) -> torch.Tensor:
        rows, columns = self.grid
        size = (columns * PARTS, rows * PARTS)
        pixels = np.stack([np.asarray(image.resize(size, Image.Resampling.BOX)) for image in images])
        patches = pixels.reshape(len(images), rows, PARTS, columns, PARTS, 3).transpose(0, 1, 3, 2, 4, 5)
        return torch.tensor(patches.reshape(len(images), rows * columns, self.features), dtype=torch.float32)

    def boxes(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        rows, columns = self.grid
        width, height = size[0] / columns, size[1] / rows
        return np.array(
            [
                (column * width, row * height, (column + 1) * width, (row + 1) * height)
                for row in range(rows)
                for column in range(columns)
            ],
            dtype=np.float32,
        )


def pixel_vlm(language: LanguageModel, kind: str = "mlp3", seed: int = 1) -> CompositeVLM:
    """Return a VLM with this encoder, and with random weights that stand for a trained projector's."""
    torch.manual_seed(seed)
    projector = Projector(kind, PixelEncoder.features, language.hidden_size, 8)
    projector.mean += 100
    projector.std *= 50
    return CompositeVLM(PixelEncoder(), projector, language, {})
