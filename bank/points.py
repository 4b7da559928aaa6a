"""Points: a context in a layer collection, its id and payload, and the neighbor that a search returns."""

from __future__ import annotations

import hashlib
import math
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

INDEXED_FIELDS = {"corpus": "keyword", "word": "grouping", "token_id": "integer", "position": "integer"}
"""Payload fields with an index in every layer collection of contexts, and the index's kind ("grouping": a keyword whose
points are stored side by side)."""
IMAGE_FIELDS = {
    **dict.fromkeys(("corpus", "image", "digest", "word"), "keyword"),
    **dict.fromkeys(("tile", "token", "row", "column"), "integer"),
}
"""The same for collections of visual tokens."""


class Payload(TypedDict):
    """The data stored with a context's vector."""

    corpus: str
    sentence: int  # index of the sentence in its corpus, blank lines not counted
    position: int  # index of the token in its sentence's token ids, special tokens counted
    token_id: int
    token: str  # as decoded, leading space kept
    word: str  # the whole word the token belongs to
    caption: str  # the sentence
    start: int  # the token's span in the caption, in characters
    end: int


class Hit(NamedTuple):
    """One scored point; `payload` is None unless it was requested. A tuple, as searches make many of them."""

    id: str
    score: float
    payload: Payload | None


@dataclass(frozen=True)
class Stored:
    """One point read back; `payload` and `vector` (`[hidden]`, rotated) are None unless they were requested."""

    id: str
    payload: Payload | None
    vector: npt.NDArray[np.float32] | None


def prefix_ids(corpus: str, token_ids: Sequence[int]) -> Iterator[bytes]:
    """Yield the 16-byte id of every prefix of `token_ids`, shortest first.

    The id is a 128-bit blake2b of the corpus name and the token ids up to and including the last one. A context has the
    same id in every layer, on every machine and in every run.
    """
    name = corpus.encode()
    state = hashlib.blake2b(struct.pack("<I", len(name)) + name, digest_size=16)
    for token_id in token_ids:
        state.update(struct.pack("<I", token_id))
        yield state.digest()


def context_id(corpus: str, token_ids: Sequence[int]) -> str:
    """Return the point id (a UUID string) of the context in `corpus` whose prefix is `token_ids`."""
    *_, last = prefix_ids(corpus, token_ids)
    return as_uuid(last)


def as_uuid(digest: bytes) -> str:
    """Return a 16-byte id as a UUID string, the form of point ids in Qdrant."""
    return str(uuid.UUID(bytes=digest))


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One answer of a lens.

    A lens that reads a vocabulary instead of a bank (LogitLens, EmbeddingLens) has no caption. Its neighbors have an
    empty `caption`, `corpus` and `id`, and -1 for `start`, `end`, `sentence`, `position` and `bank_layer`.

    `cosine` is the similarity of the hidden state to the context (LatentLens) or to the token's input embedding
    (EmbeddingLens). LogitLens compares no vectors: its neighbors have the token's `probability`, which is None for the
    other lenses, and a `cosine` of NaN. A corrected lens ranks by `corrected`, a score without a unit, None for
    a lens that is not; `cosine` and `probability` then stay what they are. `score` is the one that the lens ranks by.
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
    corrected: float | None = None

    @property
    def score(self) -> float:
        """The number that the lens ranks by: the corrected score or probability if there is one, else the cosine."""
        if self.corrected is not None:
            return self.corrected
        return self.cosine if self.probability is None else self.probability

    @classmethod
    def from_payload(
        cls, point_id: str, bank_layer: int, cosine: float, payload: Payload, corrected: float | None = None
    ) -> Neighbor:
        """Return the neighbor for a scored point of layer `bank_layer`."""
        return cls(id=point_id, bank_layer=bank_layer, cosine=cosine, corrected=corrected, **payload)

    def to_dict(self) -> dict[str, Any]:
        """Return the neighbor as JSON-ready data with the field names of this class; a missing cosine is None."""
        return asdict(self) | {"cosine": None if math.isnan(self.cosine) else self.cosine}

    def marked(self, left: str = "[", right: str = "]") -> str:
        """Return the caption with the token's span between `left` and `right`."""
        if self.start < 0:
            return self.caption
        return (
            self.caption[: self.start]
            + left
            + self.caption[self.start : self.end]
            + right
            + self.caption[self.end :]
        )
