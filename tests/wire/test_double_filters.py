"""The double's filters, nested ones too, select what a plain computation selects."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from tests.wire.double import QdrantDouble
from tests.wire.samples import COUNT, create, field, fill, payload, some_vectors, uid

FILTERS: dict[str, tuple[models.Filter, Callable[[dict[str, Any]], bool]]] = {
    "value": (
        models.Filter(must=[field("word", match=models.MatchValue(value="cat"))]),
        lambda p: p["word"] == "cat",
    ),
    "integer": (
        models.Filter(must=field("position", match=models.MatchValue(value=7))),
        lambda p: p["position"] == 7,
    ),
    "any": (
        models.Filter(must=[field("word", match=models.MatchAny(any=["cat", "dog"]))]),
        lambda p: p["word"] in ("cat", "dog"),
    ),
    "any integer": (
        models.Filter(must=[field("position", match=models.MatchAny(any=[1, 5, 99]))]),
        lambda p: p["position"] in (1, 5),
    ),
    "except": (
        models.Filter(must=[field("word", match=models.MatchExcept(**{"except": ["cat", "dog"]}))]),
        lambda p: p["word"] not in ("cat", "dog"),
    ),
    "text": (
        models.Filter(must=[field("word", match=models.MatchText(text="tree"))]),
        lambda p: "tree" in p["word"],
    ),
    "phrase": (
        models.Filter(must=[field("word", match=models.MatchPhrase(phrase="old tree"))]),
        lambda p: "old tree" in p["word"],
    ),
    "text any": (
        models.Filter(must=[field("word", match=models.MatchTextAny(text_any="bird tree"))]),
        lambda p: "bird" in p["word"] or "tree" in p["word"],
    ),
    "range": (
        models.Filter(must=[field("position", range=models.Range(gte=10, lt=13.5))]),
        lambda p: 10 <= p["position"] < 13.5,
    ),
    "empty": (
        models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="extra"))]),
        lambda p: "extra" not in p,
    ),
    "null": (
        models.Filter(must=[models.IsNullCondition(is_null=models.PayloadField(key="maybe"))]),
        lambda p: "maybe" in p,
    ),
    "has id": (
        models.Filter(must=[models.HasIdCondition(has_id=[uid(3), uid(4), uid(777)])]),
        lambda p: p["position"] in (3, 4),
    ),
    "should and must not": (
        models.Filter(
            should=[
                field("position", range=models.Range(lt=20)),
                field("corpus", match=models.MatchValue(value="odd")),
            ],
            must_not=[field("third", match=models.MatchValue(value=0))],
        ),
        lambda p: (p["position"] < 20 or p["corpus"] == "odd") and p["third"] != 0,
    ),
    "min should": (
        models.Filter(
            min_should=models.MinShould(
                conditions=[
                    field("third", match=models.MatchValue(value=0)),
                    field("corpus", match=models.MatchValue(value="odd")),
                    field("position", range=models.Range(gt=40)),
                ],
                min_count=2,
            )
        ),
        lambda p: ((p["third"] == 0) + (p["corpus"] == "odd") + (p["position"] > 40)) >= 2,
    ),
    "nested": (
        models.Filter(
            must=[
                models.Filter(
                    should=[
                        field("word", match=models.MatchValue(value="dog")),
                        models.Filter(must_not=[field("position", range=models.Range(lte=50))]),
                    ]
                ),
                field("extra", is_empty=True),
            ]
        ),
        lambda p: (p["word"] == "dog" or p["position"] > 50) and "extra" not in p,
    ),
}


@pytest.fixture(scope="module")
def filled() -> Iterator[dict[str, QdrantClient]]:
    """Clients by transport of a double that holds the sample points; only for reading."""
    with QdrantDouble() as double:
        clients = {
            transport: QdrantClient(
                url=double.url,
                grpc_port=double.grpc_port,
                prefer_grpc=transport == "grpc",
                check_compatibility=False,
                verify=False,
                timeout=60,
            )
            for transport in ("rest", "grpc")
        }
        create(clients["rest"])
        fill(clients["rest"])
        yield clients
        for item in clients.values():
            item.close()
        assert double.invalid_requests == []


@pytest.mark.parametrize("name", FILTERS)
def test_filters_count_what_they_say(filled: dict[str, QdrantClient], transport: str, name: str) -> None:
    condition, holds = FILTERS[name]
    expected = {uid(number) for number in range(COUNT) if holds(payload(number))}
    assert 0 < len(expected) < COUNT
    client = filled[transport]
    assert client.count("bank", condition, exact=True).count == len(expected)
    assert {item.id for item in client.scroll("bank", condition, limit=COUNT)[0]} == expected


CAPTIONS = [
    "The Fire Truck of house 7",
    "un café au lait",
    "un cafe\u0301 au lait",
    "日本語の文章です",
    "ภาษาไทย",
]
TOKENIZERS = [models.TokenizerType.WORD, models.TokenizerType.MULTILINGUAL]
# What is found by phrase: without an index, with one of words, and with a multilingual one.
PHRASES: dict[str, tuple[list[int], list[int], list[int]]] = {
    "Fire Truck": ([0], [0], [0]),
    "fire truck": ([], [0], [0]),
    "ire Tru": ([0], [], []),
    "cafe": ([2], [2], [1, 2]),
    "CAFÉ au": ([], [1], [1, 2]),
    "日本語": ([3], [], [3]),
    "ไทย": ([4], [], []),
    "ภาษาไทย": ([4], [4], [4]),
    "house 7": ([0], [0], [0]),
    "house 8": ([], [], [0]),
    "7": ([0], [0], []),
}


def test_texts_are_substrings_without_an_index_and_words_with_one(
    server: QdrantDouble, client: QdrantClient
) -> None:
    """As a real server does; the embedded engine under the double always splits words."""
    create(client)
    vectors = some_vectors(len(CAPTIONS)).tolist()
    client.upsert(
        "bank",
        [
            models.PointStruct(id=number, vector=vector, payload={"caption": caption})
            for number, (vector, caption) in enumerate(zip(vectors, CAPTIONS, strict=True))
        ],
    )

    def found(match: Any) -> list[int]:
        condition = models.Filter(must=[field("caption", match=match)])
        hits = client.query_points("bank", vectors[0], query_filter=condition, limit=10).points
        numbers = [int(item.id) for item in client.scroll("bank", condition)[0]]
        assert sorted(int(hit.id) for hit in hits) == numbers
        assert client.count("bank", condition).count == len(numbers)
        return numbers

    for place, tokenizer in enumerate([None, *TOKENIZERS]):
        if tokenizer is not None:
            index = models.TextIndexParams(
                type=models.TextIndexType.TEXT, tokenizer=tokenizer, lowercase=True, phrase_matching=True
            )
            client.create_payload_index("bank", "caption", index)
            info = client.get_collection("bank").payload_schema["caption"]
            assert isinstance(info.params, models.TextIndexParams)
            assert (info.params.tokenizer, info.points) == (tokenizer, len(CAPTIONS))
        assert {phrase: found(models.MatchPhrase(phrase=phrase)) for phrase in PHRASES} == {
            phrase: numbers[place] for phrase, numbers in PHRASES.items()
        }
        assert found(models.MatchText(text="Fire")) == [0]
        assert found(models.MatchText(text="fire")) == ([0] if tokenizer else [])
        assert found(models.MatchTextAny(text_any="house lait")) == [0, 1, 2]
        assert found(models.MatchTextAny(text_any="hous aits")) == ([] if tokenizer else [0])
