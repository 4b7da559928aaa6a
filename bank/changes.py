"""Changes of a bank's manifest that hold when many do them at once: each makes something of what is stored then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from latentbank.bank.manifest import CorpusEntry, Manifest, checked_means
from latentbank.bank.store.base import Record
from latentbank.errors import BankMismatch, BankNotFound
from latentbank.identity import Identity, completed, difference

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank

EntryChange: TypeAlias = Callable[[CorpusEntry | None], CorpusEntry | None]
"""What a writer makes of a corpus's ledger entry; see `Bank.change_entry`."""


def fix_means(bank: Bank, means: Mapping[int, npt.ArrayLike]) -> None:
    """See `Bank.fix_means`."""
    if bank.metric != "centred":
        raise BankMismatch(f"The bank '{bank.name}' is not centred: it has no means.")
    fixed = checked_means(bank.manifest, means)
    _change_head(bank, lambda head: head if head.means else replace(head, means=fixed))


def add_digests(bank: Bank, identity: Identity) -> None:
    """See `Bank.add_digests`."""

    def add(head: Manifest) -> Manifest:
        if difference(head.identity, identity) is not None:
            return head
        return replace(head, digests=completed(head.identity, identity).digests)

    _change_head(bank, add)


def record_tuned(bank: Bank, tuned: Mapping[str, Any]) -> None:
    """Keep in the manifest how thoroughly graphs must be searched; see `latentbank.bank.tuning`."""
    _change_head(bank, lambda head: replace(head, tuned=tuned))


def change_entry(bank: Bank, corpus: str, change: EntryChange, instead_of: str | None) -> CorpusEntry | None:
    """See `Bank.change_entry`."""

    def stored(record: Record | None) -> Record | None:
        entry = None if record is None else CorpusEntry.from_dict(record)
        changed = change(entry)
        # An entry that stays keeps what another version may have written in it.
        return record if changed == entry else changed.to_dict() if changed else None

    record = bank.store.change_entry(corpus, stored, instead_of)
    bank.reload()
    return None if record is None else CorpusEntry.from_dict(record)


def _change_head(bank: Bank, change: Callable[[Manifest], Manifest]) -> None:
    def stored(record: Record | None) -> Record:
        if record is None:
            raise BankNotFound(f"There is no bank '{bank.name}' any more: somebody deleted it.")
        head = Manifest.from_dict(record, {})
        changed = change(head)
        return record if changed == head else changed.head()

    bank.store.change_head(stored)
    bank.reload()
