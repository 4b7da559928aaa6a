"""Contexts as the embedded engine takes them.

Processes that write to layers import this: it is done sooner without numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import qdrant_edge as edge

if TYPE_CHECKING:
    import numpy.typing as npt


def row_views(vectors: npt.ArrayLike) -> Iterable[memoryview]:
    """Return the rows of vectors `[n, hidden]` in the form that the engine reads fastest: views of float32 numbers.

    At 576 and 4,096 dimensions it reads one in 9 and 48 µs of processor time, where a list takes 16 and 159 (AMD EPYC,
    2026-11-29). Bytes must never be passed: the engine takes each of them for a number.
    """
    import numpy as np

    return [row.data for row in np.ascontiguousarray(vectors, dtype=np.float32)]


def engine_points(
    ids: Sequence[str], rows: Iterable[memoryview], payloads: Sequence[Mapping[str, Any]]
) -> list[edge.Point]:
    """Return contexts as the engine takes them; one of `row_views`, a payload and an id belong together."""
    triples = zip(ids, rows, payloads, strict=True)
    return [
        edge.Point(id_, cast("Any", row), cast("dict[str, Any]", payload)) for id_, row, payload in triples
    ]
