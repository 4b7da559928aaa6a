"""Prompts between image and caption, as those that Molmo and the models of the LatentLens paper are trained with."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from latentbank.errors import ModelError

_CHARACTERS = 15  # characters of a caption for each unit of the length that a prompt names
_SPREAD = 25  # characters, the deviation of that length
_PLAIN = 0.1  # share of the prompts that name no length
ASKED = 65  # the length asked for when a caption is written, as the paper's models are asked


@dataclass(frozen=True)
class Prompts:
    """Prompts of one style, such as `long_caption 42:`, which say how long the caption is, roughly.

    A length is the caption's number of characters, changed by a normal deviation of 25, divided by 15. A tenth of the
    prompts name none: `long_caption :`. (Molmo, arXiv 2409.17146; the numbers are those of the training configuration
    of arXiv 2602.00462.)

    Attributes:
        style: the word that they begin with.
    """

    style: str

    def training(self, caption: str, random: np.random.Generator) -> str:
        """Return a prompt for a caption that is known."""
        if random.random() < _PLAIN:
            return self.naming(None)
        length = len(caption) + int(random.normal(scale=_SPREAD))
        return self.naming(max(0, length) // _CHARACTERS)

    def writing(self) -> str:
        """Return the prompt with which a caption is written."""
        return self.naming(ASKED)

    def naming(self, length: int | None) -> str:
        """Return the prompt that names a length; None: it names none."""
        return f"{self.style} :" if length is None else f"{self.style} {length}:"


def check_style(style: str) -> None:
    """Check that a prompt can begin with a style.

    Raises:
        ModelError: it is not one word.
    """
    if not isinstance(style, str) or not re.fullmatch(r"[^\s:]+", style):
        raise ModelError(
            f"The prompt's style {style!r} is not one word: give one, such as long_caption.",
            argument="prompt",
        )
