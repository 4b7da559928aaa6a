"""Image-caption pairs: what a projector is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Pair:
    """One row of training data.

    Attributes:
        image: in RGB. Pairs that follow each other and hold the very same image object share its features.
        caption: what the language model learns to say about it.
        patches: which of the encoder's tokens alone are shown to the language model, in this order; None: all.
    """

    image: Image.Image
    caption: str
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """A row of training data that cannot be used, and why: `broken image` or `no caption`."""

    reason: str
