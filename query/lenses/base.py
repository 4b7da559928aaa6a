"""Lenses: what turns a hidden state into words.

All answer with neighbors of one type, whose words are cut out of text by the same rule, so that whatever
scores readings treats them alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.points import Neighbor
from latentbank.bank.search import as_floats
from latentbank.bank.where import Filter
from latentbank.bank.words import Words, tight
from latentbank.errors import QueryError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from latentbank.models.language.unembedding import Unembedding

# Numbers worked on at a time (float32: 32 MiB), whatever the size of the vocabulary.
_BLOCK = 1 << 23


class Lens(Protocol):
    """What turns hidden states into neighbors."""

    @property
    def name(self) -> str:
        """What people call it: latent, logit, embedding."""

    def read(self, hidden_states: npt.ArrayLike | Tensor, top_k: int = 5) -> list[list[Neighbor]]:
        """Give the neighbors of each hidden state `[tokens, hidden]`, best first."""


@dataclass(frozen=True)
class LatentLens:
    """Nearest contexts of a bank by cosine (arXiv 2602.00462).

    Args:
        bank: where the contexts are.
        bank_layers: "mid", "all", one layer or several.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word"; None: all.
        exact: compare with every context in full precision.
        query_mean: for a centred bank, the mean of what the hidden states are examples of, as `Bank.search` takes it
            (query/lenses/centring.py finds it).
        ef: candidates in a large layer's graph, as `Bank.search` takes it; None: the setting, for visual tokens theirs.
    """

    bank: Bank
    bank_layers: BankLayers = "mid"
    where: Filter | None = None
    unique: Unique | None = None
    exact: bool = False
    query_mean: npt.ArrayLike | None = None
    ef: int | None = None

    name = "latent"

    def read(self, hidden_states: npt.ArrayLike | Tensor, top_k: int = 5) -> list[list[Neighbor]]:
        """Give the neighbors of each hidden state `[tokens, hidden]`, highest cosine first."""
        return self.bank.search(
            as_floats(hidden_states),
            self.bank_layers,
            top_k,
            self.where,
            exact=self.exact,
            unique=self.unique,
            query_mean=self.query_mean,
            ef=self.ef,
        )

    def for_visual_tokens(self) -> LatentLens:
        """Give the same lens with as many candidates as visual tokens need, unless it says how many."""
        return replace(self, ef=self.bank.settings.ef_visual) if self.ef is None else self


@dataclass(frozen=True)
class LogitLens:
    """What the LLM would say next if it ended here: the final norm and the unembedding (nostalgebraist, 2020).

    Its neighbors carry the token's `probability`, the softmax of all logits; they have no cosine.

    Args:
        unembedding: of the LLM that the hidden states live in.
        tokenizer: that LLM's.
        unique: "word" gives one neighbor per word, whose tokens differ in case and leading space; "context"
            changes nothing, as a token is no context.
    """

    unembedding: Unembedding
    tokenizer: PreTrainedTokenizerBase
    unique: Unique | None = None

    name = "logit"

    def read(self, hidden_states: npt.ArrayLike | Tensor, top_k: int = 5) -> list[list[Neighbor]]:
        """Give the most probable tokens for each hidden state `[tokens, hidden]`.

        Raises:
            QueryError: wrong shape, or a hidden state that is zero or not finite (the row is named).
        """
        rows = _checked(hidden_states)
        known = len(self.tokenizer)

        def best(rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
            found = []
            at = 0
            size = 1  # the first row tells how wide the logits are
            while at < len(rows):
                logits = self.unembedding.logits(rows[at : at + size]).float()
                at += size
                size = max(1, _BLOCK // logits.shape[-1])
                # All logits share the probability, also those of rows that are no tokens (padding of the matrix).
                chances = logits.softmax(-1)[:, :known]
                found.append(chances.topk(min(depth, chances.shape[-1])))
            return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

        def neighbor(word: str, token: str, token_id: int, score: float) -> Neighbor:
            return Neighbor(word, token, math.nan, token_id=token_id, probability=score)

        with torch.inference_mode():
            return _tokens(best, rows, top_k, self.unique, self.tokenizer, neighbor)


@dataclass(frozen=True)
class EmbeddingLens:
    """Nearest tokens by cosine with the LLM's input embeddings.

    The matrix is gone through in blocks, each brought to float32 alone, so that it is never copied whole.

    Args:
        embedding: `[vocab, hidden]` in any float dtype, on any device.
        tokenizer: of the same LLM.
        unique: as for `LogitLens`.
        mean: `[hidden]`, taken from each row of the matrix before it is compared (`mean_embedding` gives the matrix's
            own); None: nothing is taken. Hidden states are compared as they come.
    """

    embedding: Tensor
    tokenizer: PreTrainedTokenizerBase
    unique: Unique | None = None
    mean: Tensor | None = None

    name = "embedding"

    def read(self, hidden_states: npt.ArrayLike | Tensor, top_k: int = 5) -> list[list[Neighbor]]:
        """Give the nearest tokens of each hidden state `[tokens, hidden]`, highest cosine first.

        Raises:
            QueryError: wrong shape, or a hidden state that is zero or not finite (the row is named).
        """
        rows = _checked(hidden_states)
        size, width = self.embedding.shape
        if rows.shape[1] != width:
            raise QueryError(f"The hidden states are {rows.shape[1]} wide, the input embeddings {width}.")
        rows = torch.nn.functional.normalize(rows.to(self.embedding.device), dim=-1)
        known = min(len(self.tokenizer), size)  # rows beyond are no tokens
        mean = None if self.mean is None else self.mean.to(rows.device, torch.float32)

        def best(rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
            scores = rows.new_empty(len(rows), 0)
            ids = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
            step = max(1, _BLOCK // max(width, len(rows)))
            for start in range(0, known, step):
                block = self.embedding[start : min(start + step, known)].float()
                if mean is not None:
                    block = block - mean
                cosines = rows @ block.T / block.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
                top = cosines.topk(min(depth, len(block)))
                scores, ids = torch.cat([scores, top.values], 1), torch.cat([ids, top.indices + start], 1)
                kept = scores.topk(min(depth, scores.shape[1]))
                scores, ids = kept.values, ids.gather(1, kept.indices)
            return scores, ids

        def neighbor(word: str, token: str, token_id: int, score: float) -> Neighbor:
            return Neighbor(word, token, score, token_id=token_id)

        with torch.inference_mode():
            return _tokens(best, rows, top_k, self.unique, self.tokenizer, neighbor)


def mean_embedding(embedding: Tensor) -> Tensor:
    """Give the mean row of an input embedding `[vocab, hidden]`: float32 `[hidden]`, added up block by block."""
    size, width = embedding.shape
    step = max(1, _BLOCK // width)
    total = torch.zeros(width, dtype=torch.float64, device=embedding.device)
    with torch.inference_mode():
        for start in range(0, size, step):
            # Of a block float32 is enough; the blocks are added in double, as some dimensions are huge.
            total += embedding[start : start + step].float().sum(0)
    return (total / size).float()


def _checked(states: npt.ArrayLike | Tensor) -> Tensor:
    """Bring hidden states to float32 `[tokens, hidden]`, on the device they are on, as `Bank.search` wants them."""
    try:
        given = states if isinstance(states, Tensor) else torch.from_numpy(as_floats(states).copy())
    except (TypeError, ValueError) as error:
        raise QueryError(f"Hidden states must be an array of numbers [tokens, hidden]: {error}.") from None
    rows = given.detach().float()
    rows = rows[None] if rows.dim() == 1 else rows
    if rows.dim() != 2:
        raise QueryError(f"The hidden states have shape {list(rows.shape)}; they must be [tokens, hidden].")
    for wrong, what in (
        (~rows.isfinite().all(1), "holds a value that is not finite"),
        (~rows.any(1), "is all zeros"),
    ):
        if wrong.any():
            raise QueryError(f"Row {int(wrong.int().argmax())} of the hidden states {what}.")
    return rows


def _tokens(
    best: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    rows: Tensor,
    top_k: int,
    unique: Unique | None,
    tokenizer: PreTrainedTokenizerBase,
    neighbor: Callable[[str, str, int, float], Neighbor],
) -> list[list[Neighbor]]:
    """Make neighbors of the best tokens of each row; for distinct words, of as many as it takes.

    `best` gives scores and token ids `[rows, depth]`, highest first, fewer where the vocabulary is smaller.
    """
    if top_k < 1:
        raise QueryError(f"top_k is {top_k}; ask for at least 1 neighbor.")
    answers: list[list[Neighbor]] = [[] for _ in rows]
    names: dict[int, tuple[str, str]] = {}
    pending, depth = list(range(len(rows))), top_k
    while pending:
        scores, ids = best(rows[pending], depth)
        for row, row_scores, row_ids in zip(pending, scores.tolist(), ids.tolist(), strict=True):
            kept: dict[object, Neighbor] = {}
            for score, token_id in zip(row_scores, row_ids, strict=True):
                if token_id not in names:
                    token = str(tokenizer.decode([token_id]))
                    names[token_id] = (Words(token).at(*tight(token, 0, len(token))), token)
                word, token = names[token_id]
                kept.setdefault(
                    word.casefold() if unique == "word" else token_id, neighbor(word, token, token_id, score)
                )
            answers[row] = list(kept.values())[:top_k]
        exhausted = ids.shape[1] < depth
        pending = [] if exhausted else [row for row in pending if len(answers[row]) < top_k]
        depth *= 4
    return answers
