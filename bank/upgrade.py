"""Banks of earlier versions on a server: their manifest moves from metadata to a ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from latentbank.bank.manifest import Manifest
from latentbank.bank.opening import name_in_use
from latentbank.bank.settings import Settings, SettingsGiven, settings_from
from latentbank.bank.store.backends import backend
from latentbank.bank.store.names import ledger_name
from latentbank.bank.versions import split_name, stored_name
from latentbank.errors import BankNotFound


@dataclass(frozen=True)
class UpgradeReport:
    """What an upgrade did.

    Attributes:
        bank: the bank's name, as it was given.
        changed: whether there was something to do.
        finished: whether the old manifest is removed.
        ledger: the name of the ledger's collection. Tokens that were made before do not open it, so they must be
            issued again.
        layers: the bank's layers, for the new tokens.
    """

    bank: str
    changed: bool
    finished: bool
    ledger: str
    layers: list[int]


def upgrade_bank(
    name: str, settings: Settings | None = None, *, finish: bool = False, **given: Unpack[SettingsGiven]
) -> UpgradeReport:
    """Give a server's bank of an earlier version a ledger; called again after a kill, it goes on.

    Readers that have the bank open go on reading. From the first moment on, earlier versions refuse the bank, in one
    sentence. The old manifest stays, marked as copied.

    Args:
        name: the bank's name, or that of a version.
        settings: where the bank is; None: read from `given` and the environment.
        finish: remove the old manifest of a bank that was upgraded.
        given: single settings (`url=…`), instead of `settings`.

    Raises:
        BankNotFound: there is no such bank.
        LatentBankError: the bank is embedded, or, with `finish`, not upgraded yet.
    """
    settings = settings_from(settings, **given)
    place = backend(settings)
    bank, version = split_name(name)
    stored = name_in_use(bank, settings) if version is None else stored_name(bank, version)
    changed = place.upgrade(stored, finish=finish)
    found = place.peek_manifest(stored)
    if found is None:
        raise BankNotFound(f"There is no bank '{name}' here any more: somebody deleted it.")
    return UpgradeReport(name, changed, finish, ledger_name(stored), list(Manifest.from_dict(*found).layers))
