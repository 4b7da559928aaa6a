"""Corpora that are replaced or dropped: their ledger entries, and the contexts in the layer collections."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from latentbank.bank.ledger import LEDGER_SECONDS
from latentbank.bank.manifest import CorpusEntry, now
from latentbank.errors import LatentBankError
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank


def supersede(bank: Bank, entry: CorpusEntry) -> None:
    """See `Bank.supersede`."""
    old = bank.corpora.get(entry.replaces)
    if old is not None and old.stored == entry.stored:
        return  # another worker has done it
    obsolete = (*old.obsolete, old.stored) if old else ()
    new = replace(
        entry,
        name=entry.replaces,
        replaces="",
        stored_as=entry.stored,
        obsolete=obsolete,
        complete=True,
        updated=now(),
    )
    bank.store.write_entries({entry.name: None, new.name: new.to_dict()})
    bank.reload()
    if bank.store.shared:
        time.sleep(LEDGER_SECONDS)  # until no reader uses the old ledger
    bank.forget_obsolete(new.name)


def forget_obsolete(bank: Bank, corpus: str) -> None:
    """See `Bank.forget_obsolete`."""
    entry = bank.corpora.get(corpus)
    if entry is None or not entry.obsolete:
        return
    for stored in entry.obsolete:
        _delete_contexts(bank, stored)
    bank.record(replace(entry, obsolete=()))


def drop_corpus(bank: Bank, corpus: str) -> int:
    """See `Bank.drop_corpus`."""
    entry = bank.corpora.get(corpus)
    stored = entry.stored if entry else corpus
    contexts = max(bank.stored_contexts(stored))
    others = {other.stored for other in bank.manifest.corpora.values() if other != entry}
    if entry is not None:
        # Incomplete first: if this is interrupted, the ledger never promises contexts that are gone.
        bank.record(replace(entry, complete=False))
    elif not contexts or stored in others:
        known = listed(sorted(bank.manifest.corpora)) or "none"
        raise LatentBankError(f"The bank '{bank.name}' has no corpus '{corpus}'; it has {known}.")
    for name in (stored, *(entry.obsolete if entry else ())):
        _delete_contexts(bank, name)
    bank.store.write_entry(corpus, None)
    bank.reload()
    return contexts


def clear_shares(bank: Bank, stored: str) -> None:
    """See `Bank.clear_shares`."""
    if records := bank.store.read_shares(stored):
        bank.store.write_shares(stored, dict.fromkeys(records))


def _delete_contexts(bank: Bank, stored: str) -> None:
    """Delete the contexts that carry a corpus name, and the records of its ingestion's shares."""
    for layer in bank.layers:
        bank.store.delete_corpus(layer, stored)
    bank.store.commit()
    clear_shares(bank, stored)
