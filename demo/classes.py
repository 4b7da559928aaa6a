"""The encoder's 1,000 ImageNet classes, each with the noun of everyday speech that names it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from latentbank.query.evaluation.scoring import names

CLASSES = Path(__file__).parent / "data" / "classes.json"


@dataclass(frozen=True)
class ImageClass:
    """A class of the teacher.

    Attributes:
        name: ImageNet's, such as "Egyptian cat".
        noun: the noun of everyday speech that names it, such as "cat".
        article: "a", "an", or "some".
    """

    name: str
    noun: str
    article: str

    def named_by(self, words: Sequence[str]) -> bool:
        """Return whether one of `words` names the class: by its noun, its whole name, or its last word."""
        return any(names(word, self.noun) or names(word, self.name) for word in words)


@lru_cache(maxsize=1)
def load_classes() -> tuple[ImageClass, ...]:
    """Return the teacher's 1,000 classes in their order."""
    entries = json.loads(CLASSES.read_text(encoding="utf-8"))
    return tuple(ImageClass(entry["class"], entry["noun"], entry["article"]) for entry in entries)
