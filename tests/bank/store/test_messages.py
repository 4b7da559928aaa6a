"""Messages that are built from bytes are those that the client would build."""

from __future__ import annotations

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from latentbank.bank.store.server.messages import point_messages, query_messages
from tests.bank.samples import points, units

SOME = models.Filter(must=[models.FieldCondition(key="word", match=models.MatchValue(value="dog"))])
OTHER = models.Filter(must_not=[models.HasIdCondition(has_id=["00000000-0000-0000-0000-00000000000a"])])


@pytest.mark.parametrize("width", [1, 8, 200])
def test_points(width: int) -> None:
    given = points(5, width=width)
    made = point_messages(given)
    rows = zip(given.ids, given.vectors.tolist(), given.payloads, strict=True)
    for message, (id_, row, payload) in zip(made, rows, strict=True):
        plain = models.PointStruct(id=id_, vector=row, payload=dict(payload))
        theirs = RestToGrpc.convert_point_struct(plain)
        assert (message.id, message.payload) == (theirs.id, theirs.payload)
        assert list(message.vectors.vector.dense.data) == list(theirs.vectors.vector.dense.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("payloads", [True, False])
def test_queries(payloads: bool, dtype: str) -> None:
    queries, filters = units(4), [None, SOME, OTHER, SOME]
    params = models.SearchParams(
        hnsw_ef=160, exact=False, quantization=models.QuantizationSearchParams(rescore=True, oversampling=6.0)
    )
    asked = models.QueryRequest(limit=7, params=params, with_payload=payloads)
    made = query_messages("bank--L04", queries.astype(dtype), filters, asked)
    for message, row, condition in zip(made, queries.tolist(), filters, strict=True):
        plain = models.QueryRequest(
            query=models.NearestQuery(nearest=row),
            limit=7,
            filter=condition,
            params=params,
            with_payload=payloads,
        )
        assert message == RestToGrpc.convert_query_request(plain, "bank--L04")
