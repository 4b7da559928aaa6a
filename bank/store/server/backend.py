"""Banks on a Qdrant server or cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from qdrant_client.http.exceptions import UnexpectedResponse

from latentbank.bank.check import Check
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Machine, Replicated, Store, StoredManifest
from latentbank.bank.store.names import split_collection, split_ledger
from latentbank.bank.store.server.aliases import switch, version_in_use
from latentbank.bank.store.server.checks import machine_of, server_checks
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.manifest import ServerManifest, has_manifest
from latentbank.bank.store.server.metadata import collection_names
from latentbank.bank.store.server.replicas import replicate
from latentbank.bank.store.server.store import ServerStore
from latentbank.bank.token import claims_of, only_reads
from latentbank.errors import BankUnavailable


class ServerBackend:
    """See `latentbank.bank.store.base.Backend`."""

    shared = True

    def __init__(self, settings: Settings) -> None:
        """Use the server at `settings.url`."""
        self._settings = settings

    @property
    def location(self) -> str:
        """See `Backend`."""
        return self._settings.url

    def open(self, stored: str, *, create: bool = False) -> Store:
        """See `Backend`."""
        del create  # there is no folder to make
        return ServerStore(stored, self._settings)

    def open_in_use(self, bank: str, *, create: bool = False) -> Store:
        """See `Backend`."""
        store = self.open(bank, create=create)
        try:
            stored = store.in_use()
        except BaseException:
            store.close()
            raise
        if stored == bank:
            return store
        store.close()
        return self.open(stored, create=create)

    def bank_names(self) -> list[str]:
        """See `Backend`; only what this key may see."""
        with Connection(self._settings) as server:
            names = collection_names(server)
            ledgers = {bank for name in names if (bank := split_ledger(name))}
            banks = ledgers | {parts[0] for name in names if (parts := split_collection(name))}
            return sorted(bank for bank in banks if has_manifest(server, bank, ledger=bank in ledgers))

    def names_in_use(self, banks: Iterable[str]) -> dict[str, str]:
        """See `Backend`."""
        with Connection(self._settings) as server:
            return {bank: version_in_use(server, bank) for bank in banks}

    def use(self, bank: str, stored: str, layers: Iterable[int]) -> None:
        """See `Backend`."""
        with Connection(self._settings) as server:
            switch(server, bank, stored, layers)

    def forget(self, bank: str) -> None:
        """See `Backend`."""

    def peek_manifest(self, stored: str) -> StoredManifest | None:
        """See `Backend`."""
        store = self.open(stored)
        try:
            return store.read_manifest()
        finally:
            store.close()

    def replicate(
        self,
        banks: Sequence[str],
        copies: int | None,
        leaving: str | None,
        report: Callable[[int, int], None],
    ) -> list[Replicated]:
        """See `Backend`."""
        with Connection(self._settings) as server:
            return replicate(server, banks, copies, leaving, report)

    def upgrade(self, stored: str, *, finish: bool) -> bool:
        """See `Backend`."""
        with Connection(self._settings) as server:
            manifest = ServerManifest(server, stored)
            return manifest.finish_upgrade() if finish else manifest.upgrade()

    def checks(self, bank: str | None) -> Iterator[Check]:
        """See `Backend`."""
        return server_checks(self._settings, bank)

    def machine(self, bank: str) -> Machine:
        """See `Backend`."""
        return machine_of(self._settings, bank)

    def require_writer(self) -> None:
        """See `Backend`. The request changes nothing, but only a key that may manage collections may send it."""
        reader = BankUnavailable(
            f"The key for the server {self._settings.url} can only read banks, not create or change "
            "them; set LATENTBANK_API_KEY to a key that may write."
        )
        claims = claims_of(self._settings.key() or "")
        if claims is not None and only_reads(claims):
            raise reader
        with Connection(self._settings) as server:

            def ask() -> None:
                try:
                    server.rest.update_collection_aliases(change_aliases_operations=[])
                except UnexpectedResponse as error:
                    # Any other refusal means a token that has expired or was signed with another key.
                    if error.status_code == 403 and b"access is required" in error.content:
                        raise reader from None
                    raise

            server.call(ask)
