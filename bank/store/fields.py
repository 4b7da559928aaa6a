"""Which payload fields have an index, in collections of contexts and of visual tokens."""

from __future__ import annotations

from collections.abc import Mapping

from latentbank.bank.points import IMAGE_FIELDS, INDEXED_FIELDS
from latentbank.bank.store.names import split_images


def holds_images(stored: str) -> bool:
    """Return whether visual tokens are stored under a name, not contexts."""
    return split_images(stored) is not None


def indexed_fields(stored: str) -> Mapping[str, str]:
    """Return the indexed payload fields of what is stored under a name, and the kinds of their indexes."""
    return IMAGE_FIELDS if holds_images(stored) else INDEXED_FIELDS
