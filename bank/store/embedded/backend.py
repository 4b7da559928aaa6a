"""Embedded banks in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from latentbank.bank.check import Check
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Machine, Replicated, Store, StoredManifest
from latentbank.bank.store.embedded.checks import folder_checks, this_machine
from latentbank.bank.store.embedded.manifest_file import MANIFEST, ManifestFile
from latentbank.bank.store.embedded.pointer import read_pointer, remove_pointer, write_pointer
from latentbank.bank.store.embedded.store import EmbeddedStore
from latentbank.errors import BankUnavailable, LatentBankError


class EmbeddedBackend:
    """See `latentbank.bank.store.base.Backend`."""

    shared = False

    def __init__(self, settings: Settings) -> None:
        """Use the banks in `settings.data_dir`."""
        self._settings = settings

    @property
    def location(self) -> str:
        """See `Backend`."""
        return str(self._settings.data_dir)

    def open(self, stored: str, *, create: bool = False) -> Store:
        """See `Backend`."""
        return EmbeddedStore(stored, self._settings, create=create)

    def open_in_use(self, bank: str, *, create: bool = False) -> Store:
        """See `Backend`."""
        return self.open(read_pointer(bank, self._settings), create=create)

    def bank_names(self) -> list[str]:
        """See `Backend`."""
        return sorted(path.parent.name for path in self._settings.data_dir.glob(f"*/{MANIFEST}"))

    def names_in_use(self, banks: Iterable[str]) -> dict[str, str]:
        """See `Backend`."""
        return {bank: read_pointer(bank, self._settings) for bank in banks}

    def use(self, bank: str, stored: str, layers: Iterable[int]) -> None:
        """See `Backend`."""
        del layers  # a version's folder holds all of them
        write_pointer(bank, stored, self._settings)

    def forget(self, bank: str) -> None:
        """See `Backend`."""
        remove_pointer(bank, self._settings)

    def peek_manifest(self, stored: str) -> StoredManifest | None:
        """See `Backend`."""
        return ManifestFile(stored, self._settings.data_dir / stored).read()

    def replicate(
        self,
        banks: Sequence[str],
        copies: int | None,
        leaving: str | None,
        report: Callable[[int, int], None],
    ) -> list[Replicated]:
        """See `Backend`."""
        del banks, copies, leaving, report
        raise BankUnavailable("Embedded banks have no nodes; name the server.", argument="url")

    def upgrade(self, stored: str, *, finish: bool) -> bool:
        """See `Backend`."""
        del finish
        raise LatentBankError(
            f"The bank '{stored}' is embedded: its manifest is a file, and stays one; name a server "
            "to upgrade a bank there.",
            argument="url",
        )

    def checks(self, bank: str | None) -> Iterator[Check]:
        """See `Backend`."""
        return folder_checks(self._settings, bank)

    def machine(self, bank: str) -> Machine:
        """See `Backend`."""
        del bank
        return this_machine(self._settings.data_dir)

    def require_writer(self) -> None:
        """See `Backend`."""
