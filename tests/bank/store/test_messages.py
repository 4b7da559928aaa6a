"""Contexts as gRPC messages: equal to those that the client builds."""

from __future__ import annotations

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from latentbank.bank.store.base import Points
from latentbank.bank.store.server.messages import point_messages
from tests.bank.samples import Floats, points, units


def by_the_client(given: Points) -> list[bytes]:
    rows = zip(given.ids, given.vectors.tolist(), given.payloads, strict=True)
    structs = [models.PointStruct(id=id_, vector=row, payload=dict(payload)) for id_, row, payload in rows]
    return [RestToGrpc.convert_point_struct(item).SerializeToString(deterministic=True) for item in structs]


@pytest.mark.parametrize(
    "vectors",
    [
        units(5, width=31),
        units(5, width=2304),
        units(5, width=62)[:, ::2],
        units(5, width=32).astype(">f4"),
        np.array([[0.0, -0.0, 1e-40, np.float32(3.4e38)]] * 5, dtype=np.float32),
    ],
    ids=["small", "large", "every second", "big-endian", "extreme"],
)
def test_messages_are_those_of_the_client(vectors: Floats) -> None:
    sample = points(5)
    given = Points(sample.ids, vectors, sample.payloads)
    made = [item.SerializeToString(deterministic=True) for item in point_messages(given)]
    assert made == by_the_client(given)


def test_no_points_give_no_messages() -> None:
    assert point_messages(Points([], units(0), [])) == []
