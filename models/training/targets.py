"""What the language model learns to write about an image: the caption, or its first sentence."""

from __future__ import annotations

import re
from dataclasses import replace

from latentbank.models.training.features import Features

CAPTION, FIRST_SENTENCE = "caption", "first-sentence"
_END = re.compile(r"\.(?=\s|$)")
_LEAST = 4  # words of a first sentence; with fewer, the second one belongs to it


def first_sentence(caption: str) -> str:
    """Return a caption's first sentence, with the second one if it has fewer than four words.

    A full stop ends a sentence where white space follows, so that "2.5" stays whole. A caption without a full stop is
    returned as it is.
    """
    ends = [match.end() for match in _END.finditer(caption)][:2]
    if not ends:
        return caption
    first = caption[: ends[0]].strip()
    return first if len(first.split()) >= _LEAST else caption[: ends[-1]].strip()


def first_sentences(features: Features) -> Features:
    """Return the same images with only the first sentence of each caption."""
    return replace(
        features, rows=tuple(replace(row, caption=first_sentence(row.caption)) for row in features.rows)
    )
