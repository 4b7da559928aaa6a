"""What the metadata of a server bank's lowest layer says: that the bank has a ledger, or an earlier version's manifest.

Banks of earlier versions have their manifest there: the head under one key, each corpus's ledger entry and each record
about a share of an ingestion under a key of its own. The server merges metadata by key, so that a change of one cannot
overwrite another, but it compares nothing, and a cluster's other nodes learn of a change only a moment later. Such a
bank is read and written as it is until it is upgraded.

A bank with a ledger has a mark there, and under the head's key a schema that earlier versions refuse to read. The mark
has a key of its own, so that no change of the head can remove it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from latentbank.bank.store.base import Change, Record, StoredManifest
from latentbank.bank.store.names import collection_name, ledger_name, share_key, share_path, split_collection
from latentbank.bank.store.server.client import Connection
from latentbank.errors import BankNotFound
from latentbank.version import __version__

State: TypeAlias = Literal["none", "manifest", "moving", "moved"]
"""What metadata holds: nothing of ours; a manifest; one that is being copied to a ledger; a mark, or a copied one."""

SCHEMA_WITH_LEDGER = 2
"""The schema in the mark: that of a bank whose manifest is a ledger."""

_HEAD = "latentbank"
_ENTRY = "corpus/"
_SHARE = "share/"
_MARK = "latentbank-ledger"
_SCHEMA = 1
# Seconds for which a process reads what it wrote itself: another node may not know it yet.
_LAG = 2.0


def bank_layers(server: Connection) -> dict[str, list[int]]:
    """Return the layers, ascending, of everything on the server that is named like a layer collection."""
    found: dict[str, list[int]] = {}
    for name in collection_names(server):
        if parts := split_collection(name):
            found.setdefault(parts[0], []).append(parts[1])
    return {bank: sorted(layers) for bank, layers in found.items()}


def collection_names(server: Connection) -> list[str]:
    """Return the names of all collections that the key may see."""
    return [collection.name for collection in server.call(server.rest.get_collections).collections]


def mark(bank: str) -> dict[str, Any]:
    """Return the metadata of the layers of a bank that has a ledger."""
    head = {"schema": SCHEMA_WITH_LEDGER, "bank": bank, "version": __version__}
    return {_HEAD: head, _MARK: {"ledger": ledger_name(bank), "copied": True}}


class Metadata:
    """The metadata of the lowest layer of one version of a bank."""

    def __init__(self, server: Connection, bank: str) -> None:
        """Name the version; it need not exist."""
        self._server = server
        self._bank = bank
        self._written: dict[str, tuple[float, Any]] = {}

    def layers(self) -> list[int]:
        """Return the layers that have a collection, ascending."""
        return bank_layers(self._server).get(self._bank, [])

    def state(self) -> State:
        """Return what the metadata holds."""
        return _state(self._read())

    def read(self) -> tuple[State, StoredManifest | None]:
        """Return what the metadata holds, and the manifest unless that has become a ledger."""
        metadata = self._read()
        state = _state(metadata)
        if state in ("none", "moved"):
            return state, None
        head = metadata[_HEAD] if state == "manifest" else {**metadata[_HEAD], "schema": _SCHEMA}
        return state, (head, _starting_with(metadata, _ENTRY))

    def change_head(self, change: Change) -> Record | None:
        """Change the head; nothing is compared. Returns when the last of several writers at this moment has done it."""
        before = self._written.get(_HEAD)
        changed = self._change(_HEAD, change)
        if self._written.get(_HEAD) != before:
            time.sleep(_LAG)
        return changed

    def change_entries(self, corpus: str, change: Change, instead_of: str | None) -> Record | None:
        """Change an entry and remove another one in one request, which the server applies whole."""
        removed = {} if instead_of is None else {_ENTRY + instead_of: None}
        return self._change(_ENTRY + corpus, change, removed)

    def read_shares(self, corpus: str) -> dict[str, Record]:
        """Return the records about shares of a corpus's ingestion, by key."""
        found = self.all_shares()
        return {key: record for path, record in found.items() if (key := share_key(path, corpus)) is not None}

    def all_shares(self) -> dict[str, Record]:
        """Return the records about shares of all corpora, by the name they are stored under."""
        return _starting_with(self._read(), _SHARE)

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """Store records about shares of a corpus's ingestion, or remove them (None)."""
        self._set({_SHARE + share_path(corpus, key): record for key, record in records.items()})

    def set_mark(self, *, copied: bool) -> None:
        """Mark the manifest: it is being copied to a ledger, or is copied."""
        marked = {"ledger": ledger_name(self._bank), "copied": copied}
        self._set({_MARK: marked, _HEAD: {**self._read()[_HEAD], "schema": SCHEMA_WITH_LEDGER}})

    def keep_only_mark(self) -> bool:
        """Remove the manifest, leaving the mark, which is made if there is none; return whether anything changed."""
        metadata = self._read()
        ours = {key: None for key in metadata if key.startswith((_ENTRY, _SHARE))}
        wanted = mark(self._bank)
        if not ours and all(metadata.get(key) == value for key, value in wanted.items()):
            return False
        self._set({**ours, **wanted})
        return True

    def _change(self, key: str, change: Change, removed: Mapping[str, None] | None = None) -> Record | None:
        record: Record | None = self._read().get(key)
        changed = change(record)
        if changed != record or removed:
            self._set({key: changed, **(removed or {})})
        return changed

    def _read(self) -> dict[str, Any]:
        layers = self.layers()
        if not layers:
            return {}
        lowest = collection_name(self._bank, layers[0])
        try:
            info = self._server.call(partial(self._server.rest.get_collection, lowest))
        except BankNotFound:  # deleted since it was listed
            return {}
        found = dict(info.config.metadata or {})
        since = time.monotonic() - _LAG
        found |= {key: value for key, (written, value) in self._written.items() if written > since}
        return {key: value for key, value in found.items() if value is not None}

    def _set(self, change: dict[str, Any]) -> None:
        layers = self.layers()
        if not layers:
            raise BankNotFound(f"The server {self._server.url} has no bank '{self._bank}'.")
        lowest = collection_name(self._bank, layers[0])
        written = {key: None if value is None else dict(value) for key, value in change.items()}
        self._server.call(partial(self._server.rest.update_collection, lowest, metadata=written))
        self._written |= {key: (time.monotonic(), value) for key, value in written.items()}


def _state(metadata: Mapping[str, Any]) -> State:
    if found := metadata.get(_MARK):
        return "moved" if found["copied"] else "moving"
    return "manifest" if _HEAD in metadata else "none"


def _starting_with(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}
