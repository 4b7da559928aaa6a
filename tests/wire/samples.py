"""Sample points, and how the tests of the double put them into a collection."""

import uuid
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

SIZE = 32
COUNT = 60
WORDS = ["cat", "dog", "small bird", "tall old tree"]


def some_vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Random vectors [count, SIZE] float32."""
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


def uid(number: int) -> str:
    """The id of a sample point."""
    return str(uuid.UUID(int=number))


def payload(number: int) -> dict[str, Any]:
    """The payload of a sample point: some fields are null or missing in some points."""
    fields = {
        "corpus": "even" if number % 2 == 0 else "odd",
        "position": number,
        "word": WORDS[number % len(WORDS)],
        "third": number % 3,
    }
    return fields | ({"maybe": None} if number % 5 == 0 else {}) | ({"extra": 1.5} if number % 7 == 0 else {})


def create(client: QdrantClient, name: str = "bank", **settings: Any) -> None:
    """Create a collection of cosine vectors."""
    vectors = models.VectorParams(size=SIZE, distance=models.Distance.COSINE)
    client.create_collection(name, **({"vectors_config": vectors} | settings))


def fill(client: QdrantClient, name: str = "bank", vectors: np.ndarray | None = None) -> np.ndarray:
    """Store sample points with these vectors [points, SIZE], or with `some_vectors()`; returns them."""
    vectors = some_vectors() if vectors is None else vectors
    points = [
        models.PointStruct(id=uid(number), vector=vector, payload=payload(number))
        for number, vector in enumerate(vectors.tolist())
    ]
    client.upsert(name, points)
    return vectors


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The cosine of each of `vectors` [points, SIZE] with `query` [SIZE], in float32."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.asarray(vectors @ query / lengths)


def field(key: str, **condition: Any) -> models.FieldCondition:
    """A condition on one payload field."""
    return models.FieldCondition(key=key, **condition)
