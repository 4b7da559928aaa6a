"""Merging the neighbors of one query from several bank layers into one list."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Literal, Protocol, TypeVar

Unique = Literal["context", "word"]


class Found(Protocol):
    """An item that can be merged: a neighbor, or a candidate for one."""

    @property
    def id(self) -> str:
        """The context's id."""

    @property
    def score(self) -> float:
        """What it is ranked by: its cosine with the query, or a corrected score."""

    @property
    def bank_layer(self) -> int:
        """The layer it was found in."""

    @property
    def word(self) -> str:
        """The context's word."""


F = TypeVar("F", bound=Found)

_KEYS: dict[Unique, Callable[[Found], Hashable]] = {
    "context": lambda n: n.id,
    "word": lambda n: n.word.casefold(),
}


def merge(neighbors: Iterable[F], top_k: int, unique: Unique | None = None) -> list[F]:
    """Return the first `top_k` neighbors, sorted by score, highest first.

    Equal scores are ordered by layer and id, so the result does not depend on their order.

    Args:
        neighbors: the neighbors of one query, from any number of bank layers.
        top_k: how many to keep.
        unique: "context" keeps one neighbor per context (the same token of the same sentence found in
            several layers), "word" one per word (case folded), None keeps all.
    """
    ordered = sorted(neighbors, key=lambda n: (-n.score, n.bank_layer, n.id))
    if unique is None:
        return ordered[:top_k]
    key = _KEYS[unique]
    kept: dict[Hashable, F] = {}
    for neighbor in ordered:
        kept.setdefault(key(neighbor), neighbor)
        if len(kept) == top_k:
            break
    return list(kept.values())
