"""The double answers correctly over REST and gRPC, checked with the real client."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from tests.wire import openapi
from tests.wire.double import QdrantDouble
from tests.wire.errors import Refusal
from tests.wire.samples import COUNT, SIZE, cosines, create, field, fill, payload, some_vectors, uid

Refused = Callable[[Callable[[], object]], tuple[Refusal | str, str]]

INT8 = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
)
TURBO = models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(always_ram=True))


# Collections


def test_the_version_is_the_one_it_copies(client: QdrantClient) -> None:
    assert client.info().version == "1.18.2"


def test_a_collection_tells_how_it_was_created(client: QdrantClient) -> None:
    create(
        client,
        vectors_config=models.VectorParams(
            size=SIZE, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16, on_disk=True
        ),
        quantization_config=INT8,
        hnsw_config=models.HnswConfigDiff(m=0, ef_construct=64),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0, default_segment_number=2),
        shard_number=3,
        replication_factor=2,
        metadata={"schema": 1, "layers": [4, 8], "deep": {"rate": 0.5, "none": None}},
    )
    info = client.get_collection("bank")
    assert (info.status, info.points_count, info.indexed_vectors_count) == ("green", 0, 0)
    vectors = info.config.params.vectors
    assert isinstance(vectors, models.VectorParams)
    assert (vectors.size, vectors.distance, vectors.datatype, vectors.on_disk) == (
        SIZE,
        "Cosine",
        "float16",
        True,
    )
    assert info.config.quantization_config == INT8
    assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (0, 64)
    assert info.config.hnsw_config.full_scan_threshold == 10000
    assert info.config.optimizer_config.indexing_threshold == 0
    assert info.config.optimizer_config.default_segment_number == 2
    assert (info.config.params.shard_number, info.config.params.replication_factor) == (3, 2)
    assert info.config.metadata == {"schema": 1, "layers": [4, 8], "deep": {"rate": 0.5, "none": None}}


def test_memory_placement_is_reported(client: QdrantClient) -> None:
    create(
        client,
        vectors_config=models.VectorParams(
            size=SIZE, distance=models.Distance.COSINE, memory=models.Memory.COLD
        ),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, memory=models.Memory.PINNED)
        ),
        hnsw_config=models.HnswConfigDiff(memory=models.Memory.CACHED),
    )
    config = client.get_collection("bank").config
    assert isinstance(config.params.vectors, models.VectorParams)
    assert config.params.vectors.memory == "cold"
    assert isinstance(config.quantization_config, models.ScalarQuantization)
    assert config.quantization_config.scalar.memory == "pinned"
    assert config.hnsw_config.memory == "cached"


def test_collections_exist_are_listed_and_deleted(client: QdrantClient, refusal: Refused) -> None:
    assert not client.collection_exists("bank")
    create(client)
    create(client, "a bank/with ä name")
    assert client.collection_exists("bank")
    assert {collection.name for collection in client.get_collections().collections} == {
        "bank",
        "a bank/with ä name",
    }
    assert refusal(lambda: create(client))[0] is Refusal.EXISTS
    assert client.delete_collection("bank")
    assert not client.delete_collection("bank")
    assert not client.collection_exists("bank")
    kind, text = refusal(lambda: client.get_collection("bank"))
    assert kind is Refusal.NOT_FOUND
    assert "Not found: Collection `bank` doesn't exist!" in text


def test_metadata_is_merged_and_null_removes(client: QdrantClient) -> None:
    create(client, metadata={"kept": 1, "changed": {"a": 1}, "removed": "x"})
    client.update_collection("bank", metadata={"changed": {"b": 2}, "removed": None, "added": [1]})
    expected = {"kept": 1, "changed": {"b": 2}, "added": [1]}
    assert client.get_collection("bank").config.metadata == expected


@pytest.mark.parametrize("quantization", [INT8, TURBO, None], ids=["int8", "turbo", "none"])
def test_indexing_after_the_load_is_yellow_then_green(
    client: QdrantClient, quantization: models.QuantizationConfig | None
) -> None:
    create(
        client,
        quantization_config=quantization,
        hnsw_config=models.HnswConfigDiff(m=0),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
    )
    vectors = fill(client, vectors=some_vectors(400))
    before = client.get_collection("bank")
    assert (before.status, before.indexed_vectors_count) == ("green", 0)
    client.update_collection(
        "bank",
        hnsw_config=models.HnswConfigDiff(m=16),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10),
    )
    assert client.get_collection("bank").status == "yellow"
    after = client.get_collection("bank")
    assert (after.status, after.indexed_vectors_count, after.points_count) == ("green", 400, 400)
    assert after.config.quantization_config == quantization
    rescored = models.SearchParams(
        hnsw_ef=128, quantization=models.QuantizationSearchParams(rescore=True, oversampling=4.0)
    )
    found = client.query_points("bank", vectors[7].tolist(), limit=3, search_params=rescored).points
    best = np.argsort(-cosines(vectors, vectors[7]))[:3]
    assert [item.id for item in found] == [uid(int(number)) for number in best]


def test_quantization_can_be_changed_and_disabled(client: QdrantClient) -> None:
    create(client, quantization_config=INT8)
    client.update_collection("bank", quantization_config=TURBO)
    assert client.get_collection("bank").config.quantization_config == TURBO
    client.update_collection("bank", quantization_config=models.Disabled.DISABLED)
    assert client.get_collection("bank").config.quantization_config is None


def test_aliases_change_together_up_to_a_refused_one(client: QdrantClient, refusal: Refused) -> None:
    create(client, "old")
    create(client, "new")
    create_old = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name="old", alias_name="current")
    )
    client.update_collection_aliases([create_old])
    fill(client, "current")
    assert client.count("old").count == COUNT
    rename = models.RenameAliasOperation(
        rename_alias=models.RenameAlias(old_alias_name="current", new_alias_name="previous")
    )
    create_new = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name="new", alias_name="current")
    )
    client.update_collection_aliases([rename, create_new])
    named = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
    assert named == {"previous": "old", "current": "new"}
    assert [alias.alias_name for alias in client.get_collection_aliases("new").aliases] == ["current"]
    delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="current"))
    to_nothing = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name="nowhere", alias_name="current")
    )
    kind, _ = refusal(lambda: client.update_collection_aliases([delete, to_nothing]))
    assert kind is Refusal.NOT_FOUND
    assert [alias.alias_name for alias in client.get_aliases().aliases] == ["previous"]
    client.delete_collection("old")
    assert client.get_aliases().aliases == []


# Points


def test_points_come_back_as_they_went_in(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    vectors = fill(client)
    found = client.retrieve("bank", [uid(3), uid(999), uid(1)], with_vectors=True)
    assert {item.id: item.payload for item in found} == {uid(1): payload(1), uid(3): payload(3)}
    stored = server.points("bank")
    assert stored.keys() == {uid(number) for number in range(COUNT)}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for number in range(COUNT):
        vector, fields = stored[uid(number)]
        np.testing.assert_allclose(vector, unit[number], atol=1e-6)
        assert fields == payload(number)
    answered: Any = {item.id: item.vector for item in found}
    np.testing.assert_allclose(answered[uid(1)], unit[1], atol=1e-6)
    bare = client.retrieve("bank", [uid(3)], with_payload=False)[0]
    assert (bare.payload or {}, bare.vector) == ({}, None)


def test_float16_vectors_are_rounded(client: QdrantClient, server: QdrantDouble) -> None:
    half = models.VectorParams(
        size=SIZE, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16, on_disk=True
    )
    create(client, vectors_config=half)
    vectors = fill(client)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    vector, _ = server.points("bank")[uid(5)]
    np.testing.assert_array_equal(vector, vector.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(vector, unit[5], atol=1e-3)


def test_upserting_again_replaces(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    fill(client)
    vectors = fill(client, vectors=some_vectors(seed=1))
    stored = server.points("bank")
    assert len(stored) == COUNT
    np.testing.assert_allclose(stored[uid(0)][0], vectors[0] / np.linalg.norm(vectors[0]), atol=1e-6)


def test_a_batch_with_numbers_for_ids(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    batch = models.Batch(ids=[1, 2], vectors=some_vectors(2).tolist(), payloads=[{"a": 1}, {"a": 2}])
    assert client.upsert("bank", batch).status == "completed"
    assert client.upsert("bank", batch, wait=False).status == "acknowledged"
    assert {key: fields for key, (_, fields) in server.points("bank").items()} == {1: {"a": 1}, 2: {"a": 2}}


def test_a_wrong_size_stores_nothing(client: QdrantClient, server: QdrantDouble, refusal: Refused) -> None:
    create(client)
    right, short = some_vectors(2).tolist()
    points = [models.PointStruct(id=1, vector=right), models.PointStruct(id=2, vector=short[:-1])]
    kind, text = refusal(lambda: client.upsert("bank", points))
    assert kind is Refusal.WRONG_INPUT
    assert f"Wrong input: Vector dimension error: expected dim: {SIZE}, got {SIZE - 1}" in text
    assert server.points("bank") == {}
    assert refusal(lambda: client.query_points("bank", [1.0, 2.0]))[0] is Refusal.WRONG_INPUT
    bad_id = [models.PointStruct(id="no uuid", vector=right)]
    assert refusal(lambda: client.upsert("bank", bad_id))[0] is Refusal.WRONG_INPUT
    assert refusal(lambda: client.upsert("other", points))[0] is Refusal.NOT_FOUND


def test_deleting_by_id_and_by_filter(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    fill(client)
    client.delete("bank", [uid(0), uid(1), uid(999)])
    assert len(server.points("bank")) == COUNT - 2
    odd = models.Filter(must=[models.FieldCondition(key="corpus", match=models.MatchValue(value="odd"))])
    client.delete("bank", models.FilterSelector(filter=odd))
    expected = {uid(number) for number in range(2, COUNT, 2)}
    assert server.points("bank").keys() == expected


def test_scrolling_walks_through_all_pages(client: QdrantClient) -> None:
    create(client)
    fill(client)
    even = models.Filter(must=[models.FieldCondition(key="corpus", match=models.MatchValue(value="even"))])
    records: list[models.Record] = []
    offset: Any = None
    while True:
        page, offset = client.scroll(
            "bank", scroll_filter=even, limit=8, offset=offset, with_vectors=True, with_payload=["position"]
        )
        records += page
        if offset is None:
            break
    assert [item.payload for item in records] == [{"position": number} for number in range(0, COUNT, 2)]
    assert all(isinstance(item.vector, list) and len(item.vector) == SIZE for item in records)


def test_payload_indexes_and_facets(client: QdrantClient, refusal: Refused) -> None:
    create(client)
    fill(client)
    assert refusal(lambda: client.facet("bank", "word"))[0] is Refusal.WRONG_INPUT
    client.create_payload_index("bank", "word", models.PayloadSchemaType.KEYWORD)
    integer = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, range=True)
    client.create_payload_index("bank", "position", integer)
    schema = client.get_collection("bank").payload_schema
    assert {field: (item.data_type, item.points) for field, item in schema.items()} == {
        "word": ("keyword", COUNT),
        "position": ("integer", COUNT),
    }
    assert isinstance(schema["position"].params, models.IntegerIndexParams)
    assert schema["position"].params.range is True
    few = models.Filter(must=[field("position", range=models.Range(lt=6))])
    hits = client.facet("bank", "word", facet_filter=few, limit=3, exact=True).hits
    assert [hit.count for hit in hits] == [2, 2, 1]
    assert {hit.value for hit in hits[:2]} == {"cat", "dog"}


# Searches


def test_scores_are_cosines(client: QdrantClient) -> None:
    create(client)
    vectors = fill(client)
    query = some_vectors(1, seed=5)[0]
    expected = cosines(vectors, query)
    best = np.argsort(-expected)[:9]
    found = client.query_points("bank", query.tolist(), limit=9, with_payload=["word"]).points
    assert [item.id for item in found] == [uid(int(number)) for number in best]
    np.testing.assert_allclose([item.score for item in found], expected[best], atol=1e-5)
    assert [item.payload for item in found] == [{"word": payload(int(number))["word"]} for number in best]
    assert [item.vector for item in found] == [None] * 9


def test_a_batch_answers_each_search_in_its_place(client: QdrantClient) -> None:
    create(client, quantization_config=INT8)
    vectors = fill(client)
    odd = models.Filter(must=[field("corpus", match=models.MatchValue(value="odd"))])
    exact = models.SearchParams(
        exact=True, quantization=models.QuantizationSearchParams(ignore=True, rescore=True, oversampling=2.0)
    )
    requests = [
        models.QueryRequest(
            query=vector,
            limit=1 + number % 3,
            filter=odd if number % 2 else None,
            params=exact,
            with_vector=True,
            with_payload=True,
        )
        for number, vector in enumerate(vectors[:20].tolist())
    ]
    answers = client.query_batch_points("bank", requests)
    for number, answer in enumerate(answers):
        allowed = [other for other in range(COUNT) if number % 2 == 0 or other % 2]
        scores = cosines(vectors[allowed], vectors[number])
        best = np.argsort(-scores)[: 1 + number % 3]
        assert [item.id for item in answer.points] == [uid(allowed[int(item)]) for item in best]
        np.testing.assert_allclose([item.score for item in answer.points], scores[best], atol=1e-5)
        assert answer.points[0].payload == payload(number)
        assert isinstance(answer.points[0].vector, list)
        assert len(answer.points[0].vector) == SIZE


# Requests, threads and invalid bodies


def test_requests_are_recorded_alike(client: QdrantClient, server: QdrantDouble, transport: str) -> None:
    create(client)
    fill(client)
    client.query_points(
        "bank", some_vectors(1)[0].tolist(), limit=4, search_params=models.SearchParams(hnsw_ef=77)
    )
    made, stored, queried = server.requests
    assert [request.transport for request in server.requests] == [transport] * 3
    assert (made.operation, made.collection) == ("create_collection", "bank")
    assert made.summary["vectors"] == {"size": SIZE, "distance": "Cosine"}
    assert (stored.operation, stored.summary) == ("upsert", {"points": COUNT, "wait": True})
    assert queried.operation == "query"
    assert queried.summary["query"] == {"nearest": f"<{SIZE} items>"}
    assert (queried.summary["limit"], queried.summary["params"]["hnsw_ef"]) == (4, 77)
    assert all(request.accepted and request.fault is None for request in server.requests)


def test_many_writers_lose_nothing(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    vectors = some_vectors(400).tolist()

    def write(start: int) -> None:
        points = [models.PointStruct(id=n, vector=vectors[n]) for n in range(start, start + 20)]
        client.upsert("bank", points)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(0, 400, 20)))
    assert server.points("bank").keys() == set(range(400))


def send(url: str, method: str, body: object) -> tuple[int, dict[str, Any]]:
    """Send one request without the client, with any body; return status and JSON answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_bodies_qdrant_does_not_describe_are_refused_and_remembered() -> None:
    with QdrantDouble() as server:
        bank = f"{server.url}/collections/bank"
        assert send(bank, "PUT", {"vectors": {"size": SIZE, "distance": "Cosine"}})[0] == 200
        assert server.invalid_requests == []
        status, answer = send(bank, "PUT", {"vectors": {"size": SIZE, "distance": "Cosine"}, "vectorz": {}})
        assert status == 400
        assert "vectorz" in answer["status"]["error"]
        assert send(bank + "/points", "PUT", {"points": [{"id": 1, "vector": ["a"]}]})[0] == 400
        assert [request.operation for request in server.invalid_requests] == ["create_collection", "upsert"]
        assert send(bank + "/points/vectors", "PUT", {})[0] == 501
        if openapi.description_file() is not None:
            # The client's models have no such limits; Qdrant's description has.
            assert send(bank + "/points/query", "POST", {"limit": 0})[0] == 400
            assert send(bank + "/points/count", "POST", {"filter": {"must": "x"}})[0] == 400
            assert len(server.invalid_requests) == 4
