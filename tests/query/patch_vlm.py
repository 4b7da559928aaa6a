"""A small VLM for tests: patches of an image, projected linearly into a real tiny LLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import TextTokens, VisualTokens

GRID = (2, 3)  # rows, columns
ANSWER = (264, 281, 262, 295)  # the tokens that it writes


class Unembedded:
    """An unembedding without a norm: logits are inner products with a matrix. It counts the rows of each call."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.calls: list[int] = []

    def logits(self, states: Tensor) -> Tensor:
        self.calls.append(len(states))
        return states.to(self.matrix) @ self.matrix.T


class PatchVLM:
    """A VLM of six patches of each image; with `tiles=2`, also of six patches of its left half.

    A patch's colours, times a fixed random matrix and `gain`, take the place of tokens in the LLM's input.
    """

    revision = None
    means_file: Path | None = None
    geometry = "exact, 2 x 3 patches"

    def __init__(self, language: LanguageModel, gain: float = 1.0, tiles: int = 1) -> None:
        self.language = language
        self.name = "patch-vlm"
        self.num_layers, self.hidden_size = language.num_layers, language.hidden_size
        self.gain, self.tiles = gain, tiles
        self.calls: list[int] = []  # images in each forward
        self.prompts: list[str | None] = []
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(4, language.hidden_size, generator=generator)

    def fingerprint(self) -> str:
        return self.language.fingerprint()

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        self.calls.append(len(images))
        self.prompts.append(prompt)
        states, count = self._states(images, [9], layers)
        return [
            VisualTokens(
                {layer: state[1 : 1 + count] for layer, state in by_layer.items()}, **self._places(image.size)
            )
            for image, by_layer in zip(images, states, strict=True)
        ]

    def tokens_with_text(
        self, image: Image.Image, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Text is token 5 before the patches, 9 after them, and an answer of the first of `ANSWER`."""
        self.calls.append(1)
        self.prompts.append(prompt)
        after = [9, *ANSWER[:answer]]
        (states,), count = self._states([image], after, layers)
        places = np.array([0, *range(1 + count, 1 + count + len(after))])
        text = TextTokens(
            {layer: state[places] for layer, state in states.items()},
            np.array([5, *after]),
            places,
            np.array([False, False, *[True] * (len(after) - 1)]),
        )
        visual = {layer: state[1 : 1 + count] for layer, state in states.items()}
        positions = np.arange(1, 1 + count)
        return VisualTokens(visual, **self._places(image.size), positions=positions, text=text)

    def _states(
        self, images: Sequence[Image.Image], after: Sequence[int], layers: Sequence[int]
    ) -> tuple[list[dict[int, Tensor]], int]:
        """Return the hidden states of the sequence of each image, and its number of patches."""
        projected = torch.stack([self._projected(image) for image in images]).to(self.language.dtype)
        count = projected.shape[1]

        def put_in(_module: Any, _args: Any, embedded: torch.Tensor) -> torch.Tensor:
            return torch.cat([embedded[:, :1], projected, embedded[:, 1 + count :]], dim=1)

        sentence = [5, *[7] * count, *after]
        handle = self.language.decoder.get_input_embeddings().register_forward_hook(put_in)
        try:
            return self.language.hidden_states([sentence] * len(images), layers), count
        finally:
            handle.remove()

    def _projected(self, image: Image.Image) -> torch.Tensor:
        rows, columns = GRID
        views = [image, image.crop((0, 0, max(1, image.width // 2), image.height))][: self.tiles]
        patches = [
            np.asarray(view.resize((columns, rows), Image.Resampling.BOX)).reshape(-1, 3) for view in views
        ]
        colours = torch.tensor(np.concatenate(patches), dtype=torch.float32) / 255
        return torch.cat([colours, torch.ones(len(colours), 1)], dim=1) @ self.matrix * self.gain

    def _places(self, size: tuple[int, int]) -> dict[str, Any]:
        rows, columns = GRID
        boxes, at = [], []
        for tile in range(self.tiles):
            width, height = size[0] / (1 + tile) / columns, size[1] / rows
            for row in range(rows):
                for column in range(columns):
                    boxes.append((column * width, row * height, (column + 1) * width, (row + 1) * height))
                    at.append((row, column, tile))
        places = np.array(at, dtype=np.int64)
        return {
            "boxes": np.array(boxes, dtype=np.float32),
            "rows": places[:, 0],
            "columns": places[:, 1],
            "tiles": places[:, 2],
            "size": size,
        }


def picture(seed: int = 0, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """Return an image of random colours."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
