"""A visual token in a bank of images: its point id, its payload, and the patch that a search returns."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from latentbank.bank.points import as_uuid

PICTURE = "picture"
"""The payload field with an image's small picture: JPEG in base64, with the first token of the lowest visual layer."""


class PatchPayload(TypedDict, total=False):
    """The data stored with a visual token's vector; an image's first token has all that is known of the image."""

    corpus: str  # the named set of images
    image: str  # the image's name in it
    digest: str  # of the image's file
    token: int  # its number in the image, in the order of the LLM's input
    tokens: int  # how many the image has
    tile: int  # 0: a view of the whole image; 1 and more: the others
    row: int  # in the tile's grid; -1: it is in no grid
    column: int
    box: list[float]  # left, top, right, bottom in pixels of the image, whole ones as ints; empty: not known
    size: list[int]  # width and height of the image
    norm: float  # length of the hidden state at this layer
    word: str  # what the collection's words were stored as; missing until then
    picture: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A visual token that a search of a bank of images returns.

    Attributes:
        id: its point id, the same at every visual layer.
        layer: the visual layer.
        cosine: similarity to the query.
        corpus: name of the corpus of images.
        image: name of its image in that corpus.
        digest: digest of the image's file.
        token: its number in the image, from 0.
        tokens: how many the image has.
        tile: 0 for a view of the whole image, 1 and more for the others.
        row: row in its tile's grid; -1 if it is in no grid.
        column: column in its tile's grid; -1 if it is in no grid.
        box: left, top, right, bottom in pixels of the image; None if it is not known where it looks.
        size: width and height of the image in pixels.
        norm: length of its hidden state.
        word: the word that was stored for it; empty if none was.
        corrected: the score it is ranked by if scores were corrected, without a unit; None: by the cosine.
    """

    id: str
    layer: int
    cosine: float
    corpus: str
    image: str
    digest: str
    token: int
    tokens: int
    tile: int
    row: int
    column: int
    box: tuple[float, float, float, float] | None
    size: tuple[int, int]
    norm: float
    word: str = ""
    corrected: float | None = None

    @property
    def score(self) -> float:
        """The number that it is ranked by: the corrected score if there is one, else the cosine."""
        return self.cosine if self.corrected is None else self.corrected

    @classmethod
    def from_payload(cls, point_id: str, layer: int, cosine: float, payload: Mapping[str, Any]) -> Patch:
        """Return the patch for a scored point of a visual layer."""
        box, size = payload["box"], payload["size"]
        return cls(
            id=point_id,
            layer=layer,
            cosine=cosine,
            box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])) if box else None,
            size=(size[0], size[1]),
            word=payload.get("word", ""),
            **{
                name: payload[name]
                for name in (
                    *("corpus", "image", "digest", "token", "tokens"),
                    *("tile", "row", "column", "norm"),
                )
            },
        )

    @property
    def first_id(self) -> str:
        """The id of its image's first token, which has the image's small picture."""
        return patch_id(self.corpus, self.digest, 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the patch as JSON-ready data with the field names of this class."""
        box = None if self.box is None else list(self.box)
        return asdict(self) | {"box": box, "size": list(self.size)}


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of a bank of images.

    Attributes:
        corpus: name of its corpus.
        image: its name there.
        digest: digest of its file.
        size: width and height in pixels.
        tokens: how many visual tokens it has.
        picture: its small picture, a JPEG file's bytes; empty if it was not asked for.
    """

    corpus: str
    image: str
    digest: str
    size: tuple[int, int]
    tokens: int
    picture: bytes = b""

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> StoredImage:
        """Return the image of which this is the first token's payload."""
        size = payload["size"]
        return cls(
            payload["corpus"],
            payload["image"],
            payload["digest"],
            (size[0], size[1]),
            payload["tokens"],
            base64.b64decode(payload.get(PICTURE, "")),
        )


def patch_id(corpus: str, digest: str, token: int) -> str:
    """Return the point id (a UUID string) of visual token `token` of an image: the same at every visual layer."""
    return _patch_id(_state(corpus, digest), token)


def patch_ids(corpus: str, digest: str, tokens: int) -> list[str]:
    """Return the point ids of all visual tokens of an image."""
    state = _state(corpus, digest)
    return [_patch_id(state.copy(), token) for token in range(tokens)]


def _state(corpus: str, digest: str) -> hashlib.blake2b:
    name = corpus.encode()
    return hashlib.blake2b(struct.pack("<I", len(name)) + name + digest.encode(), digest_size=16)


def _patch_id(state: hashlib.blake2b, token: int) -> str:
    state.update(struct.pack("<I", token))
    return as_uuid(state.digest())
