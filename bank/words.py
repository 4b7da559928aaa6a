"""Words: the whole word of a caption that a token belongs to."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import cache

# Scripts without spaces between words: there a token is its own word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_unspaced = re.compile(f"[{_UNSPACED}]")
_ASCII_WORD = re.compile(r"\w+(?:'\w+)*", re.ASCII)  # equivalent for most captions, and faster


@cache
def _word() -> re.Pattern[str]:
    """Return the pattern of a word; it is made when it is first needed, which takes a twentieth of a second."""
    # Python's \w leaves out combining marks, with which many scripts write their vowels.
    marks = "".join(
        mark
        for codes in (range(0x300, 0x20000), range(0xE0100, 0xE01F0))
        for mark in map(chr, codes)
        if unicodedata.category(mark).startswith("M") and not _unspaced.match(mark)
    )
    part = rf"(?:[^\W{_UNSPACED}]+|[{marks}]+)+"
    # Apostrophes, and the joiners of Persian and of the scripts of India, do not end a word.
    return re.compile(rf"{part}(?:['’\u200c\u200d]{part})*")


class Words:
    """The words of one caption, found once and looked up for many tokens.

    Attributes:
        spans: start and end of each word in the caption, in order; scripts without spaces have none.
    """

    def __init__(self, caption: str) -> None:
        self._caption = caption
        pattern = _ASCII_WORD if caption.isascii() else _word()
        self.spans = [match.span() for match in pattern.finditer(caption)]
        self._starts = [start for start, _ in self.spans]

    def at(self, start: int, end: int) -> str:
        """Return the word that contains the span `start`..`end`; the span's own text if no word does."""
        own = self._caption[start:end]
        if _unspaced.search(own):
            return own
        found = bisect_right(self._starts, start) - 1
        if found >= 0 and start < self.spans[found][1]:
            left, right = self.spans[found]
            return self._caption[left:right]
        return own


def tight(caption: str, start: int, end: int) -> tuple[int, int]:
    """Return a tokenizer's span without the white space at its ends, unless it consists of white space only.

    Some tokenizers do so themselves, and leave an empty span for a token that is white space; it is restored here.
    """
    text = caption[start:end]
    stripped = text.strip()
    if not stripped:
        lost = start == end and caption[start - 1 : start].isspace()
        return start - lost, end
    left = start + len(text) - len(text.lstrip())
    return left, left + len(stripped)
