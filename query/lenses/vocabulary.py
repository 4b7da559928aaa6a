"""What the lenses share whose neighbors are tokens of the LLM's vocabulary: checked rows, and tokens as neighbors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentbank.bank.search import as_floats
from latentbank.bank.words import Words, tight
from latentbank.errors import QueryError
from latentbank.values import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from latentbank.bank.merge import Unique
    from latentbank.bank.points import Neighbor

BLOCK = 1 << 23
"""Numbers worked on at a time (float32: 32 MiB), whatever the size of the vocabulary."""


def checked_rows(states: npt.ArrayLike | Tensor) -> Tensor:
    """Return hidden states as float32 `[tokens, hidden]`, on the device they are on, checked like a bank's queries.

    Raises:
        QueryError: wrong shape or type, or a row that is zero or not finite (the row is named).
    """
    import torch

    try:
        given = states if isinstance(states, torch.Tensor) else torch.from_numpy(as_floats(states).copy())
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


def token_neighbors(
    best: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    rows: Tensor,
    top_k: int,
    unique: Unique | None,
    tokenizer: PreTrainedTokenizerBase,
    neighbor: Callable[[str, str, int, float], Neighbor],
) -> list[list[Neighbor]]:
    """Return the best tokens of each row as neighbors.

    For distinct words, the depth of the search grows until there are `top_k` of them.

    Args:
        best: returns scores and token ids `[rows, depth]`, highest first, fewer where the vocabulary is smaller.
        rows: float32 `[tokens, hidden]`.
        top_k: neighbors per row.
        unique: "word": one neighbor per word.
        tokenizer: decodes the ids.
        neighbor: makes a neighbor of word, token, token id and score.

    Raises:
        QueryError: `top_k` is below 1.
    """
    top_k = whole(top_k, "top_k", 1)
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
