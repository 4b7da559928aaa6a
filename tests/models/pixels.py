"""A small encoder that needs no weights, and image-caption pairs that a tiny LLM can learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentbank.models.training.pairs import Pair

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}


class PixelEncoder:
    """Each token is the mean colour of one of 2 x 2 fields, its square, and a constant."""

    name = "pixels"
    features = 7
    grid = (2, 2)

    def __init__(self, kind: str = "pixels") -> None:
        self.kind = kind
        self.encoded = 0

    def fingerprint(self) -> str:
        return self.kind

    def settings(self) -> dict[str, object]:
        return {}

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        self.encoded += len(images)
        small = np.stack([np.asarray(image.resize((2, 2), Image.Resampling.BOX)) for image in images])
        colours = torch.from_numpy(small.astype(np.float32)).reshape(len(images), 4, 3) / 255
        return torch.cat([colours, colours**2, torch.ones(len(images), 4, 1)], dim=-1)

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        w, h = size[0] / 2, size[1] / 2
        return np.array(
            [(c * w, r * h, (c + 1) * w, (r + 1) * h) for r in (0, 1) for c in (0, 1)], np.float32
        )


def pairs(count: int, seed: int = 0, regions: bool = False) -> Iterator[Pair]:
    """Return images of one or two colours; with `regions` also rows with single fields of them."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        left, right = random.choice(list(COLOURS), 2)
        image = Image.new("RGB", (8, 8), COLOURS[left])
        image.paste(COLOURS[right], (4, 0, 8, 8))
        yield Pair(image, f"{left} and {right}" if left != right else f"{left} alone")
        if regions:
            yield Pair(image, f"a {left} field", (0,))
            yield Pair(image, f"a {right} field", (1, 3))
