"""Corpora that are replaced or dropped: their ledger entries, and the contexts in the layer collections.

A store may change entries only one by one, and a job may be killed between any two steps. So each order of steps is one
whose every stop is sound for readers, and from which the same call, or the corpus's next ingestion, goes on:

`supersede`: (1) the replaced corpus's entry becomes that of the new contexts, complete, with the old ones as obsolete;
(2) the entry of the replacement is removed; (3) the obsolete contexts are deleted; (4) they are taken off the entry.
Readers change over at (1). A stop before (2) leaves two entries for the same contexts; one is complete, so they are
shown. A stop before (4) leaves obsolete contexts, whole or in part, which are hidden. `forget_obsolete` does what
is left of (2) to (4).

`drop_corpus`: (1) the entry becomes incomplete, so the ledger never promises contexts that are gone; (2) the contexts
are deleted; (3) the entry is removed. A stop before (3) leaves a hidden corpus that can be dropped again, or ingested.
"""

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
    at = now()

    def take_place(old: CorpusEntry | None) -> CorpusEntry:
        if old is not None and old.stored == entry.stored:
            return old  # done, by another worker or before a kill
        return replace(
            entry,
            name=entry.replaces,
            replaces="",
            stored_as=entry.stored,
            obsolete=(*old.obsolete, old.stored) if old else (),
            complete=True,
            updated=at,
        )

    bank.change_entry(entry.replaces, take_place, instead_of=entry.name)
    if bank.store.shared:
        time.sleep(LEDGER_SECONDS)  # until no reader uses the old ledger
    bank.forget_obsolete(entry.replaces)


def forget_obsolete(bank: Bank, corpus: str) -> None:
    """See `Bank.forget_obsolete`."""
    entry = bank.corpora.get(corpus)
    if entry is None:
        return
    for other in bank.manifest.corpora.values():
        if other.stored == entry.stored and other.replaces == corpus:
            bank.change_entry(other.name, lambda _: None)
    if not entry.obsolete:
        return
    for stored in entry.obsolete:
        _delete_contexts(bank, stored)

    def without(old: CorpusEntry | None) -> CorpusEntry | None:
        left = () if old is None else tuple(name for name in old.obsolete if name not in entry.obsolete)
        return old and replace(old, obsolete=left)

    bank.change_entry(corpus, without)


def drop_corpus(bank: Bank, corpus: str) -> int:
    """See `Bank.drop_corpus`."""
    entry = bank.corpora.get(corpus)
    stored = entry.stored if entry else corpus
    contexts = max(bank.stored_contexts(stored))
    others = {other.stored for other in bank.manifest.corpora.values() if other != entry}
    if entry is None and (not contexts or stored in others):
        known = listed(sorted(bank.manifest.corpora)) or "none"
        raise LatentBankError(f"The bank '{bank.name}' has no corpus '{corpus}'; it has {known}.")
    dropped = bank.change_entry(corpus, lambda old: old and replace(old, complete=False))
    obsolete = dropped.obsolete if dropped else ()
    # The contexts of a replacement that has taken its place already are those of the other entry.
    for name in (stored, *obsolete) if stored not in others else obsolete:
        _delete_contexts(bank, name)
    # What has been announced again meanwhile stays; its ingestion stores the contexts again.
    bank.change_entry(corpus, lambda old: None if old is None or old.complete or old == dropped else old)
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
