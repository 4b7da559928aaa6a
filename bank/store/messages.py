"""Contexts as messages of Qdrant's gRPC API, without a detour through lists of numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from qdrant_client import grpc
from qdrant_client.conversions.conversion import payload_to_grpc

from bank.store import Points


def point_messages(points: Points) -> list[Any]:
    """Give `PointStruct` messages; their vectors are the float32 bytes of the rows as they are.

    The client makes them from its REST models, which check each number, and turns each into a Python float before:
    that takes four times as long.
    """
    # As protobuf writes them, whatever this machine's byte order is.
    rows = np.ascontiguousarray(points.vectors, dtype="<f4")
    head = _head(rows.shape[1])
    return [
        grpc.PointStruct(
            id=grpc.PointId(uuid=id_),
            vectors=grpc.Vectors(vector=grpc.Vector(dense=grpc.DenseVector.FromString(head + row.tobytes()))),
            payload=payload_to_grpc(dict(payload)),
        )
        for id_, row, payload in zip(points.ids, rows, points.payloads, strict=True)
    ]


@lru_cache(maxsize=8)
def _head(size: int) -> bytes:
    """Give what protobuf writes before the numbers of a vector of this size."""
    zeros: bytes = grpc.DenseVector(data=[0.0] * size).SerializeToString()
    return zeros[: len(zeros) - 4 * size]
