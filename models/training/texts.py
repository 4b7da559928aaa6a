"""Sentences as lenses are trained on them: batches of token ids, and which of their tokens count."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentbank.errors import CorpusError

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel

Ids = list[int]
LONGEST = 128
"""Tokens of a sentence that are used; the rest is cut."""


@dataclass(frozen=True)
class Texts:
    """The token ids of sentences, for training and held out.

    Attributes:
        training: sentences to learn from.
        held_out: other sentences, evenly spaced among them.
    """

    training: tuple[Ids, ...]
    held_out: tuple[Ids, ...]


def texts_of(language: LanguageModel, sentences: Sequence[str], held_out: float = 0.05) -> Texts:
    """Return the token ids of sentences, of which a share is held out; those of fewer than two tokens are left out.

    Raises:
        CorpusError: fewer than two sentences are left.
    """
    special = set(language.tokenizer.all_special_ids)
    longest = min(LONGEST, language.max_length)
    encoded = [language.encode(sentence)[:longest] for sentence in sentences]
    usable = [ids for ids in encoded if sum(token not in special for token in ids) > 1]
    if len(usable) < 2:
        raise CorpusError("A lens is trained on at least two sentences of two words or more; give more text.")
    every = max(2, round(1 / held_out))
    return Texts(
        tuple(ids for number, ids in enumerate(usable) if number % every != every - 1),
        tuple(ids for number, ids in enumerate(usable) if number % every == every - 1) or (usable[-1],),
    )


def batches(sentences: Sequence[Ids], tokens: int, seed: int | None = None) -> Iterator[list[Ids]]:
    """Yield sentences in groups of about so many tokens, padding included.

    Args:
        sentences: token ids.
        tokens: of one group; a longer sentence is a group alone.
        seed: of the order; None: as they come.
    """
    order = list(sentences)
    if seed is not None:
        random.Random(seed).shuffle(order)
    group: list[Ids] = []
    for ids in order:
        longest = max([len(ids), *map(len, group)])
        if group and longest * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(ids)
    if group:
        yield group


def counted_tokens(language: LanguageModel, sentences: Sequence[Ids]) -> Tensor:
    """Return which tokens of padded sentences count, [sentences, longest] bool.

    Special tokens and the first real token do not, as in a bank: the latter has no context and draws attention.
    """
    special = set(language.tokenizer.all_special_ids)
    counted = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.bool)
    for row, ids in enumerate(sentences):
        real = [place for place, token in enumerate(ids) if token not in special]
        counted[row, real[1:]] = True
    return counted
