"""Filters by caption: what the engine is asked for a phrase, and the contexts that it gets wrong.

The engine's index of captions has the tokenizer `multilingual`, which folds case, accents and Unicode's normal forms,
and cuts scripts without spaces into words. Two things are left to do:

- It cuts a whole text as Japanese, as Chinese or as mostly Latin, so a word alone may be cut in another way than in its
  sentence: Japanese in kanji alone, or in a sentence that is mostly Latin. Such a phrase is looked for in each way, and
  in each width of its letters, which Japanese text keeps. What the tokenizer cuts in none of these ways is not found
  (docs/reading.md).
- It leaves out words without letters. "house 7" is then "house", and "red house" is found in "red 7 house". The
  captions of such candidates are read and compared here.
"""

from __future__ import annotations

import math
import re
import threading
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

from latentbank.bank.where import All, Any, Filter, Not, Where

# Characters that make the engine take a text for Japanese or Chinese.
_EAST_ASIAN = (
    "\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3038-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
# Scripts without spaces: those, Thai, Lao, Burmese, Khmer, and the rarer characters of Chinese.
_WITHOUT_SPACES = _EAST_ASIAN + "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
_IS_EAST_ASIAN = re.compile(f"[{_EAST_ASIAN}]")
_HAS_NO_SPACES = re.compile(f"[{_WITHOUT_SPACES}]")
_WORD = re.compile(rf"(?=\w)[{_WITHOUT_SPACES}]|[^\W_{_WITHOUT_SPACES}]+")
# The engine counts it as kana, and leaves it out because it is no letter.
_KATAKANA_DOT = "\u30fb"
# It counts as Latin, and is left out because it is no letter.
_LATIN_MARK = "\u00a1"
# Half-width letters by their full-width ones, and the marks that follow them.
_HALF_WIDTH = {unicodedata.normalize("NFKC", chr(code)): chr(code) for code in range(0xFF66, 0xFF9E)}
_HALF_WIDTH |= {"\u3099": "\uff9e", "\u309a": "\uff9f"}
# Letters that Unicode does not take apart; others have a name such as LATIN SMALL LETTER O WITH STROKE.
_LETTERS = {"æ": "ae", "œ": "oe", "ß": "ss", "ı": "i", "þ": "th", "ð": "d"}
_WITH_MARK = re.compile(r"LATIN SMALL LETTER ([A-Z]) WITH ")
# Seconds for which contexts found on a server are used again, as a ledger is: for the requests of one search.
_SECONDS = 1.0
# How many results are kept.
_KEPT = 15


@dataclass(frozen=True)
class Ids(Filter):
    """Contexts with one of these ids."""

    ids: frozenset[str]


def engine_phrases(phrase: str) -> list[str]:
    """Return the phrases to ask the engine for, of which one must match."""
    if not _IS_EAST_ASIAN.search(unicodedata.normalize("NFKC", phrase)):
        return [phrase]
    forms = [unicodedata.normalize(form, phrase) for form in ("NFC", "NFD", "NFKC")]
    forms.append("".join(_HALF_WIDTH.get(letter, letter) for letter in unicodedata.normalize("NFKD", phrase)))
    ends = ("", _KATAKANA_DOT, _LATIN_MARK * (2 * len(phrase) + 2))  # the most frequent script decides
    return list(dict.fromkeys(form + end for form in forms for end in ends))


def contains(caption: str, phrase: str) -> bool:
    """Return whether a phrase's words follow each other in a caption; in scripts without spaces, its characters."""
    words, wanted = _words(caption), _words(phrase)
    if not set(wanted) <= set(words):
        return False
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1))


def _words(text: str) -> tuple[str, ...]:
    apart = unicodedata.normalize("NFKD", text).casefold()
    return tuple(_WORD.findall("".join(map(_folded, apart)) if not apart.isascii() else apart))


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    """Return a character without its accent, as the engine folds it; nothing for the accent itself."""
    if unicodedata.category(character)[0] == "M":
        return ""
    if mark := _WITH_MARK.match(unicodedata.name(character, "")):
        return mark[1].lower()
    return _LETTERS.get(character, character)


