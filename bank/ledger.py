"""What readers see of a ledger: complete corpora by their own names, whatever name they are stored under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Neighbor
from latentbank.bank.where import All, Any, Filter, Not, Where

# Seconds for which a reader of a shared bank may use the ledger it has read. A writer waits as long between announcing
# a corpus and storing its first context, and between replacing a corpus and deleting the old one.
LEDGER_SECONDS = 1.0
# Corpus names hold no @, so a replacement's name differs from every corpus's.
_MARK = "@"


def replacement_name(entry: CorpusEntry) -> str:
    """Return the name to store a replacement of this corpus under."""
    number = entry.stored.partition(_MARK)[2]
    return f"{entry.name}{_MARK}{int(number or 1) + 1}"


def visible(where: Filter | None, corpora: Mapping[str, CorpusEntry], *, incomplete: bool) -> Filter | None:
    """Return a filter narrowed to the contexts that readers are shown.

    If the ledger hides and renames nothing, the filter is returned unchanged. Contexts of a corpus that is not in the
    ledger, which `verify` reports, are hidden only while another corpus is hidden.

    Args:
        where: the reader's filter, with the ledger's names for corpora.
        corpora: the ledger.
        incomplete: show corpora whose ingestion is not complete, too.
    """
    entries = corpora.values()
    renamed = {entry.name: entry.stored for entry in entries if entry.stored_as}
    if renamed and where is not None:
        where = _renamed(where, renamed)
    hidden = {name for entry in entries for name in entry.obsolete}
    if not incomplete:
        # While a corpus takes another one's place, or after a kill, its contexts belong to the entries of both.
        whole = {entry.stored for entry in entries if entry.complete}
        hidden |= {entry.stored for entry in entries if not entry.complete} - whole
    if not hidden:
        return where
    # The filter names what is shown, not what is hidden: to exclude a corpus, the engine would examine every context
    # that is not indexed yet.
    chosen = Where(corpus=tuple(sorted({entry.stored for entry in entries} - hidden)))
    return chosen if where is None else All((where, chosen))


def named(neighbors: Iterable[Neighbor], corpora: Mapping[str, CorpusEntry]) -> list[Neighbor]:
    """Return neighbors with the names that their corpora have in the ledger."""
    names = {entry.stored: entry.name for entry in corpora.values() if entry.stored_as}
    if not names:
        return list(neighbors)
    return [replace(n, corpus=names.get(n.corpus, n.corpus)) for n in neighbors]


def _renamed(where: Filter, names: Mapping[str, str]) -> Filter:
    if isinstance(where, All | Any):
        return type(where)(tuple(_renamed(part, names) for part in where.parts))
    if isinstance(where, Not):
        return Not(_renamed(where.part, names))
    if not isinstance(where, Where) or where.corpus is None:
        return where
    given = [where.corpus] if isinstance(where.corpus, str) else where.corpus
    if not isinstance(given, Sequence):
        return where  # not names of corpora: the store raises an error
    return replace(where, corpus=tuple(names.get(name, name) for name in given))
