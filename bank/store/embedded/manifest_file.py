"""An embedded bank's manifest: one JSON file with the head, the ledger and records about shares of ingestions."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentbank.bank.store.base import Change, Record, StoredManifest
from latentbank.bank.store.embedded.engine import engine_errors, unusable
from latentbank.bank.store.names import share_key, share_path
from latentbank.errors import BankNotFound, BankUnavailable, LatentBankError
from latentbank.files import move, remove, write_whole
from latentbank.text import as_unicode

MANIFEST = "manifest.json"
# The file's name from the moment the bank is being deleted.
_DELETING = "deleting"
_CORPORA, _SHARES = "corpora", "shares"


class ManifestFile:
    """The manifest of one version of an embedded bank, by the folder it is in."""

    def __init__(self, bank: str, folder: Path) -> None:
        """Name the version and its folder; neither needs to exist."""
        self._bank = bank
        self._folder = folder
        self._path = folder / MANIFEST
        self._guard = threading.Lock()

    def read(self) -> StoredManifest | None:
        """Return the head and the ledger; None if there is no such bank.

        Raises:
            BankUnavailable: the file is damaged or cannot be read.
        """
        data = self._read()
        if data is None:
            return None
        return _head(data), data.get(_CORPORA, {})

    def change_head(self, change: Change) -> Record | None:
        """Change the head; the ledger and the records about shares stay as they are. See `Store`."""
        with self._guard:
            found = self._read()
            tables = {table: (found or {}).get(table, {}) for table in (_SHARES, _CORPORA)}
            head = None if found is None else _head(found)
            changed = change(head)
            if changed is not None and changed != head:
                self._replace({**changed, **tables})
            return changed

    def change_entry(self, corpus: str, change: Change, instead_of: str | None) -> Record | None:
        """Change a ledger entry, and remove another one in the same step. See `Store`."""
        with self._guard:
            data = self._require()
            entries = data.get(_CORPORA, {})
            changed = change(entries.get(corpus))
            after = {**entries, corpus: changed} | ({} if instead_of is None else {instead_of: None})
            after = {name: entry for name, entry in after.items() if entry is not None}
            if after != entries:
                self._replace({**data, _CORPORA: after})
            return changed

    def read_shares(self, corpus: str) -> Mapping[str, Record]:
        """Return the records about shares of a corpus's ingestion, by key."""
        found = (self._read() or {}).get(_SHARES, {})
        return {key: record for path, record in found.items() if (key := share_key(path, corpus)) is not None}

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """Store records about shares of a corpus's ingestion, or remove them (None)."""
        changes = {share_path(corpus, key): record for key, record in records.items()}
        with self._guard:
            data = self._require()
            rows = {**data.get(_SHARES, {}), **changes}
            self._replace({**data, _SHARES: {key: row for key, row in rows.items() if row is not None}})

    def begin_deletion(self) -> None:
        """End the bank in one step, which also records that a deletion has begun."""
        if self._path.exists():
            move(self._path, self._folder / _DELETING)

    @property
    def deleting(self) -> bool:
        """Whether a deletion has begun and is not finished."""
        return (self._folder / _DELETING).exists()

    def finish_deletion(self) -> None:
        """Record that everything the bank consisted of is gone."""
        remove(self._folder / _DELETING)

    def clean(self) -> None:
        """Remove unfinished files that a killed process left; only the holder of the bank's lock may do so."""
        with engine_errors(self._bank):
            for unfinished in self._folder.glob(f".{MANIFEST}.*"):
                unfinished.unlink()

    def _read(self) -> dict[str, Any] | None:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise self._damaged(type(error).__name__) from None
        if not isinstance(data, dict):
            raise self._damaged("it is not a JSON object")
        return data

    def _require(self) -> dict[str, Any]:
        """Return the file's content; raises BankNotFound if there is none."""
        data = self._read()
        if data is None:
            raise BankNotFound(f"There is no bank '{self._bank}' in {self._folder.parent}.")
        return data

    def _replace(self, data: Record) -> None:
        try:
            write_whole(self._path, as_unicode(json.dumps(data, ensure_ascii=False, indent=1)).encode())
        except LatentBankError as error:
            raise unusable(self._bank, str(error)) from None

    def _damaged(self, how: str) -> BankUnavailable:
        return BankUnavailable(
            f"The manifest of bank '{self._bank}' cannot be read ({how}); restore {self._path} from a backup."
        )


def _head(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in (_SHARES, _CORPORA)}
