"""What identifies an LLM: one digest of its vocabulary, sizes and embedding, and one of each block.

A context of layer l depends on the embedding and the first l blocks alone. So a bank and a model have the same LLM if
the digests that both have agree, up to the deepest layer in use. A model that is cut after a layer has no later ones.

A digest has two parts. `exact` is a hash of weights rounded to bfloat16: loads of one checkpoint in float32 and
bfloat16 agree. float16 and quantization round in another way, and no hash survives that. For them there is a `sketch`:
the largest magnitudes of some rows, which bitsandbytes keeps beside the weights that it packs into 8 or 4 bits. Two
sketches agree if they differ by no more than the rounding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

# Smaller differences do not count: float16 stores such numbers with fewer bits.
_TINY = 2.0**-13


@dataclass(frozen=True)
class Digest:
    """What identifies some weights.

    Attributes:
        exact: hash of weights rounded to bfloat16; "" if they were loaded in float16 or quantized.
        sketch: magnitudes, ascending, as float16 in base64.
        rounding: how far a magnitude may be from the checkpoint's, as a share of it.
    """

    exact: str
    sketch: str
    rounding: float

    def agrees(self, other: Digest) -> bool:
        """Return whether both can be of the same weights, in whatever dtype or quantization they were loaded."""
        if self.exact and other.exact:
            return self.exact == other.exact
        own, others = read_sketch(self.sketch), read_sketch(other.sketch)
        if own.shape != others.shape:
            return False
        allowed = (self.rounding + other.rounding) * np.maximum(own, others) + _TINY
        return bool((np.abs(own - others) <= allowed).all())


@dataclass(frozen=True)
class Digests:
    """The digests of an LLM.

    Attributes:
        dtype: what its weights were loaded in: "float32", "bfloat16", "float16", "8bit" or "4bit".
        vocabulary: hash of the tokenizer's vocabulary and of the sizes.
        embedding: digest of the input embedding; None: it could not be read.
        blocks: digests of the blocks that are loaded, from the first; None for one that could not be read.
        adapter: the hub id or the last part of the path of the adapter that is added to the weights; "": none is.
            None: that is not known, as of digests that an earlier version wrote.
    """

    dtype: str
    vocabulary: str
    embedding: Digest | None
    blocks: tuple[Digest | None, ...]
    adapter: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the digests as JSON-ready data."""
        data = asdict(self)
        return data | {"blocks": list(data["blocks"])}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Digests:
        """Return the digests that `to_dict` has written.

        Raises:
            ValueError, TypeError, LookupError: the data holds none.
        """
        read = [None if part is None else Digest(**part) for part in (data["embedding"], *data["blocks"])]
        for digest in read:
            read_sketch(digest.sketch if digest else "")
        adapter = data.get("adapter")
        return cls(
            str(data["dtype"]),
            str(data["vocabulary"]),
            read[0],
            tuple(read[1:]),
            None if adapter is None else str(adapter),
        )


@dataclass(frozen=True)
class Identity:
    """What tells one LLM from another.

    Attributes:
        fingerprint: hash of the vocabulary, the sizes, and samples of the embedding and the first block: all that
            banks and files written before there were digests have.
        digests: None for such a bank or file.
    """

    fingerprint: str
    digests: Digests | None = None

    @property
    def dtype(self) -> str:
        """What the weights were loaded in; "" if that is not known."""
        return self.digests.dtype if self.digests else ""

    @property
    def adapter(self) -> str | None:
        """The adapter that is added to the weights; "" if there is none, None if that is not known."""
        return self.digests.adapter if self.digests else None

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as JSON-ready data; without digests only where there are none."""
        data: dict[str, Any] = {"fingerprint": self.fingerprint}
        return data if self.digests is None else data | {"digests": self.digests.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Identity:
        """Return the identity in what `to_dict` has written, or an earlier version; other keys do not matter.

        Raises:
            ValueError, TypeError, LookupError: there is none.
        """
        digests = data.get("digests")
        return cls(str(data["fingerprint"]), None if digests is None else Digests.from_dict(digests))

    def up_to(self, layer: int) -> str:
        """Return 16 hex digits of what hidden states of a layer depend on, as it was loaded."""
        parts: list[Any] = [self.fingerprint]
        if self.digests is not None:
            parts += [self.digests.vocabulary, self.digests.embedding, *self.digests.blocks[:layer]]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        """Return the fingerprint, and the dtype where it is known, for messages."""
        return f"fingerprint {self.fingerprint}" + (f", {self.dtype}" if self.dtype else "")


def identity_of(fingerprint: str | Identity) -> Identity:
    """Return an identity as it is, and a fingerprint alone as one without digests."""
    return Identity(fingerprint) if isinstance(fingerprint, str) else fingerprint


def difference(one: Identity, other: Identity, deepest: int | None = None) -> str | None:
    """Return what two LLMs differ in, such as "block 7"; None if they are the same as far as both are known.

    Args:
        one: what identifies the one.
        other: what identifies the other.
        deepest: the deepest layer in use: later blocks do not count. None: all blocks that both have count.
    """
    a, b = one.digests, other.digests
    if a is None or b is None:
        return None if one.fingerprint == other.fingerprint else "their fingerprints"
    if a.vocabulary != b.vocabulary:
        return "the vocabulary or the sizes"
    if not _agree(a.embedding, b.embedding):
        return "the input embedding"
    for number, (x, y) in enumerate(zip(a.blocks[:deepest], b.blocks, strict=False), 1):
        if not _agree(x, y):
            return f"block {number}"
    return None


def completed(known: Identity, found: Identity) -> Identity:
    """Return `known` with the digests that it lacks and `found`, the same LLM, has."""
    a, b = known.digests, found.digests
    if a is None or b is None:
        return known if b is None else replace(known, digests=b)
    shared = tuple(x or y for x, y in zip(a.blocks, b.blocks, strict=False))
    longer = a.blocks if len(a.blocks) > len(b.blocks) else b.blocks
    blocks = shared + longer[len(shared) :]
    adapter = b.adapter if a.adapter is None else a.adapter
    return replace(
        known, digests=replace(a, embedding=a.embedding or b.embedding, blocks=blocks, adapter=adapter)
    )


def other_adapter(known: Identity, found: Identity, what: str) -> str | None:
    """Return in a sentence's end what to do about adapters, if the one LLM has another adapter than the other.

    Args:
        known: of the LLM that something was made with.
        found: of the LLM that is used with it.
        what: what was made and how, such as "the bank was filled".
    """
    own, other = known.adapter, found.adapter
    if own == other or not (own or other):
        return None
    if own and other:
        return f"{what} with the adapter {own}, not with {other}: load the model with {own}"
    if own:
        return f"{what} with the adapter {own}: load the model with it"
    if own is None:
        return f"unless {what} with the adapter {other}, load the model without it"
    return f"{what} without an adapter: load the model without {other}"


def write_sketch(magnitudes: npt.NDArray[np.floating[Any]]) -> str:
    """Return magnitudes as text: float16, little-endian, in base64."""
    rounded = np.sort(magnitudes).clip(0, np.finfo(np.float16).max).astype("<f2")
    return base64.b64encode(rounded.tobytes()).decode("ascii")


def read_sketch(text: str) -> npt.NDArray[np.float32]:
    """Return the magnitudes that `write_sketch` has written, float32.

    Raises:
        ValueError: the text holds none.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32)
    except binascii.Error:
        raise ValueError("it is not base64") from None


def _agree(one: Digest | None, other: Digest | None) -> bool:
    return one is None or other is None or one.agrees(other)
