"""A server bank's manifest: metadata of the collection of its lowest layer.

Its head is stored under one key, each corpus's ledger entry and each record about a share of an ingestion under a key
of its own. The server merges metadata by key, so a change to one of them cannot overwrite another.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from latentbank.bank.store.base import Record, StoredManifest
from latentbank.bank.store.names import collection_name, share_key, share_path, split_collection
from latentbank.bank.store.server.client import Connection
from latentbank.errors import BankNotFound

_HEAD = "latentbank"
_ENTRY = "corpus/"
_SHARE = "share/"


def bank_layers(server: Connection) -> dict[str, list[int]]:
    """Return the layers, ascending, of everything on the server that is named like a layer collection."""
    found: dict[str, list[int]] = {}
    for collection in server.call(server.rest.get_collections).collections:
        if parts := split_collection(collection.name):
            found.setdefault(parts[0], []).append(parts[1])
    return {bank: sorted(layers) for bank, layers in found.items()}


def has_manifest(server: Connection, bank: str, lowest_layer: int) -> bool:
    """Return whether the lowest layer of what is stored under a name carries a manifest."""
    return _HEAD in _read(server, collection_name(bank, lowest_layer))


class Metadata:
    """The manifest of one version of a bank."""

    def __init__(self, server: Connection, bank: str) -> None:
        """Name the version; it need not exist."""
        self._server = server
        self._bank = bank

    def layers(self) -> list[int]:
        """Return the layers that have a collection, ascending."""
        return bank_layers(self._server).get(self._bank, [])

    def read(self) -> StoredManifest | None:
        """Return the head and the ledger; None if there is no such bank."""
        metadata = self._read()
        if _HEAD not in metadata:
            return None
        return metadata[_HEAD], _starting_with(metadata, _ENTRY)

    def write_head(self, head: Record) -> None:
        """Store the head; everything else stays as it is."""
        self._merge({_HEAD: dict(head)})

    def write_entries(self, entries: Mapping[str, Record | None]) -> None:
        """Store ledger entries by corpus, or remove them (None), in one request, which the server applies whole."""
        self._merge_rows(_ENTRY, entries)

    def read_shares(self, corpus: str) -> Mapping[str, Record]:
        """Return the records about shares of a corpus's ingestion, by key."""
        found = _starting_with(self._read(), _SHARE)
        return {key: record for path, record in found.items() if (key := share_key(path, corpus)) is not None}

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """Store records about shares of a corpus's ingestion, or remove them (None)."""
        self._merge_rows(_SHARE, {share_path(corpus, key): record for key, record in records.items()})

    def _read(self) -> Record:
        layers = self.layers()
        return _read(self._server, collection_name(self._bank, layers[0])) if layers else {}

    def _merge_rows(self, prefix: str, rows: Mapping[str, Record | None]) -> None:
        self._merge({prefix + key: None if row is None else dict(row) for key, row in rows.items()})

    def _merge(self, change: dict[str, Any]) -> None:
        layers = self.layers()
        if not layers:
            raise BankNotFound(f"The server {self._server.url} has no bank '{self._bank}'.")
        lowest = collection_name(self._bank, layers[0])
        self._server.call(partial(self._server.rest.update_collection, lowest, metadata=change))


def _read(server: Connection, collection: str) -> Record:
    return server.call(partial(server.rest.get_collection, collection)).config.metadata or {}


def _starting_with(metadata: Record, prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}
