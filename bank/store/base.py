"""Stores: where a bank's layer collections live. Nothing outside this folder names Qdrant.

A store holds one bank. `open_store` chooses the embedded engine (a folder on this machine) or a
server, by the settings; both answer to the same interface, and the same tests run against both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from latentbank.bank.points import Payload
from latentbank.bank.settings import Settings
from latentbank.bank.where import Filter
from latentbank.errors import LatentBankError

Floats = npt.NDArray[np.float32]
MOST_CORPORA = 1_000_000
"""More corpora than any bank has: the limit of a facet that must give all of them."""

_COLLECTION = re.compile(r"(?P<bank>.+)--L(?P<layer>\d\d+)")


@dataclass(frozen=True)
class Points:
    """Contexts to store in one layer collection; row i of `vectors` `[n, hidden]` belongs to `ids[i]`."""

    ids: Sequence[str]
    vectors: Floats
    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class Hit:
    """One scored point, with its payload where asked for."""

    id: str
    score: float
    payload: Payload | None


@dataclass(frozen=True)
class Stored:
    """One point read back; `vector` `[hidden]` as stored (rotated), where asked for."""

    id: str
    payload: Payload | None
    vector: Floats | None


@dataclass(frozen=True)
class LayerInfo:
    """State of one layer collection; `indexed` counts the points in quantized (searchable fast) segments."""

    points: int
    indexed: int
    bytes_on_disk: int | None


class NoSnapshot(LatentBankError):
    """A layer cannot be moved as a snapshot, only context by context; the message is the reason, a clause."""


class Store(Protocol):
    """The layer collections and the manifest of one version of a bank."""

    @property
    def bank(self) -> str:
        """The name it is stored under: the bank's for version 1, else as in name@2."""

    @property
    def settings(self) -> Settings:
        """Where it is, and how it is searched."""

    @property
    def shared(self) -> bool:
        """Whether other processes may read and write the bank at the same time."""

    def in_use(self) -> str:
        """Give the name under which the version is stored that the bank's plain name means now."""

    def read_manifest(self) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]] | None:
        """Give the manifest's head and its ledger, or None where there is no such bank."""

    def write_manifest(self, head: Mapping[str, Any]) -> None:
        """Store the manifest's head; the ledger stays as it is."""

    def write_entry(self, corpus: str, entry: Mapping[str, Any] | None) -> None:
        """Store one corpus's ledger entry, or remove it (None), without touching the others."""

    def write_entries(self, entries: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Store ledger entries by corpus, or remove them (None), all in one step, without touching others."""

    def read_shares(self, corpus: str) -> Mapping[str, Mapping[str, Any]]:
        """Give what `write_shares` stored of a corpus, by key."""

    def write_shares(self, corpus: str, records: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Store records about shares of a corpus's ingestion, or remove them (None), without touching others."""

    def layers(self) -> list[int]:
        """Give the layers that have a collection, ascending."""

    def create(self, layer: int, hidden_size: int, quantization: str) -> None:
        """Create a layer's collection with its payload indexes; it is loaded unindexed until `index`.

        What is there is replaced, but for a shared collection of this size and quantization: another process
        may be making the same bank.
        """

    def defer_index(self, layer: int, expected: int) -> None:
        """Leave indexing to `index` while a layer is loaded; `expected` is how many points it will hold."""

    def upsert(self, layer: int, points: Points) -> None:
        """Write points; acknowledged (safe from a kill) once `commit` has returned."""

    def commit(self) -> None:
        """Make everything upserted so far durable."""

    def index(self, layer: int) -> None:
        """Quantize and, from `graph_from` contexts on, build the HNSW graph; returns when it is done."""

    def search(
        self,
        layer: int,
        queries: Floats,
        limit: int,
        where: Filter | Sequence[Filter | None] | None = None,
        exact: bool = False,
        payloads: bool = True,
        ef: int | None = None,
    ) -> list[list[Hit]]:
        """Give the nearest points of each query `[queries, hidden]`, best first.

        `where` is for all queries or one for each; `ef` says how many candidates are looked at in a graph (None: the
        setting).
        """

    def payloads(self, layer: int, ids: Sequence[str]) -> dict[str, Payload]:
        """Give the payloads of those points of `ids` that the layer holds."""

    def count(self, layer: int, where: Filter | None = None) -> int:
        """Count the points that `where` selects, exactly."""

    def facet(self, layer: int, field: str, where: Filter | None = None, limit: int = 100) -> dict[Any, int]:
        """Count points by the values of an indexed payload field, most frequent first."""

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """Tell which of `ids` the layer holds."""

    def scroll(
        self,
        layer: int,
        where: Filter | None = None,
        vectors: bool = False,
        payloads: bool = False,
        start: str | None = None,
    ) -> Iterator[Stored]:
        """Go through a layer's points in the order of their ids, from the id `start` (inclusive) on."""

    def delete_corpus(self, layer: int, corpus: str) -> None:
        """Delete every point of a corpus."""

    def save_snapshot(self, layer: int, file: Path, told: Callable[[int], None]) -> None:
        """Write a layer whole, indexes and all, to a file that `load_snapshot` of an embedded store reads.

        `told` hears how many bytes have come. Raises NoSnapshot where this store, or this key, gives none.
        """

    def load_snapshot(self, layer: int, save: Callable[[Path], None], expected: Mapping[str, int]) -> None:
        """Let a layer hold what a snapshot holds instead of what it held, in one step.

        `save` writes the file that it is given. `expected` are the contexts by the name their corpus is stored under;
        of a snapshot that holds others, or that this store cannot read, nothing is taken, and NoSnapshot raised.
        """

    def info(self, layer: int) -> LayerInfo:
        """Give the state of a layer collection."""

    def delete(self) -> None:
        """Delete the whole bank: every collection and the manifest."""

    def close(self) -> None:
        """Release files, locks and connections."""


def collection_name(bank: str, layer: int) -> str:
    """Name a layer's collection on a server."""
    return f"{bank}--L{layer:02d}"


def in_use_name(bank: str) -> str:
    """Name what says which version of a bank is in use: no bank's or version's name looks like this."""
    return f"{bank}@in-use"


def alias_name(bank: str, layer: int) -> str:
    """Name the alias on a server that leads to a layer of the version in use."""
    return collection_name(in_use_name(bank), layer)


def split_collection(collection: str) -> tuple[str, int] | None:
    """Give bank and layer of a collection named by `collection_name`; None if it is another's."""
    match = _COLLECTION.fullmatch(collection)
    return (match["bank"], int(match["layer"])) if match else None


def share_path(corpus: str, key: str) -> str:
    """Name a record about a share so that neither corpora nor keys can be confused: corpora hold no slash."""
    return f"{key}/{corpus}"


def share_key(path: str, corpus: str) -> str | None:
    """Give the key of a name made by `share_path`; None if it is another corpus's."""
    key, _, owner = path.rpartition("/")
    return key if owner == corpus else None


def open_store(bank: str, settings: Settings, *, create: bool = False) -> Store:
    """Open the store of one version of a bank, by `settings` on a server or embedded.

    Args:
        bank: the name that the version is stored under.
        settings: `url` chooses the server; empty, the embedded engine in `data_dir`.
        create: make the embedded bank's folder if there is none.

    Raises:
        BankUnavailable: the server or the folder cannot be used.
        BankBusy: another process has the embedded bank open.
    """
    if settings.url:
        from latentbank.bank.store.server.store import ServerStore

        return ServerStore(bank, settings)
    from latentbank.bank.store.embedded.store import EmbeddedStore

    return EmbeddedStore(bank, settings, create=create)


def open_store_in_use(bank: str, settings: Settings, *, create: bool = False) -> Store:
    """Open the store of the version that a bank's plain name means; see `open_store`."""
    if not settings.url:
        from latentbank.bank.store.embedded.pointer import read_pointer

        return open_store(read_pointer(bank, settings), settings, create=create)
    store = open_store(bank, settings)
    try:
        meant = store.in_use()
    except BaseException:
        store.close()
        raise
    if meant == bank:
        return store
    store.close()
    return open_store(meant, settings)


def names_in_use(banks: Iterable[str], settings: Settings) -> dict[str, str]:
    """Give the name under which the version is stored that each bank's plain name means."""
    if settings.url:
        from latentbank.bank.store.server.store import server_names_in_use

        return server_names_in_use(banks, settings)
    from latentbank.bank.store.embedded.pointer import read_pointer

    return {bank: read_pointer(bank, settings) for bank in banks}


def put_in_use(bank: str, stored: str, layers: Iterable[int], settings: Settings) -> None:
    """Let a bank's plain name mean a version, in one step for all its layers.

    Args:
        bank: the plain name.
        stored: the name that the version is stored under.
        layers: the version's layers.
        settings: where the bank is.

    Raises:
        BankUnavailable: the server or the folder cannot be used.
        BankMismatch: a layer is not there.
        BankBusy: another process does the same at the same moment.
    """
    if settings.url:
        from latentbank.bank.store.server.store import switch_on_server

        switch_on_server(bank, stored, layers, settings)
    else:
        from latentbank.bank.store.embedded.pointer import write_pointer

        write_pointer(bank, stored, settings)


def forget_in_use(bank: str, settings: Settings) -> None:
    """Remove what says which version a bank's plain name means; on a server that goes with the collections."""
    if not settings.url:
        from latentbank.bank.store.embedded.pointer import remove_pointer

        remove_pointer(bank, settings)


def peek_manifest(
    stored: str, settings: Settings
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]] | None:
    """Give a version's manifest as `Store.read_manifest` does, also of an embedded one that is open elsewhere."""
    if not settings.url:
        from latentbank.bank.store.embedded.store import read_manifest_file, split_manifest

        return split_manifest(read_manifest_file(stored, settings.data_dir / stored))
    store = open_store(stored, settings)
    try:
        return store.read_manifest()
    finally:
        store.close()


def bank_names(settings: Settings) -> list[str]:
    """Give the names of all versions of all banks that `settings` reaches, as they are stored, sorted."""
    if settings.url:
        from latentbank.bank.store.server.store import server_bank_names

        return server_bank_names(settings)
    from latentbank.bank.store.embedded.store import embedded_bank_names

    return embedded_bank_names(settings)


def require_writer(settings: Settings) -> None:
    """Check that the settings' key may change banks, before any work is done for it; embedded there is no key.

    Raises:
        BankUnavailable: it is a reader's key, or the server cannot be used.
    """
    if settings.url:
        from latentbank.bank.store.server.store import require_server_writer

        require_server_writer(settings)
