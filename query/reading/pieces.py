"""Reading in pieces: long readings that can tell how far they are, and end between two pieces."""

from __future__ import annotations

from collections.abc import Callable

from latentbank.bank.points import Neighbor
from latentbank.query.lenses.base import Lens, Queries

PIECE = 256
"""Hidden states that a lens is given at once."""


def read_in_pieces(
    lens: Lens, queries: Queries, top_k: int, between: Callable[[int], None]
) -> list[list[Neighbor]]:
    """Read queries through a lens, `PIECE` of them at a time.

    Args:
        lens: what reads.
        queries: of one layer.
        top_k: neighbors per query.
        between: called before the first piece with 0, and after each with the number of queries just read. An
            exception that it raises ends the reading.
    """
    found: list[list[Neighbor]] = []
    between(0)
    for start in range(0, len(queries), PIECE):
        piece = queries[start : start + PIECE]
        found += lens.read(piece, top_k)
        between(len(piece))
    return found
