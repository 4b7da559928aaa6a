"""Sentences as lenses are trained on them: batches of token ids, and which of their tokens count."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentbank.errors import CorpusError

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel

Ids = list[int]
LONGEST = 128
"""Tokens of a sentence that are used; the rest is cut."""
_EVERY = 20


def ids_of(language: LanguageModel, sentences: Sequence[str]) -> list[Ids]:
    """Return the token ids of sentences, cut after `LONGEST`; those of fewer than two real tokens are left out.

    Raises:
        CorpusError: fewer than two sentences are left.
    """
    special = set(language.tokenizer.all_special_ids)
    longest = min(LONGEST, language.max_length)
    encoded = [language.encode(sentence)[:longest] for sentence in sentences]
    usable = [ids for ids in encoded if sum(token not in special for token in ids) > 1]
    if len(usable) < 2:
        raise CorpusError("A lens is trained on at least two sentences of two words or more; give more text.")
    return usable


def split(sentences: Sequence[Ids]) -> tuple[list[Ids], list[Ids]]:
    """Return sentences to learn from, and every twentieth, held out; of fewer than twenty, the last one."""
    held_out = [ids for number, ids in enumerate(sentences) if number % _EVERY == _EVERY - 1]
    training = [ids for number, ids in enumerate(sentences) if number % _EVERY != _EVERY - 1]
    return (training, held_out) if held_out else (training[:-1], training[-1:])


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


def sample(sentences: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """Return a random sample of sentences, in their order; they are read once, and no others are kept."""
    chance = random.Random(seed)
    kept: list[tuple[int, str]] = []
    for number, sentence in enumerate(sentences):
        if number < count:
            kept.append((number, sentence))
        elif (place := chance.randrange(number + 1)) < count:
            kept[place] = (number, sentence)
    return [sentence for _, sentence in sorted(kept)]
