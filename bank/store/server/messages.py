"""Contexts as messages of Qdrant's gRPC API, built directly from their bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from qdrant_client import grpc

from latentbank.bank.store.base import Points


def point_messages(points: Points) -> list[Any]:
    """Return `PointStruct` messages whose vectors are the float32 bytes of the rows.

    The client would build them from its REST models, which turn each number into a Python float and check it: that
    takes eight times as long.
    """
    # Protobuf writes little-endian numbers, whatever this machine's byte order is.
    rows = np.ascontiguousarray(points.vectors, dtype="<f4")
    head = _head(rows.shape[1])
    made = []
    for id_, row, payload in zip(points.ids, rows, points.payloads, strict=True):
        message = grpc.PointStruct.FromString(head + row.tobytes())
        message.id.uuid = id_
        for field, value in payload.items():
            if isinstance(value, str):
                message.payload[field].string_value = value
            else:  # a payload holds only strings and integers
                message.payload[field].integer_value = value
        made.append(message)
    return made


@lru_cache(maxsize=8)
def _head(size: int) -> bytes:
    """Return what protobuf writes before the numbers of a point that has only a vector of this size."""
    zeros = grpc.Vector(dense=grpc.DenseVector(data=[0.0] * size))
    written: bytes = grpc.PointStruct(vectors=grpc.Vectors(vector=zeros)).SerializeToString()
    return written[: len(written) - 4 * size]
