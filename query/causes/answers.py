"""Answers, word by word: which tokens of an answer say a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentbank.bank.words import Words
from latentbank.models.vision.tokens import TextTokens
from latentbank.query.evaluation.scoring import names
from latentbank.query.reading.around import labels_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Said:
    """A word of an answer: its text, and its tokens from `first` to before `end`."""

    text: str
    first: int
    end: int


@dataclass(frozen=True)
class Answer:
    """What a model says after a prompt.

    Attributes:
        ids: its token ids.
        text: its text.
        words: its words, in order; what is no word, such as a comma, is left out.
    """

    ids: tuple[int, ...]
    text: str
    words: tuple[Said, ...]

    def find(self, word: str) -> Said | None:
        """Return where the answer says a word or a name of several words, the first time; None: nowhere.

        Singular and plural are equal, and a name may be said by its head noun alone (`scoring.names`).
        """
        parts = word.split()
        for start in range(len(self.words) - len(parts) + 1):
            found = self.words[start : start + len(parts)]
            if all(names(said.text, part) for said, part in zip(found, parts, strict=True)):
                return Said(" ".join(said.text for said in found), found[0].first, found[-1].end)
        return next((said for said in self.words if names(said.text, word)), None)


def answer_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Answer:
    """Return an answer's words from its token ids."""
    count = len(ids)
    text = TextTokens({}, np.array(ids, np.int64), np.arange(count), np.ones(count, bool))
    pieces = labels_of(text, tokenizer)
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    starts = [0, *ends][:count]
    whole = "".join(pieces)
    words = []
    for left, right in Words(whole).spans:
        inside = [n for n in range(count) if starts[n] < right and ends[n] > left]
        if inside:
            words.append(Said(whole[left:right], inside[0], inside[-1] + 1))
    return Answer(tuple(ids), whole, tuple(words))
