"""Rules for the ledger while a corpus is ingested: what may continue, what is refused, what takes another's place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentbank.bank.ledger import replacement_name
from latentbank.bank.manifest import CorpusEntry, now
from latentbank.errors import CorpusError, LatentBankError
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank


@dataclass(frozen=True)
class CorpusContent:
    """What an ingestion will store of a corpus, as the ledger describes it.

    Attributes:
        name: the corpus's name for users.
        content_hash: hash of the sentences in their order.
        sentences: number of sentences.
        tokens: number of tokens that are not special.
        contexts: number of contexts in each layer.
        settings: the settings that the contexts were chosen with.
    """

    name: str
    content_hash: str
    sentences: int
    tokens: int
    contexts: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Slot:
    """The place of a corpus in the ledger.

    Attributes:
        name: the name of its ledger entry while it is ingested.
        entry: the entry that the ingestion continues; None: it is new.
        replaces: the corpus whose place it takes once it is complete; "": none.
    """

    name: str
    entry: CorpusEntry | None
    replaces: str = ""

    @property
    def stored(self) -> str:
        """The corpus name that the contexts carry in the layer collections."""
        return self.entry.stored if self.entry else self.name


def find_slot(bank: Bank, content: CorpusContent, *, replace: bool = False) -> Slot:
    """Return where an ingestion stores a corpus: in a new entry, or in one that it continues.

    Args:
        bank: the bank.
        content: what will be stored.
        replace: the bank may hold other sentences or settings under this name; they are replaced.

    Raises:
        CorpusError: the bank holds other sentences or settings under this name, or another replacement of the corpus
            that is not complete.
    """
    corpora = bank.corpora
    entry = corpora.get(content.name)
    if entry is None or _is_same(entry, content):
        return Slot(content.name, entry)
    if not replace:
        require_same(bank, entry, content.content_hash, content.settings)
    name = replacement_name(entry)
    begun = corpora.get(name)
    if begun is not None and not _is_same(begun, content):
        raise CorpusError(
            f"The bank '{bank.name}' holds another replacement of '{content.name}' that is not complete; finish it, "
            f"or drop the corpus '{name}'.",
            functions=("drop_corpus",),
        )
    return Slot(name, begun, replaces=content.name)


def announce(bank: Bank, content: CorpusContent, slot: Slot, *, alone: bool) -> CorpusEntry:
    """Record that a corpus is being ingested, before its first context is stored, and return its entry.

    Args:
        bank: open for writing.
        content: what will be stored.
        slot: from `find_slot`.
        alone: no other worker ingests the corpus at the same time. Otherwise an entry that another worker has made,
            and perhaps completes at this moment, is left as it is.
    """
    new = CorpusEntry(
        name=slot.name,
        content_hash=content.content_hash,
        sentences=content.sentences,
        tokens=content.tokens,
        contexts=content.contexts,
        plan=dict(content.settings),
        replaces=slot.replaces,
    )

    def begin(old: CorpusEntry | None) -> CorpusEntry:
        if old is None:
            return new
        if not _is_same(old, content):
            raise changed(bank, slot.name)  # another job has announced it since `find_slot`
        if old.complete and old != slot.entry:
            return old  # another job has completed it since then
        if not old.complete and not alone:
            return old
        return dataclasses.replace(old, complete=False, updated=new.updated)

    return bank.change_entry(slot.name, begin) or new


def complete(bank: Bank, entry: CorpusEntry, contexts: int) -> None:
    """Record that every layer holds and has indexed all contexts of a corpus; it takes the place of what it replaces.

    Several workers may do so at the same time.

    Args:
        bank: open for writing.
        entry: from `announce`.
        contexts: number of contexts that each layer has to hold.

    Raises:
        LatentBankError: a layer holds more contexts or fewer.
    """
    counts = bank.stored_contexts(entry.stored)
    if counts != {contexts}:
        raise LatentBankError(
            f"The layers hold {listed(f'{count:,}' for count in sorted(counts))} contexts of '{entry.name}' instead of "
            f"{contexts:,}: something else changed the bank; "
            + ("drop the corpus and ingest it again." if max(counts) > contexts else "ingest it again."),
            functions=("drop_corpus",) if max(counts) > contexts else (),
        )
    if not entry.replaces:
        at = now()

        def whole(old: CorpusEntry | None) -> CorpusEntry:
            if old is None or old.content_hash != entry.content_hash or old.stored != entry.stored:
                raise _dropped(bank, entry)
            return old if old.complete else dataclasses.replace(old, complete=True, updated=at)

        bank.change_entry(entry.name, whole)
    elif entry.name in (known := bank.corpora):
        bank.supersede(entry)
    elif entry.replaces not in known or known[entry.replaces].stored != entry.stored:
        raise _dropped(bank, entry)  # otherwise another worker has done it
    bank.clear_shares(entry.stored)


def require_same(bank: Bank, entry: CorpusEntry, content_hash: str, settings: Mapping[str, Any]) -> None:
    """Check that an ingestion continues the corpus of a ledger entry.

    Raises:
        CorpusError: the sentences or the settings are others.
    """
    if entry.content_hash != content_hash:
        raise changed(bank, entry.name)
    require_same_settings(bank, entry, settings)


def require_same_settings(bank: Bank, entry: CorpusEntry, settings: Mapping[str, Any]) -> None:
    """Check that an ingestion chooses contexts with the settings of a ledger entry.

    Raises:
        CorpusError: the settings are others.
    """
    if dict(entry.plan) != dict(settings):
        raise CorpusError(
            f"The corpus '{entry.name}' in bank '{bank.name}' was planned with {_assignments(entry.plan)}, not with "
            f"{_assignments(settings)}; use those settings, choose another name, or replace the corpus.",
            argument="replace",
        )


def changed(bank: Bank, corpus: str) -> CorpusError:
    """Return the error for a corpus whose sentences are not those that the bank holds under its name."""
    return CorpusError(
        f"The corpus '{corpus}' has changed since it was ingested into bank '{bank.name}'; choose another name for the "
        "changed one, replace the old one, or drop it first.",
        argument="replace",
        functions=("drop_corpus",),
    )


def _dropped(bank: Bank, entry: CorpusEntry) -> LatentBankError:
    return LatentBankError(
        f"The corpus '{entry.name}' was dropped from bank '{bank.name}' while it was ingested; ingest it again."
    )


def _is_same(entry: CorpusEntry, content: CorpusContent) -> bool:
    return entry.content_hash == content.content_hash and dict(entry.plan) == dict(content.settings)


def _assignments(settings: Mapping[str, object]) -> str:
    return listed(f"{name}={value}" for name, value in settings.items())
