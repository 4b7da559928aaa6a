"""Merging: the neighbors of one query from several bank layers become one list."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Literal, Protocol, TypeVar

Unique = Literal["context", "word"]


class Found(Protocol):
    """What can be merged: a neighbor, or what will be one."""

    @property
    def id(self) -> str:
        """The context's id."""

    @property
    def cosine(self) -> float:
        """How near it is."""

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
    """Sort `neighbors` by cosine, highest first, and keep the first `top_k`.

    Equal cosines are ordered by layer and id, so that a result never depends on the order of arrival.

    Args:
        neighbors: of one query, from any number of bank layers.
        top_k: how many to keep.
        unique: "context" keeps one neighbor per context (the same token of the same sentence found in
            several layers), "word" one per word (case folded), None keeps all.
    """
    ordered = sorted(neighbors, key=lambda n: (-n.cosine, n.bank_layer, n.id))
    if unique is None:
        return ordered[:top_k]
    key = _KEYS[unique]
    kept: dict[Hashable, F] = {}
    for neighbor in ordered:
        kept.setdefault(key(neighbor), neighbor)
        if len(kept) == top_k:
            break
    return list(kept.values())
