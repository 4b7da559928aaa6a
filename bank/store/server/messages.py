"""Contexts and queries as messages of Qdrant's gRPC API, built directly from the bytes of their vectors.

The client would build them from its REST models, which turn each number into a Python float and check it: that takes
eight times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc, json_to_value

from latentbank.bank.store.base import Floats, Points


def point_messages(points: Points) -> list[Any]:
    """Return `PointStruct` messages whose vectors are the float32 bytes of the rows."""
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
            elif isinstance(value, int):
                message.payload[field].integer_value = value
            else:  # those of visual tokens hold boxes and norms, too
                message.payload[field].CopyFrom(json_to_value(value))
        made.append(message)
    return made


@lru_cache(maxsize=8)
def _head(size: int) -> bytes:
    """Return what protobuf writes before the numbers of a point that has only a vector of this size."""
    zeros = grpc.Vector(dense=grpc.DenseVector(data=[0.0] * size))
    return _before_numbers(grpc.PointStruct(vectors=grpc.Vectors(vector=zeros)), size)


def query_messages(
    collection: str, queries: Floats, filters: Sequence[models.Filter | None], asked: models.QueryRequest
) -> list[Any]:
    """Return `QueryPoints` messages, one for each row of queries.

    Args:
        collection: the name of the collection.
        queries: `[n, hidden]`.
        filters: of each query.
        asked: what all queries have in common: limit, parameters, and whether payloads are returned.
    """
    rows = np.ascontiguousarray(queries, dtype="<f4")
    head = _query_head(rows.shape[1])
    common = RestToGrpc.convert_query_request(asked, collection)
    converted: dict[int, Any] = {}  # by identity: many queries have the same filter
    made = []
    for row, condition in zip(rows, filters, strict=True):
        message = grpc.QueryPoints.FromString(head + row.tobytes())
        message.MergeFrom(common)
        if condition is not None:
            if id(condition) not in converted:
                converted[id(condition)] = RestToGrpc.convert_filter(condition)
            message.filter.CopyFrom(converted[id(condition)])
        made.append(message)
    return made


@lru_cache(maxsize=8)
def _query_head(size: int) -> bytes:
    """Return what protobuf writes before the numbers of a query that is only a vector of this size."""
    zeros = grpc.VectorInput(dense=grpc.DenseVector(data=[0.0] * size))
    return _before_numbers(grpc.QueryPoints(query=grpc.Query(nearest=zeros)), size)


def _before_numbers(message: Any, size: int) -> bytes:
    """Return a message as written, without the float32 numbers of the vector at its end."""
    written: bytes = message.SerializeToString()
    return written[: len(written) - 4 * size]
