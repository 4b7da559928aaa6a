"""A server bank's manifest, wherever it is: in a ledger, or in metadata for a bank of an earlier version."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, TypeVar

from latentbank.bank.store.base import Change, Record, StoredManifest
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.ledger import HiddenLedger, Ledger, NoLedger
from latentbank.bank.store.server.metadata import SCHEMA_WITH_LEDGER, Metadata, mark
from latentbank.bank.token import claims_of
from latentbank.errors import BankBusy, BankNotFound, BankUnavailable, LatentBankError

T = TypeVar("T")
_Where: TypeAlias = Literal["nowhere", "ledger", "metadata"]

# Seconds that an upgrade waits after it has marked the old manifest, so that whoever did not see the mark yet has
# written by then; whoever writes later sees the mark afterwards.
SETTLE_SECONDS = 3.0
# Seconds that a writer waits for another process's upgrade to end, and between two looks.
_UPGRADE_SECONDS, _PAUSE = 30.0, 0.2
_SCHEMA = 1


class ServerManifest:
    """The manifest of one version of a bank."""

    def __init__(self, server: Connection, bank: str) -> None:
        """Name the version; it need not exist."""
        self._server = server
        self._bank = bank
        self._ledger = Ledger(server, bank)
        self._metadata = Metadata(server, bank)
        # Where it was last time: a bank with a ledger keeps it, one without may get one at any time. Threads share
        # this, so it is only set to what was found.
        self._where: _Where = "nowhere"

    def layers(self) -> list[int]:
        """Return the layers that have a collection, ascending."""
        return self._metadata.layers()

    @property
    def layer_metadata(self) -> dict[str, object] | None:
        """Metadata for layers that are created: the mark, unless the manifest is metadata."""
        return None if self._where == "metadata" else mark(self._bank)

    # -- reading -------------------------------------------------------------------------------

    def read(self) -> StoredManifest | None:
        """Return the head and the ledger; None if there is no such bank.

        Raises:
            BankUnavailable: the key is a token that does not open the ledger.
        """
        return self._find()[1]

    def _find(self) -> tuple[_Where, StoredManifest | None]:
        """Return where the manifest is, and what it says; see `read`."""
        if self._where == "metadata":
            state, found = self._metadata.read()
            if state == "manifest":
                return "metadata", found
        hidden, in_ledger = False, None
        try:
            in_ledger = self._ledger.read()
        except NoLedger:
            pass
        except HiddenLedger:
            hidden = True
        if in_ledger is not None:
            self._where = "ledger"
            head, entries = in_ledger
            return "ledger", (_with_schema(head, SCHEMA_WITH_LEDGER, _SCHEMA), entries)
        state, found = self._metadata.read()
        if hidden and state == "moved":
            raise token_without_ledger(self._bank)
        where: _Where = "nowhere" if found is None else "metadata"
        self._where = where
        return where, found

    def read_shares(self, corpus: str) -> Mapping[str, Record]:
        """Return the records about shares of a corpus's ingestion, by key."""
        if self._place() == "ledger":
            return self._of_bank(lambda: self._ledger.read_shares(corpus))
        return self._metadata.read_shares(corpus)

    # -- writing -------------------------------------------------------------------------------

    def change_head(self, change: Change) -> Record | None:
        """See `Store`."""

        def stored(record: Record | None) -> Record | None:
            changed = change(None if record is None else _with_schema(record, SCHEMA_WITH_LEDGER, _SCHEMA))
            return None if changed is None else _with_schema(changed, _SCHEMA, SCHEMA_WITH_LEDGER)

        where = self._place()
        if where == "metadata":
            changed = self._metadata.change_head(change)
            if not self._has_moved():
                return changed
        elif where == "nowhere":
            if change(None) is None:
                return None
            self._begin()
        head = self._of_bank(lambda: self._ledger.change("head", "", stored))
        self._where = "ledger"
        return None if head is None else _with_schema(head, SCHEMA_WITH_LEDGER, _SCHEMA)

    def change_entry(self, corpus: str, change: Change, instead_of: str | None = None) -> Record | None:
        """See `Store`."""
        where = self._place()
        if where == "nowhere":
            raise BankNotFound(f"The server {self._server.url} has no bank '{self._bank}'.")
        if where == "metadata":
            changed = self._metadata.change_entries(corpus, change, instead_of)
            if not self._has_moved():
                return changed
        changed = self._of_bank(lambda: self._ledger.change("entry", corpus, change))
        if instead_of is not None:
            self._of_bank(lambda: self._ledger.change("entry", instead_of, lambda _: None))
        return changed

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """See `Store`."""
        if self._place() == "ledger":
            self._of_bank(lambda: self._ledger.write_shares(corpus, records))
        else:
            self._metadata.write_shares(corpus, records)

    def _begin(self) -> None:
        """Prepare a ledger for a bank that is being created, before its head makes it one."""
        self._metadata.keep_only_mark()
        self._ledger.create()

    def _place(self) -> _Where:
        """Return where the manifest is, as far as is known or can be found out.

        Raises:
            BankBusy: an upgrade is under way, or was interrupted.
        """
        where = self._where
        if where != "ledger":
            where, _ = self._find()
        if where == "metadata" and self._metadata.state() == "moving":
            raise self._upgrading()
        return where

    def _upgrading(self) -> BankBusy:
        return BankBusy(
            f"The bank '{self._bank}' is being upgraded; try again when that has ended, or upgrade it again if it was "
            "interrupted.",
            functions=("upgrade_bank",),
        )

    def _has_moved(self) -> bool:
        """Return whether an upgrade began before a change of metadata, which it then may have missed.

        Returns when the upgrade has ended.
        """
        until = time.monotonic() + _UPGRADE_SECONDS
        while self._metadata.state() in ("moving", "moved"):
            if self._find()[0] == "ledger":
                return True
            if time.monotonic() > until:
                raise self._upgrading()
            time.sleep(_PAUSE)
        return False

    def _of_bank(self, request: Callable[[], T]) -> T:
        """Do something with the ledger of a bank that had one."""
        try:
            return request()
        except NoLedger:
            self._where = "nowhere"
            raise BankNotFound(
                f"The server {self._server.url} has no bank '{self._bank}': its ledger is gone, so somebody deleted it."
            ) from None
        except HiddenLedger:
            raise token_without_ledger(self._bank) from None

    def delete_ledger(self) -> None:
        """Delete the ledger, if there is one, which ends the bank."""
        self._ledger.delete()
        self._where = "nowhere"

    # -- upgrading -----------------------------------------------------------------------------

    def upgrade(self) -> bool:
        """Copy the manifest from metadata to a ledger, or go on with that; return whether there was something to do.

        1. The old manifest is marked. From now on earlier versions refuse the bank, and this one does not change it.
        2. Whoever had read the head before has `SETTLE_SECONDS` to write. Who writes later looks afterwards, finds the
           mark, and makes the change in the ledger, too.
        3. The entries are copied, unless the ledger has them, then the head. From now on the ledger is the manifest.
        4. The mark says so.

        Each step can be repeated. Until step 3 has ended, readers read the old manifest.

        Raises:
            BankNotFound: there is no such bank.
        """
        state, found = self._metadata.read()
        if found is None:
            if self.read() is None:
                raise BankNotFound(f"The server {self._server.url} has no bank '{self._bank}'.")
            return False
        if state == "manifest":
            self._metadata.set_mark(copied=False)
        if not self.ledger_has_head():
            time.sleep(SETTLE_SECONDS)
            self._ledger.create()
            _, found = self._metadata.read()
            head, entries = found or ({}, {})
            for corpus, entry in entries.items():
                self._ledger.insert("entry", corpus, entry)
            for path, record in self._metadata.all_shares().items():
                self._ledger.insert("share", path, record)
            self._ledger.insert("head", "", _with_schema(head, _SCHEMA, SCHEMA_WITH_LEDGER))
        self._metadata.set_mark(copied=True)
        self._where = "ledger"
        return True

    def finish_upgrade(self) -> bool:
        """Remove from metadata what was copied to the ledger; return whether there was something.

        Raises:
            LatentBankError: the upgrade has not ended.
        """
        if self._metadata.state() in ("manifest", "moving") or self.read() is None:
            raise LatentBankError(f"The bank '{self._bank}' is not upgraded yet; upgrade it first.")
        return self._metadata.keep_only_mark()

    def ledger_has_head(self) -> bool:
        """Return whether there is a ledger, and it makes a bank."""
        try:
            return self._ledger.exists()
        except NoLedger:
            return False


def _with_schema(head: Record, stored: int, wanted: int) -> Record:
    """Return a head with another schema: in a ledger it differs, so that earlier versions refuse it, elsewhere not."""
    return {**head, "schema": wanted} if head.get("schema") == stored else head


def has_manifest(server: Connection, bank: str, *, ledger: bool) -> bool:
    """Return whether what is stored under a name is a bank, and not what a killed creation or deletion left.

    Args:
        server: the server.
        bank: the name it is stored under.
        ledger: whether there is a ledger collection that the key may see.
    """
    if ledger and ServerManifest(server, bank).ledger_has_head():
        return True
    state = Metadata(server, bank).state()
    by_token = claims_of(server.settings.key() or "") is not None
    # Without a ledger to be seen, a mark is that of a bank only if the ledger may be hidden.
    return state in ("manifest", "moving") or (state == "moved" and by_token)


def token_without_ledger(bank: str) -> BankUnavailable:
    """Return the error for a token that was made before a bank had a ledger."""
    return BankUnavailable(
        f"The token was made before the bank '{bank}' had a ledger of its own, and does not open it; ask "
        "for a new token."
    )
