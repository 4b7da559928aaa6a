"""Batches for training a projector: which rows go together, and the tensors of their sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentbank.errors import ModelError
from latentbank.models.composite.layout import Layout, layout_of
from latentbank.models.training.features import Features

# Rows are sorted by length within this many batches: little padding, and still shuffled.
_POOL = 50


@dataclass(frozen=True)
class Batch:
    """Sequences, right-padded: causal attention never lets a token see the padding, so no mask is needed.

    Attributes:
        ids: token ids, [rows, length] long; ids at visual positions and padding are arbitrary.
        features: features of all visual tokens, row after row, [visual tokens, features] float16.
        visual: row and position of each visual token, two tensors [visual tokens] long.
        predicting: row and position of each token whose next token counts in the loss, two tensors [targets] long.
        targets: those next tokens, [targets] long.
    """

    ids: Tensor
    features: Tensor
    visual: tuple[Tensor, Tensor]
    predicting: tuple[Tensor, Tensor]
    targets: Tensor


class Sequences:
    """The rows of some features as sequences of a language model.

    Attributes:
        features: the rows.
        lengths: length of each row's sequence, [rows] int64; the last target is not an input.
        counts: number of targets of each row, [rows] int64.
        cut: number of captions that were longer than the LLM's context and were cut.
        tokens: all token ids that occur.
    """

    def __init__(self, features: Features, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Tokenize the captions.

        Raises:
            ModelError: the visual tokens alone fill the LLM's context of `max_length` positions.
        """
        self.features = features
        self.layout: Layout = layout_of(tokenizer)
        captions = [row.caption.strip() for row in features.rows]
        encoded = tokenizer(captions, add_special_tokens=False, split_special_tokens=True, verbose=False)
        self._targets: list[list[int]] = []
        self.cut = 0
        fixed = len(self.layout.before) + len(self.layout.after)
        for number, ids in enumerate(encoded["input_ids"]):
            room = max_length - fixed - features.count(number) + 1  # the last target needs no position
            if room < 2:
                raise ModelError(
                    f"{features.count(number)} visual tokens leave no room for a caption in the LLM's "
                    f"{max_length} positions: use an encoder with fewer tokens or another LLM."
                )
            whole = [*ids, self.layout.end]
            self.cut += len(whole) > room
            self._targets.append(whole[:room])
        self.tokens = {*self.layout.before, *self.layout.after, *chain.from_iterable(self._targets)}
        self.counts = np.array([len(ids) for ids in self._targets])
        shown = np.array([features.count(number) for number in range(len(features))])
        self.lengths = fixed + shown + self.counts - 1

    def order(self, batch: int, seed: Sequence[int]) -> list[list[int]]:
        """Return one pass over the rows in shuffled batches, each of rows of similar lengths."""
        random = np.random.default_rng(list(seed))
        shuffled = random.permutation(len(self.lengths))
        batches = []
        for start in range(0, len(shuffled), batch * _POOL):
            pool = shuffled[start : start + batch * _POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[first : first + batch].tolist() for first in range(0, len(pool), batch)]
        return [batches[number] for number in random.permutation(len(batches))]

    def by_length(self, batch: int) -> list[list[int]]:
        """Return all rows in batches, the shortest first."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[first : first + batch].tolist() for first in range(0, len(order), batch)]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the tensors of some rows, on the CPU."""
        before, after = self.layout.before, self.layout.after
        ids = torch.full((len(rows), int(self.lengths[list(rows)].max())), self.layout.end)
        shown, predicting, targets = [], [], []
        for place, row in enumerate(rows):
            count = self.features.count(row)
            caption = self._targets[row]
            start = len(before) + count
            ids[place, : len(before)] = torch.tensor(before)
            text = [*after, *caption[:-1]]
            ids[place, start : start + len(text)] = torch.tensor(text)
            shown.append((place, len(before), count))
            predicting.append((place, start + len(after) - 1, len(caption)))
            targets += caption
        return Batch(
            ids,
            torch.cat([self.features.tokens(row) for row in rows]),
            _positions(shown),
            _positions(predicting),
            torch.tensor(targets),
        )


def _positions(spans: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    """Return row and position of every token in spans of (row, first position, count)."""
    rows = torch.cat([torch.full((count,), row) for row, _, count in spans])
    return rows, torch.cat([torch.arange(first, first + count) for _, first, count in spans])
