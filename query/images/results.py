"""Answers of a bank of images: patches, best first, with what was asked and how they were ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentbank.bank.images.points import Patch


@dataclass(frozen=True)
class RankedPatches:
    """The visual tokens of a bank of images that answer a question, best first.

    Attributes:
        question: what was asked, for people: a word, or a patch of a photo.
        patches: the answer. Where they were asked for by image, an image's patches follow each other, and the images
            are in the order of their best patches.
        bank: the bank's name.
        model: the VLM's name.
        visual_layers: those that were searched.
        bank_layers: those that the word's contexts come from; empty for a patch.
        source: where the question's vectors come from, for people.
        correction: how scores were corrected, for people; empty: the patches are ranked by cosine.
        by_image: whether the patches stand in groups by image.
        pictures: small pictures (JPEG) of the images by corpus and digest, as far as they are stored.
    """

    question: str
    patches: tuple[Patch, ...]
    bank: str
    model: str
    visual_layers: tuple[int, ...]
    bank_layers: tuple[int, ...] = ()
    source: str = ""
    correction: str = ""
    by_image: bool = False
    pictures: Mapping[tuple[str, str], bytes] = field(default_factory=dict, repr=False)

    def images(self) -> list[tuple[Patch, ...]]:
        """Return the patches of each image, images in the order of their best patches."""
        groups: dict[str, list[Patch]] = {}
        for patch in self.patches:
            groups.setdefault(patch.digest, []).append(patch)
        return [tuple(group) for group in groups.values()]

    def picture(self, patch: Patch) -> bytes | None:
        """Return the small picture (JPEG) of a patch's image; None if there is none."""
        return self.pictures.get((patch.corpus, patch.digest)) or None

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-ready data, without the pictures."""
        return {
            "question": self.question,
            "bank": self.bank,
            "model": self.model,
            "visual_layers": list(self.visual_layers),
            "bank_layers": list(self.bank_layers),
            "source": self.source,
            "correction": self.correction,
            "by_image": self.by_image,
            "patches": [patch.to_dict() for patch in self.patches],
        }
