"""Cleaning: the sentences in a corpus's records, and counts of what was left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Clean = Callable[[str], list[str]]
"""Gives the sentences of a record, in their order; an empty one stands for text that is none."""

# A sentence ends after . ! or ? and closing quotes or brackets, before white space and what can begin another one.
_END = re.compile(r"(?<=[.!?])([\"'”’)\]]*)\s+(?=[\"'“‘(\[]*[A-Z0-9])")
_WHOLE = re.compile(r".*[.!?][\"'”’)\]]*")
# What ends in a dot without ending a sentence: initials, and abbreviations before names and numbers.
_NO_END = re.compile(
    r"(?:^|[\s(\[\"“])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Col|Capt|Lt|Sgt|Rev|Hon|No|Nos|vs|cf|ca|c|p|pp|Vol|vol|U\.S|"
    r"Fig|fig|approx|e\.g|i\.e|al|Inc|Ltd|Co|Mt|Ft)\.$"
)
_FEWEST_WORDS = 3


@dataclass
class Cleaned:
    """What cleaning has done so far.

    Attributes:
        records: records read.
        sentences: sentences kept.
        empty: records without text.
        fragments: headings, entries of lists and sentences of fewer than three words that were left out of texts.
        duplicates: sentences left out because an earlier one is the same.
    """

    records: int = 0
    sentences: int = 0
    empty: int = 0
    fragments: int = 0
    duplicates: int = 0


class Cleaner:
    """Cleans records in their order. Memory grows with the distinct sentences, about 80 bytes each.

    Attributes:
        counts: what was done so far.
    """

    def __init__(self, clean: Clean, counts: Cleaned | None = None, earlier: Iterable[str] = ()) -> None:
        """Start, or go on with what was cleaned before.

        Args:
            clean: gives a record's sentences.
            counts: what was done before.
            earlier: the sentences that were kept before.
        """
        self.counts = counts or Cleaned()
        self._clean = clean
        self._seen = {_mark(sentence) for sentence in earlier}

    def sentences(self, record: str | None) -> Iterator[str]:
        """Yield the sentences of the next record that are kept."""
        self.counts.records += 1
        # A NUL, and half of a character in UTF-16, have no place in text.
        text = (record or "").replace("\0", " ").encode("utf-8", "ignore").decode()
        if not text.strip():
            self.counts.empty += 1
            return
        for sentence in self._clean(text):
            if not sentence:
                self.counts.fragments += 1
                continue
            mark = _mark(sentence)
            if mark in self._seen:
                self.counts.duplicates += 1
                continue
            self._seen.add(mark)
            self.counts.sentences += 1
            yield sentence


def lower_phrase(text: str) -> list[str]:
    """Return a record as one phrase in lower case, its white space single spaces: as the authors' phrases are."""
    return [" ".join(text.lower().split())]


def one_sentence(text: str) -> list[str]:
    """Return a record as one sentence, its white space single spaces."""
    return [" ".join(text.split())]


def sentences_of_text(text: str) -> list[str]:
    """Return the sentences of a text with paragraphs; "" for each heading, entry of a list, or too short sentence."""
    return [
        sentence if _WHOLE.fullmatch(sentence) and sentence.count(" ") + 1 >= _FEWEST_WORDS else ""
        for line in text.splitlines()
        if (paragraph := " ".join(line.split()))
        for sentence in _split(paragraph)
    ]


def _split(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a paragraph: a rule of thumb, which knows the commonest abbreviations of English."""
    start = 0
    for found in _END.finditer(paragraph):
        sentence = paragraph[start : found.end(1)]
        if not _NO_END.search(sentence):
            yield sentence
            start = found.end()
    yield paragraph[start:]


def _mark(sentence: str) -> int:
    return int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=8).digest(), "big")
