"""Batches for training a projector: which rows go together, and the tensors of their sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentbank.errors import ModelError
from latentbank.models.composite.layout import ImageTokens, Layout, caption_ids, layout_of
from latentbank.models.training.features import Features
from latentbank.models.training.prompts import Prompts

# Rows are sorted by length within this many batches: little padding, and still shuffled.
_POOL = 50
_LONGEST = 9999  # a length in a prompt; captions of 150,000 characters are cut long before


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
        lengths: length of each row's sequence, [rows] int64, with the longest of the prompts; the last target is not an
            input.
        counts: number of targets of each row, [rows] int64.
        cut: number of captions that were longer than the LLM's context and were cut.
        tokens: all token ids that occur.
    """

    def __init__(
        self,
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        prompts: Prompts | None = None,
        *,
        image: ImageTokens | None = None,
        columns: int = 0,
    ) -> None:
        """Tokenize the captions.

        Args:
            features: the rows.
            tokenizer: the LLM's.
            max_length: the LLM's number of positions.
            prompts: the prompts between image and caption; None: a newline.
            image: the tokens that mark an image; None: nothing marks it.
            columns: number of visual tokens in a row, for `image`.

        Raises:
            ModelError: the visual tokens alone fill the LLM's context of `max_length` positions.
        """
        self.features = features
        layout = layout_of(tokenizer, image, columns)
        # Between image and prompt; a newline ends the image only where a caption follows it.
        self._ending = () if image is None else layout.after
        self._tokenizer, self._prompts = tokenizer, prompts
        if prompts is not None:
            layout = replace(layout, after=self._prompted(prompts.writing()))  # when a caption is written
        self.layout: Layout = layout
        self._captions = [row.caption.strip() for row in features.rows]
        encoded = tokenizer(
            self._captions, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        self._targets: list[list[int]] = []
        self.cut = 0
        after = layout.after if prompts is None else self._prompted(prompts.naming(_LONGEST))
        fixed = len(layout.before) + len(after)
        shown = [len(layout.image(features.count(number))[0]) for number in range(len(features))]
        for number, ids in enumerate(encoded["input_ids"]):
            room = max_length - fixed - shown[number] + 1  # the last target needs no position
            if room < 2:
                raise ModelError(
                    f"{features.count(number)} visual tokens leave no room for a caption in the LLM's "
                    f"{max_length} positions: use an encoder with fewer tokens or another LLM."
                )
            whole = [*ids, self.layout.end]
            self.cut += len(whole) > room
            self._targets.append(whole[:room])
        marks = set() if image is None else {image.start, image.end}
        self.tokens = {*layout.before, *after, *chain.from_iterable(self._targets)} - marks
        self.counts = np.array([len(ids) for ids in self._targets])
        self.lengths = fixed + np.array(shown) + self.counts - 1

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

    def batch(self, rows: Sequence[int], seed: Sequence[int] = ()) -> Batch:
        """Return the tensors of some rows, on the CPU.

        Args:
            rows: numbers of rows.
            seed: numbers that the prompts depend on, beside the row's.
        """
        starts = [self.layout.ids(self.features.count(row), self._after(row, seed)) for row in rows]
        lengths = [
            len(start) + len(self._targets[row]) - 1 for row, (start, _) in zip(rows, starts, strict=True)
        ]
        ids = torch.full((len(rows), max(lengths)), self.layout.end)
        shown, predicting, targets = [], [], []
        for place, (row, (start, positions)) in enumerate(zip(rows, starts, strict=True)):
            caption = self._targets[row]
            ids[place, : lengths[place]] = torch.tensor([*start, *caption[:-1]])
            shown.append((place, positions))
            predicting.append((place, range(len(start) - 1, lengths[place])))
            targets += caption
        return Batch(
            ids,
            torch.cat([self.features.tokens(row) for row in rows]),
            _positions(shown),
            _positions(predicting),
            torch.tensor(targets),
        )

    def _after(self, row: int, seed: Sequence[int]) -> Sequence[int]:
        """Return the ids between image and caption."""
        if self._prompts is None:
            return self.layout.after
        random = np.random.default_rng([*seed, row])
        return self._prompted(self._prompts.training(self._captions[row], random))

    def _prompted(self, prompt: str) -> tuple[int, ...]:
        return (*self._ending, *caption_ids(self._tokenizer, prompt))


def _positions(places: Sequence[tuple[int, Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Return row and position of every token, of each row with its positions."""
    rows = torch.cat([torch.full((len(positions),), row) for row, positions in places])
    return rows, torch.cat([torch.tensor(list(positions), dtype=torch.long) for _, positions in places])
