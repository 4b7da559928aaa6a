"""Points: what one context is in a layer collection, and what a search gives back."""

from __future__ import annotations

import hashlib
import math
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

# Payload fields with an index in every layer collection, and the index's kind ("grouping": a keyword by which points
# are stored side by side).
INDEXED_FIELDS = {"corpus": "keyword", "word": "grouping", "token_id": "integer", "position": "integer"}


class Payload(TypedDict):
    """What is stored beside a context's vector."""

    corpus: str
    sentence: int  # index of the sentence in its corpus, blank lines not counted
    position: int  # index of the token in its sentence's token ids, special tokens counted
    token_id: int
    token: str  # as decoded, leading space kept
    word: str  # the whole word the token belongs to
    caption: str  # the sentence
    start: int  # the token's span in the caption, in characters
    end: int


def prefix_ids(corpus: str, token_ids: Sequence[int]) -> Iterator[bytes]:
    """Give the 16-byte id of every prefix of `token_ids`, shortest first.

    The id is a 128-bit blake2b over the corpus name and the token ids up to and including the last:
    the same context gets the same id in every layer, on every machine and in every run.
    """
    name = corpus.encode()
    state = hashlib.blake2b(struct.pack("<I", len(name)) + name, digest_size=16)
    for token_id in token_ids:
        state.update(struct.pack("<I", token_id))
        yield state.digest()


def context_id(corpus: str, token_ids: Sequence[int]) -> str:
    """Give the point id (a UUID string) of the context whose prefix is `token_ids` in `corpus`."""
    *_, last = prefix_ids(corpus, token_ids)
    return as_uuid(last)


def as_uuid(digest: bytes) -> str:
    """Write a 16-byte id the way Qdrant names points: as a UUID."""
    return str(uuid.UUID(bytes=digest))


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One answer of a lens.

    A lens that reads a vocabulary instead of a bank (LogitLens, EmbeddingLens) has no caption: there
    `caption`, `corpus` and `id` are empty and `start`, `end`, `sentence`, `position` and `bank_layer` are -1.

    `cosine` is how near the hidden state is to the context (LatentLens) or to the token's input embedding
    (EmbeddingLens). LogitLens compares nothing: its neighbors have a NaN there and the token's `probability`,
    which the others do not have. `score` is the one of the two that the lens ranks by.
    """

    word: str
    token: str
    cosine: float
    caption: str = ""
    start: int = -1
    end: int = -1
    bank_layer: int = -1
    corpus: str = ""
    sentence: int = -1
    position: int = -1
    token_id: int = -1
    id: str = ""
    probability: float | None = None

    @property
    def score(self) -> float:
        """What the lens ranks by: the probability where there is one, else the cosine."""
        return self.cosine if self.probability is None else self.probability

    @classmethod
    def from_payload(cls, point_id: str, bank_layer: int, cosine: float, payload: Payload) -> Neighbor:
        """Build the neighbor that a scored point of layer `bank_layer` stands for."""
        return cls(id=point_id, bank_layer=bank_layer, cosine=cosine, **payload)

    def to_dict(self) -> dict[str, Any]:
        """Give the neighbor as JSON-ready data with the field names of this class; a missing cosine is None."""
        return asdict(self) | {"cosine": None if math.isnan(self.cosine) else self.cosine}

    def marked(self, left: str = "[", right: str = "]") -> str:
        """Give the caption with the token's span between `left` and `right`."""
        if self.start < 0:
            return self.caption
        return (
            self.caption[: self.start]
            + left
            + self.caption[self.start : self.end]
            + right
            + self.caption[self.end :]
        )
