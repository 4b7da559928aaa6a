"""Contexts as the embedded engine takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import qdrant_edge as edge


def engine_points(
    ids: Sequence[str], vectors: npt.ArrayLike, payloads: Sequence[Mapping[str, Any]]
) -> list[edge.Point]:
    """Return contexts as the engine takes them; row i of `vectors` `[n, hidden]` belongs to `ids[i]`.

    A memory view of float32 numbers is the form it reads fastest: at 576 and 4,096 dimensions in 9 and 48 µs of
    processor time, where a list takes 16 and 159 (AMD EPYC, 2026-11-29). Bytes must never be passed: the engine takes
    each of them for a number.
    """
    rows: Iterable[Any] = np.ascontiguousarray(vectors, dtype=np.float32)
    triples = zip(ids, rows, payloads, strict=True)
    return [edge.Point(id_, row.data, cast("dict[str, Any]", payload)) for id_, row, payload in triples]
