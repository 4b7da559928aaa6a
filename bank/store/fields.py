"""Which payload fields have an index, in collections of contexts and of visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from latentbank.bank.points import IMAGE_FIELDS, INDEXED_FIELDS
from latentbank.bank.store.names import split_images

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings


def holds_images(stored: str) -> bool:
    """Return whether visual tokens are stored under a name, not contexts."""
    return split_images(stored) is not None


def has_graph(stored: str, count: int, settings: Settings) -> bool:
    """Return whether a layer of `count` points, stored under a name, is to have a graph.

    Visual tokens have none: they are asked for words, which are far from all of them and lose their way in their graph.
    Of 490,000 tokens it found two of three of the nearest, with eight times the candidates three of four; a scan of
    their codes finds all (docs/benchmarks.md).
    """
    return not holds_images(stored) and count >= settings.graph_from


def indexed_fields(stored: str) -> Mapping[str, str]:
    """Return the indexed payload fields of what is stored under a name, and the kinds of their indexes."""
    return IMAGE_FIELDS if holds_images(stored) else INDEXED_FIELDS
