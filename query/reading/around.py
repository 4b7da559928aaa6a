"""The text around an image: which of its tokens are read, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from latentbank.errors import QueryError
from latentbank.values import whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from latentbank.models.vision.tokens import TextTokens

Which = Literal["visual", "all"]
"""Which tokens of a prompt are read: the visual ones, or all."""


@dataclass(frozen=True)
class Around:
    """The text tokens that are read with an image's visual tokens.

    Attributes:
        prompt: whether those of the prompt are read.
        answer: the largest number of tokens that the model writes after the prompt and that are read; 0: none.
    """

    prompt: bool = False
    answer: int = 0

    def __bool__(self) -> bool:
        """Return whether there is any text to read."""
        return self.prompt or self.answer > 0


VISUAL_ALONE = Around()


def around_of(tokens: str, answer: int) -> Around:
    """Return what `tokens` and `answer` of `read_image` ask for.

    Raises:
        QueryError: they are not among the values allowed.
    """
    if tokens not in ("visual", "all"):
        raise QueryError(f"tokens is {tokens!r}; it can be 'visual' or 'all'.", argument="tokens")
    return Around(tokens == "all", whole(answer, "answer", 0))


def labels_of(text: TextTokens, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text of each token, with the space before it; joined, they are the text of each run of tokens."""
    ids = text.ids.tolist()
    starts = [0, *(np.flatnonzero(np.diff(text.positions) != 1) + 1).tolist()]
    runs = [ids[start:end] for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    return [label for run in runs for label in _pieces(run, tokenizer, text.names)]


def _pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, names: Mapping[int, str]) -> list[str]:
    """Return what each token adds to the text before it.

    Many tokenizers decode a single token without its space. A token that is part of a character is decoded alone.
    """
    found, before = [], ""
    for end, token in enumerate(ids, 1):
        if token in names:
            found.append(names[token])
            continue
        now = _decoded(tokenizer, [one for one in ids[:end] if one not in names])
        found.append(now[len(before) :] if now.startswith(before) else _decoded(tokenizer, [token]))
        before = now
    return found


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return cast(str, tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
