"""A VLM for tests whose patches are scripted: each gets the hidden state of a chosen word in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latentbank.bank.words import Words, tight
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import VisualTokens
from latentbank.query.evaluation.labelled import LabelledImage, LabelledObject
from tests.query.banks import SENTENCES

GRID = (2, 3)
PLACES = ("top left", "right", "bottom")


def scene_of(
    number: int, things: dict[str, Sequence[int]], share: float = 0.8, colour: str = "pink"
) -> LabelledImage:
    """Return a scene in which each object covers `share` of its patches; every number gives another image."""
    objects = []
    for place, (name, tokens) in zip(PLACES, things.items(), strict=False):
        coverage = np.zeros(GRID[0] * GRID[1], dtype=np.float32)
        coverage[list(tokens)] = share
        objects.append(LabelledObject(name, (0, 0, 9, 9), coverage, frozenset(place.split())))
    image = Image.new("RGB", (12, 12), (number % 256, number // 256, 77))
    return LabelledImage(image, tuple(objects), frozenset([colour]))


class ScriptedVLM:
    """A VLM of six patches; `word_of` returns the word that a patch of a scene shows.

    At every visual layer, the hidden state of a patch is that of its word in one of the tests' sentences at the LLM's
    layer `text_layer`, plus `offset` in every dimension. A word that no sentence has gives a random direction.
    """

    revision = None
    means_file: Path | None = None
    geometry = "exact, 2 x 3"

    def __init__(
        self,
        language: LanguageModel,
        scenes: Sequence[LabelledImage],
        word_of: Callable[[LabelledImage, int], str],
        *,
        text_layer: int = 2,
        offset: float = 0.0,
        cls: bool = False,
    ) -> None:
        self.language, self.name = language, "scripted"
        self.num_layers, self.hidden_size = language.num_layers, language.hidden_size
        self.scenes = {scene.image.tobytes(): scene for scene in scenes}
        self.word_of, self.text_layer, self.offset, self.cls = word_of, text_layer, offset, cls

    def fingerprint(self) -> str:
        return self.language.fingerprint()

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        return [self._tokens(image, layers) for image in images]

    def _tokens(self, image: Image.Image, layers: Sequence[int]) -> VisualTokens:
        scene = self.scenes.get(image.tobytes())
        patches = range(GRID[0] * GRID[1])
        words = ["?"] * len(patches) if scene is None else [self.word_of(scene, patch) for patch in patches]
        states = torch.stack([self._state(word, patch) for patch, word in enumerate(words)]) + self.offset
        rows, columns = (axis.ravel() for axis in np.indices(GRID))
        if self.cls:  # it comes first and has no place in the grid
            states = torch.cat([states[:1] * -7, states])
            rows, columns = (np.concatenate([[-1], axis]) for axis in (rows, columns))
        boxes = np.zeros((len(rows), 4), dtype=np.float32)
        given: dict[str, Any] = {"boxes": boxes, "rows": rows, "columns": columns, "size": image.size}
        return VisualTokens(dict.fromkeys(layers, states), tiles=np.zeros(len(rows), np.int64), **given)

    def _state(self, word: str, seed: int) -> torch.Tensor:
        for sentence in SENTENCES:
            places = [
                place
                for place, span in enumerate(self.language.spans(sentence))
                if span[1] and Words(sentence).at(*tight(sentence, *span)) == word
            ]
            if places:
                return self.language.text_hidden_states(sentence, [self.text_layer])[1][self.text_layer][
                    places[-1]
                ]
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.hidden_size, generator=generator)
