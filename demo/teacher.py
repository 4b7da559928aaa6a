"""The encoder's own ImageNet classifier as a teacher: what it sees in each token of an image.

EfficientNet-Lite0 classifies the mean of the 49 tokens' first 1,280 features. Applied to the tokens one by one, the
same classifier tells which class each of them shows.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentbank.demo.classes import load_classes
from latentbank.demo.encoder import EfficientNetEncoder

SURE = 0.5
"""The least probability of a class at which the teacher is sure of a token."""
HEAD = 1280
"""A token's first features, which the classifier takes."""


@torch.no_grad()
def class_probabilities(encoder: EfficientNetEncoder, tokens: Tensor) -> NDArray[np.float32]:
    """Return the teacher's probabilities of its classes for each token, float32 `[..., 1000]`.

    Args:
        encoder: whose classifier is the teacher.
        tokens: `[..., 1728]`, from `encoder.encode`.
    """
    logits = encoder.network.classifier(tokens[..., :HEAD].float())
    return cast(NDArray[np.float32], logits.softmax(-1).numpy())


class NounTeacher:
    """The teacher's nouns, each of which names one class or many.

    Attributes:
        nouns: in alphabetical order.
    """

    def __init__(self, encoder: EfficientNetEncoder) -> None:
        """Take the encoder whose classifier is the teacher."""
        classes = load_classes()
        self.nouns = sorted({one.noun for one in classes})
        place = {noun: at for at, noun in enumerate(self.nouns)}
        self.places = torch.tensor([place[one.noun] for one in classes])
        self._classifier = encoder.network.classifier

    @torch.no_grad()
    def classes(self, tokens: Tensor) -> Tensor:
        """Return the probability of each class, float32 `[n, 1000]`, for tokens `[n, 1728]`."""
        logits: Tensor = self._classifier(tokens[:, :HEAD].float())
        return logits.softmax(-1)

    @torch.no_grad()
    def shares(self, tokens: Tensor) -> Tensor:
        """Return each noun's share of the squares of the classes' probabilities, float32 `[n, nouns]`.

        Squares, because 118 classes are dogs: where the teacher has no idea, their sum would be far ahead.
        """
        squares = self.classes(tokens).square()
        sums = torch.zeros(len(tokens), len(self.nouns)).index_add_(1, self.places, squares)
        return sums / sums.sum(1, keepdim=True)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return the classifier's weight and bias, float32 `[1000, 1280]` and `[1000]`."""
        return self._classifier.weight.detach(), self._classifier.bias.detach()
