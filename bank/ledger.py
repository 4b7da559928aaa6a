"""What readers see of a ledger: complete corpora, each under its own name, however it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Neighbor
from latentbank.bank.where import All, Any, Filter, Not, Where

# Seconds for which a reader of a shared bank may go by the ledger it has read. A writer waits as long between saying
# that a corpus comes and storing its first context, and between a replacement and deleting what was replaced.
LEDGER_SECONDS = 1.0
# Corpora have no @ in their names, so what replaces one can be told from it.
_MARK = "@"


def replacement_name(entry: CorpusEntry) -> str:
    """Give the name under which a corpus is stored that replaces this one."""
    number = entry.stored.partition(_MARK)[2]
    return f"{entry.name}{_MARK}{int(number or 1) + 1}"


def visible(where: Filter | None, corpora: Mapping[str, CorpusEntry], *, incomplete: bool) -> Filter | None:
    """Narrow a filter to what readers are shown; given back as it is where the ledger hides and renames nothing.

    Contexts of no corpus in the ledger, which `verify` complains of, are hidden while any other corpus is.

    Args:
        where: as the reader wrote it, with corpora by the ledger's names.
        corpora: the ledger.
        incomplete: show corpora whose ingestion is not complete, too.
    """
    entries = corpora.values()
    renamed = {entry.name: entry.stored for entry in entries if entry.stored_as}
    if renamed and where is not None:
        where = _renamed(where, renamed)
    hidden = {name for entry in entries for name in entry.obsolete}
    if not incomplete:
        hidden |= {entry.stored for entry in entries if not entry.complete}
    if not hidden:
        return where
    # What is shown, not what is hidden: to leave a corpus out, the engine looks at every context not indexed yet.
    chosen = Where(corpus=tuple(sorted({entry.stored for entry in entries} - hidden)))
    return chosen if where is None else All((where, chosen))


def named(neighbors: Iterable[Neighbor], corpora: Mapping[str, CorpusEntry]) -> list[Neighbor]:
    """Give neighbors the names that their corpora have in the ledger."""
    names = {entry.stored: entry.name for entry in corpora.values() if entry.stored_as}
    if not names:
        return list(neighbors)
    return [replace(one, corpus=names.get(one.corpus, one.corpus)) for one in neighbors]


def _renamed(where: Filter, names: Mapping[str, str]) -> Filter:
    if isinstance(where, All | Any):
        return type(where)(tuple(_renamed(part, names) for part in where.parts))
    if isinstance(where, Not):
        return Not(_renamed(where.part, names))
    if not isinstance(where, Where) or where.corpus is None:
        return where
    given = [where.corpus] if isinstance(where.corpus, str) else where.corpus
    if not isinstance(given, Sequence):
        return where  # no names: the store says so
    return replace(where, corpus=tuple(names.get(one, one) for one in given))
