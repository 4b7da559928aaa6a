"""The manifest: what a bank is, and its ledger of corpora."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from latentbank.bank.settings import Metric
from latentbank.errors import BankMismatch
from latentbank.identity import Digests, Identity, read_sketch
from latentbank.text import count_text, is_path, listed, public_name
from latentbank.version import __version__

SCHEMA = 1
"""The schema of a bank's manifest, unless it is centred by unit means."""
UNIT_MEANS = 3
"""The schema of centred banks made from now on: their means are those of unit vectors.

Centred banks of schema 1 keep means of hidden states as they are. Schema 2 is what a server's bank with a ledger shows
to versions that cannot read a ledger.
"""
_OF_A_REPLACEMENT = ("replaces", "stored_as", "obsolete")


def now() -> str:
    """Return the current time as an ISO 8601 string in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class CorpusEntry:
    """One corpus in a bank's ledger.

    A corpus that replaces another one needs a stored name of its own. Its entry first has that name, is incomplete and
    `replaces` the other corpus; when it is complete it takes the other one's name and keeps its stored name as
    `stored_as`.

    Attributes:
        name: the corpus's name.
        content_hash: hash of the sentences in their order.
        sentences: number of sentences.
        tokens: number of tokens.
        contexts: how many contexts each layer collection holds of it once it is complete.
        plan: the settings that the contexts were chosen with.
        complete: whether its ingestion is complete.
        updated: when the entry was written, in UTC.
        version: the latentbank version that wrote it.
        replaces: name of the corpus that it will replace; empty: none.
        stored_as: the name it is stored under, if that is not its own.
        obsolete: stored names of corpora that it has replaced and that are not deleted yet.
    """

    name: str
    content_hash: str
    sentences: int
    tokens: int
    contexts: int
    plan: Mapping[str, Any]
    complete: bool = False
    updated: str = field(default_factory=now)
    version: str = __version__
    replaces: str = ""
    stored_as: str = ""
    obsolete: tuple[str, ...] = ()

    @property
    def stored(self) -> str:
        """The corpus name that its contexts carry in the layer collections."""
        return self.stored_as or self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-ready data; empty fields that only a replacement needs are left out."""
        data = asdict(self) | {"plan": dict(self.plan), "obsolete": list(self.obsolete)}
        return {key: value for key, value in data.items() if value or key not in _OF_A_REPLACEMENT}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CorpusEntry:
        """Return the entry that `to_dict` has written.

        Raises:
            BankMismatch: it is not an entry.
        """
        try:
            return _entry_reader().validate_python(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BankMismatch(
                f"A corpus's entry in the ledger is damaged ({where}: {first['msg']}); restore the bank from a backup."
            ) from None


@dataclass(frozen=True)
class Manifest:
    """What a bank is.

    Attributes:
        bank: the bank's name.
        model: the LLM's name: its id on the hub, or the last part of the path of a local model. Manifests of earlier
            versions hold the whole path.
        revision: the LLM's revision, if known.
        fingerprint: the LLM's fingerprint.
        num_layers: number of blocks of the whole LLM.
        hidden_size: width of its hidden states.
        layers: the layers that have a layer collection.
        rotation_seed: seed of the rotation of all vectors.
        quantization: how vectors are compressed in RAM.
        metric: "cosine" or "centred"; "cosine" for a manifest written before there was a choice.
        means: for a "centred" bank, each layer's mean of its contexts' hidden states, or of these scaled to length 1
            (`unit_means`), as text (see `write_mean`). Empty until the first corpus is ingested, and fixed from
            then on.
        schema: version of this format.
        created: when the bank was created, in UTC.
        version: the latentbank version that created it.
        corpora: the ledger.
        digests: the LLM's digests; None in a manifest that an earlier version wrote.
        local: whether the LLM was read from a folder or file of this machine, not from the hub.
        tuned: how thoroughly this bank's graphs must be searched, as `latentbank.bank.tuning` measured it; empty: it is
            not measured. Other versions ignore it.
    """

    bank: str
    model: str
    revision: str | None
    fingerprint: str
    num_layers: int
    hidden_size: int
    layers: tuple[int, ...]
    rotation_seed: int
    quantization: str
    metric: Metric = "cosine"
    means: Mapping[int, str] = field(default_factory=dict)
    schema: int = SCHEMA
    created: str = field(default_factory=now)
    version: str = __version__
    corpora: Mapping[str, CorpusEntry] = field(default_factory=dict)
    digests: Digests | None = None
    local: bool = False
    tuned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """What tells the LLM from others."""
        return Identity(self.fingerprint, self.digests)

    @property
    def unit_means(self) -> bool:
        """Whether hidden states are scaled to length 1 before the mean is subtracted, and the means are of such."""
        return self.metric == "centred" and self.schema == UNIT_MEANS

    def summary(self, version: int) -> str:
        """Return name, model, layers and corpora in one line; `version` is the bank's."""
        corpora = (
            listed(f"{c.name} ({count_text(c.contexts, 'context')})" for c in self.corpora.values())
            or "no corpora"
        )
        metric = "" if self.metric == "cosine" else f"{self.metric}, "
        which = f" (version {version})" if version > 1 and "@" not in self.bank else ""
        return (
            f"{self.bank}{which}: {public_name(self.model)}, {metric}layers {listed(self.layers)}, {corpora}"
        )

    def without_path(self) -> Manifest:
        """Return the manifest for another place, whose graphs are others, and without a path.

        Of a path that an earlier version recorded, the last part stays.
        """
        if not is_path(self.model):
            return replace(self, tuned={})
        return replace(self, model=public_name(self.model), local=True, tuned={})

    def head(self) -> dict[str, Any]:
        """Return everything except the ledger as JSON-ready data; what earlier versions lack only where there is it."""
        data = asdict(replace(self, corpora={}, digests=None))
        del data["corpora"], data["digests"]
        for name in ("local", "tuned"):
            if not data[name]:
                del data[name]
        if self.digests is not None:
            data["digests"] = self.digests.to_dict()
        means = {str(layer): mean for layer, mean in self.means.items()}
        return data | {"layers": list(self.layers), "means": means}

    def mean(self, layer: int) -> npt.NDArray[np.float32] | None:
        """Return the mean `[hidden]` (float32) that is subtracted in a layer; None if the bank is not centred.

        Raises:
            BankMismatch: the bank is centred and its means are not fixed yet.
        """
        if self.metric == "cosine":
            return None
        if layer not in self.means:
            raise BankMismatch(
                f"The bank '{self.bank}' is centred, but its means are not fixed yet; ingest a corpus first."
            )
        return read_mean(self.means[layer])

    def to_dict(self) -> dict[str, Any]:
        """Return the whole manifest as JSON-ready data."""
        return self.head() | {"corpora": {name: entry.to_dict() for name, entry in self.corpora.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], corpora: Mapping[str, Mapping[str, Any]]) -> Manifest:
        """Return the manifest that `head` and `CorpusEntry.to_dict` have written.

        Raises:
            BankMismatch: it has another schema, or is not a manifest.
        """
        if not isinstance(data, Mapping):
            raise BankMismatch(
                "The bank's manifest is damaged (it is not a JSON object); restore it from a backup."
            )
        if data.get("schema") not in (SCHEMA, UNIT_MEANS):
            raise BankMismatch(
                f"The bank '{data.get('bank', '?')}' has manifest schema {data.get('schema')}, this latentbank "
                f"reads schema {SCHEMA} or {UNIT_MEANS}; use the latentbank version that wrote it "
                f"({data.get('version', '?')})."
            )
        try:
            manifest = _reader().validate_python({**data, "corpora": corpora})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _damaged(data, f"{where}: {first['msg']}") from None
        for layer in manifest.layers if manifest.means else ():
            try:
                sound = len(read_mean(manifest.means[layer])) == manifest.hidden_size
            except (KeyError, ValueError):
                sound = False
            if not sound:
                raise _damaged(data, f"means.{layer}: no mean of {manifest.hidden_size} numbers")
        for digest in (manifest.digests.embedding, *manifest.digests.blocks) if manifest.digests else ():
            try:
                read_sketch(digest.sketch if digest else "")
            except ValueError as error:
                raise _damaged(data, f"digests: {error}") from None
        return manifest


def write_mean(mean: npt.ArrayLike) -> str:
    """Return a mean `[hidden]` as text: its float32 numbers, little-endian, in base64."""
    return base64.b64encode(np.asarray(mean, dtype="<f4").tobytes()).decode("ascii")


def read_mean(text: str) -> npt.NDArray[np.float32]:
    """Return the mean that `write_mean` has written: float32 `[hidden]`.

    Raises:
        ValueError: the text holds no mean, or a number is not finite.
    """
    try:
        mean = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    except binascii.Error:
        raise ValueError("it is not base64") from None
    if not np.isfinite(mean).all():
        raise ValueError("it is not finite")
    return mean


def checked_means(manifest: Manifest, means: Mapping[int, npt.ArrayLike]) -> dict[int, str]:
    """Return means `[hidden]` by layer as text, as a manifest keeps them.

    Raises:
        BankMismatch: they are not means for the bank's layers.
    """
    given = {layer: np.asarray(mean, dtype=np.float32) for layer, mean in means.items()}
    if given.keys() != set(manifest.layers) or not all(
        mean.shape == (manifest.hidden_size,) and np.isfinite(mean).all() for mean in given.values()
    ):
        raise BankMismatch(
            f"The bank '{manifest.bank}' needs a mean of {manifest.hidden_size} finite numbers for each of its layers "
            f"{listed(manifest.layers)}."
        )
    return {layer: write_mean(given[layer]) for layer in manifest.layers}


def _damaged(data: Mapping[str, Any], how: str) -> BankMismatch:
    return BankMismatch(
        f"The manifest of bank '{data.get('bank', '?')}' is damaged ({how}); restore it from a backup."
    )


@lru_cache(maxsize=1)
def _entry_reader() -> TypeAdapter[CorpusEntry]:
    return TypeAdapter(CorpusEntry)


@lru_cache(maxsize=1)
def _reader() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)