def _has_letters(word: str) -> bool:
    return any(map(str.isalpha, word))


def _must_compare(phrase: str) -> bool:
    """Return whether numbers, in the phrase or between its words, decide if a caption that the engine finds has it."""
    words = _words(phrase)
    return not all(map(_has_letters, words)) or (len(words) > 1 and not _HAS_NO_SPACES.search(phrase))


class CaptionFilters:
    """Turns filters by caption into filters that the engine answers rightly, layer by layer."""

    def __init__(
        self, read: Callable[[int, Filter | None], Iterator[tuple[str, str]]], *, shared: bool
    ) -> None:
        """Keep how contexts are read.

        Args:
            read: called with a layer and a filter without `Ids`; yields ids and captions of what the engine finds.
            shared: other processes may add and delete contexts.
        """
        self._read = read
        self._seconds = _SECONDS if shared else math.inf
        self._found: dict[tuple[int, str], tuple[float, Filter]] = {}
        self._generation = 0
        self._guards: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Add or delete contexts in the block; afterwards nothing is used that was found before, or meanwhile."""
        try:
            yield
        finally:
            self._generation += 1
            self._found = {}

    def exact(self, layer: int, where: Filter | None) -> Filter | None:
        """Return a filter for the same contexts, of which the engine finds exactly these."""
        return None if where is None else self._exact(layer, where)

    def each_exact(
        self, layer: int, where: Filter | Sequence[Filter | None] | None
    ) -> Filter | Sequence[Filter | None] | None:
        """Return one filter, or several, as `exact` does."""
        if not isinstance(where, Sequence) or isinstance(where, str):
            return self.exact(layer, where)
        made: dict[int, Filter | None] = {}  # by identity: many queries have the same filter
        for part in where:
            if id(part) not in made:
                made[id(part)] = self.exact(layer, part)
        return [made[id(part)] for part in where]

    def _exact(self, layer: int, where: Filter) -> Filter:
        if isinstance(where, All | Any):
            return type(where)(tuple(self._exact(layer, part) for part in where.parts))
        if isinstance(where, Not):
            return Not(self._exact(layer, where.part))
        phrase = where.caption_contains if isinstance(where, Where) else None
        if not isinstance(where, Where) or not isinstance(phrase, str) or not _must_compare(phrase):
            return where
        key = (layer, repr(where))
        with self._guards[layer]:
            at, found = self._found.get(key, (0.0, None))
            if found is None or time.monotonic() - at > self._seconds:
                generation = self._generation
                found = self._compare(layer, where, phrase)
                if generation == self._generation:
                    kept = dict(list(self._found.items())[-_KEPT:])
                    self._found = {**kept, key: (time.monotonic(), found)}
            return found

    def _compare(self, layer: int, where: Where, phrase: str) -> Filter:
        """Return the filter after a look at the captions of all contexts that the engine finds."""
        words = _words(phrase)
        numbers_alone = not any(map(_has_letters, words))
        letters_alone = all(map(_has_letters, words))
        rest = replace(where, caption_contains=None)
        asked = (rest if rest.given() else None) if numbers_alone else where
        fits: dict[str, bool] = {}
        ids: dict[bool, set[str]] = {True: set(), False: set()}
        for id_, caption in self._read(layer, asked):
            if caption not in fits:
                # Where no number can matter, the engine is right, also about what it takes for the same letter.
                fits[caption] = (letters_alone and all(map(_has_letters, _words(caption)))) or contains(
                    caption, phrase
                )
            ids[fits[caption]].add(id_)
        if numbers_alone or len(ids[True]) < len(ids[False]):
            return Ids(frozenset(ids[True]))
        return All((where, Not(Ids(frozenset(ids[False]))))) if ids[False] else where
