"""Batches for training a projector: which rows go together, and the tensors of their sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentbank.errors import ModelError
from latentbank.models.composite.captions import Layout, layout_of
from latentbank.models.training.features import Features

# Rows of about the same length are looked for among so many batches: little padding, and still shuffled.
_POOL = 50


@dataclass(frozen=True)
class Batch:
    """Sequences, right-padded: causal attention never lets a token see the padding, so no mask is needed.

    Attributes:
        ids: token ids, something at visual positions and padding, [rows, length] long.
        features: of all visual tokens, row after row, [visual tokens, features] float16.
        visual: where they go: row and position, two of [visual tokens] long.
        asked: which positions' next tokens count: row and position, two of [targets] long.
        targets: those next tokens, [targets] long.
    """

    ids: Tensor
    features: Tensor
    visual: tuple[Tensor, Tensor]
    asked: tuple[Tensor, Tensor]
    targets: Tensor


class Sequences:
    """The rows of some features as sequences of a language model.

    Attributes:
        features: the rows.
        lengths: of each row's sequence, [rows] int64; its last target is no input.
        counts: of each row's targets, [rows] int64.
        cut: how many captions were longer than the LLM's context and lost their end.
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
            room = max_length - fixed - features.shown(number) + 1  # the last target needs no position
            if room < 2:
                raise ModelError(
                    f"{features.shown(number)} visual tokens leave no room for a caption in the LLM's "
                    f"{max_length} positions: use an encoder with fewer tokens or another LLM."
                )
            whole = [*ids, self.layout.end]
            self.cut += len(whole) > room
            self._targets.append(whole[:room])
        self.counts = np.array([len(ids) for ids in self._targets])
        shown = np.array([features.shown(number) for number in range(len(features))])
        self.lengths = fixed + shown + self.counts - 1

    def order(self, batch: int, seed: Sequence[int]) -> list[list[int]]:
        """One pass over the rows, `batch` of them at a time: shuffled, rows of like lengths together."""
        random = np.random.default_rng(list(seed))
        shuffled = random.permutation(len(self.lengths))
        batches = []
        for start in range(0, len(shuffled), batch * _POOL):
            pool = shuffled[start : start + batch * _POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[first : first + batch].tolist() for first in range(0, len(pool), batch)]
        return [batches[number] for number in random.permutation(len(batches))]

    def by_length(self, batch: int) -> list[list[int]]:
        """All rows, `batch` at a time, the short ones first."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[first : first + batch].tolist() for first in range(0, len(order), batch)]

    def batch(self, rows: Sequence[int]) -> Batch:
        """The tensors of some rows, on the CPU."""
        before, after = self.layout.before, self.layout.after
        ids = torch.full((len(rows), int(self.lengths[list(rows)].max())), self.layout.end)
        shown, asked, targets = [], [], []
        for place, row in enumerate(rows):
            count = self.features.shown(row)
            said = self._targets[row]
            start = len(before) + count
            ids[place, : len(before)] = torch.tensor(before)
            text = [*after, *said[:-1]]
            ids[place, start : start + len(text)] = torch.tensor(text)
            shown.append((place, len(before), count))
            asked.append((place, start + len(after) - 1, len(said)))
            targets += said
        return Batch(
            ids,
            torch.cat([self.features.tokens(row) for row in rows]),
            _positions(shown),
            _positions(asked),
            torch.tensor(targets),
        )


def _positions(spans: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    """Row and position of every token in spans of (row, first position, count)."""
    rows = torch.cat([torch.full((count,), row) for row, _, count in spans])
    return rows, torch.cat([torch.arange(first, first + count) for _, first, count in spans])
