"""Banks that are filled from another bank or from files, without encoding anything.

Ids, rotation seed and means stay the same, so vectors can be moved as they are stored. The name that a corpus is stored
under stays the same, too, because its ids are made from it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from latentbank.bank.bank import Bank
from latentbank.bank.ledger import LEDGER_SECONDS
from latentbank.bank.manifest import CorpusEntry, Manifest, read_mean
from latentbank.bank.opening import create_from_manifest
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Points
from latentbank.bank.verify import verify
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, CorpusError, LatentBankError
from latentbank.progress import Progress
from latentbank.text import listed

T = TypeVar("T")

# Contexts between two commits: the most that a kill can cost.
COMMIT = 8192
# Contexts in memory at a time, with their vectors and payloads.
BATCH = 1024


@dataclass(frozen=True)
class MoveReport:
    """What a move did.

    Attributes:
        bank: name of the target bank.
        layers: its layers.
        corpora: the corpora that were moved.
        contexts: how many contexts each layer holds of them.
        written: how many contexts were stored in this run, over all layers.
        left_out: corpora that are incomplete at the source, which were not moved.
        wrong: what the verification found.
        snapshots: how many layers came as snapshots in this run.
    """

    bank: str
    layers: list[int]
    corpora: list[str]
    contexts: int
    written: int
    left_out: list[str]
    wrong: list[str]
    snapshots: int = 0


def receiving_bank(manifest: Manifest, settings: Settings) -> Bank:
    """Create the bank that a manifest describes, without its corpora, or open the existing one of that name.

    Raises:
        BankMismatch: the existing bank's contexts cannot be compared with those of the manifest's bank.
    """

    def agree(bank: Bank) -> None:
        bank.require_model(manifest.model, manifest.identity)
        own = bank.manifest
        if own.layers != manifest.layers:
            raise BankMismatch(
                f"The bank '{own.bank}' has layers {listed(own.layers)}, but {listed(manifest.layers)} would be stored "
                "in it; choose another bank name, or its own layers.",
                argument="layers",
            )
        for what in ("metric", "rotation_seed"):
            if getattr(own, what) != getattr(manifest, what):
                raise BankMismatch(
                    f"The bank '{own.bank}' has another {what.replace('_', ' ')} ({getattr(own, what)}, not "
                    f"{getattr(manifest, what)}); choose another bank name."
                )
        if own.unit_means != manifest.unit_means or (own.means and dict(own.means) != dict(manifest.means)):
            raise BankMismatch(
                f"The bank '{own.bank}' is centred with other means; choose another bank name."
            )

    bank = create_from_manifest(replace(manifest, corpora={}), settings, agree)
    if manifest.means and not bank.manifest.means:
        bank.fix_means({layer: read_mean(text) for layer, text in manifest.means.items()})
    return bank


def complete_corpora(manifest: Manifest, requested: Sequence[str] | None = None) -> list[CorpusEntry]:
    """Return the ledger's complete corpora, or the requested ones, by name.

    Raises:
        CorpusError: there are none, or a requested one is missing or incomplete.
    """
    known = manifest.corpora
    for name in requested or ():
        if name not in known:
            raise CorpusError(
                f"The bank '{manifest.bank}' has no corpus '{name}'; it has {listed(sorted(known)) or 'none'}."
            )
        if not known[name].complete:
            raise CorpusError(
                f"The corpus '{name}' of bank '{manifest.bank}' is incomplete; finish its ingestion first."
            )
    # Sorted: a server returns its ledger in any order. What a replacement has left behind is not moved.
    found = [
        replace(known[name], obsolete=())
        for name in sorted(known)
        if known[name].complete and (requested is None or name in requested)
    ]
    if not found:
        raise CorpusError(f"The bank '{manifest.bank}' has no complete corpus: there is nothing to move.")
    return found


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last list may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def incomplete_corpora(manifest: Manifest) -> list[str]:
    """Return the names of the ledger's incomplete corpora, sorted."""
    return sorted(name for name, entry in manifest.corpora.items() if not entry.complete)


class Receiver:
    """Fills a bank with corpora that are encoded already; after a kill, another one continues."""

    def __init__(self, target: Bank, entries: Sequence[CorpusEntry], progress: Progress) -> None:
        """Record as incomplete the corpora that the bank does not hold completely, which are then in `todo`.

        Raises:
            CorpusError: the bank has a corpus of that name with other content.
        """
        self._target, self._progress = target, progress
        self.todo = [entry for entry in entries if not _is_whole(target, entry)]
        self.written = self._done = self._open = 0
        self._total = sum(entry.contexts for entry in self.todo) * len(target.layers)
        for entry in self.todo:
            announced = replace(entry, complete=False)
            target.change_entry(entry.name, partial(_announced, target, announced))
        # When the first context is stored, no reader may use a ledger any more in which the corpora are not announced.
        self._begins = time.monotonic() + LEDGER_SECONDS if self.todo and target.store.shared else 0.0
        for layer in target.layers if self.todo else ():
            expected = sum(entry.contexts for entry in self.todo)
            target.store.defer_index(layer, target.store.count(layer) + expected)

    def stored_contexts(self, layer: int, stored: str) -> int:
        """Return how many contexts a layer holds of a corpus, by the name it is stored under."""
        return self._target.store.count(layer, Where(corpus=stored))

    def skip(self, contexts: int) -> None:
        """Count contexts of a layer that the bank has already."""
        self._done += contexts
        self._progress.update(self._done, self._total)

    def put(self, layer: int, points: Points) -> None:
        """Store contexts whose vectors have length 1 and are rotated, as in the bank."""
        time.sleep(max(0.0, self._begins - time.monotonic()))
        self._target.store.upsert(layer, points)
        self.written += len(points.ids)
        self._open += len(points.ids)
        if self._open >= COMMIT:
            self._target.commit()
            self._open = 0
        self.skip(len(points.ids))

    def finish(self) -> None:
        """Index the layers, and complete the ledger's entries.

        Raises:
            LatentBankError: a layer holds more or fewer contexts than the ledger promises.
        """
        if not self.todo:
            return
        self._target.commit()
        self._progress.stage("indexing", "layers")
        for done, layer in enumerate(self._target.layers):
            self._progress.update(done, len(self._target.layers))
            self._target.store.index(layer)
        for entry in self.todo:
            found = self._target.stored_contexts(entry.stored)
            if found != {entry.contexts}:
                raise LatentBankError(
                    f"The layers hold {listed(f'{n:,}' for n in sorted(found))} contexts of '{entry.name}' instead "
                    f"of {entry.contexts:,}; drop the corpus and move it again.",
                    functions=("drop_corpus",),
                )
            self._target.change_entry(entry.name, partial(_completed, self._target, entry))


def verify_corpora(
    bank: Bank, layers: Sequence[int], entries: Sequence[CorpusEntry], sample: int, progress: Progress
) -> list[str]:
    """Return what is wrong with some of a bank's layers and corpora, as `Bank.verify` does for all."""
    bank.reload()
    names = {entry.name for entry in entries}
    kept = {name: entry for name, entry in bank.manifest.corpora.items() if name in names}
    progress.stage("comparing", "contexts")
    part = replace(bank.manifest, layers=tuple(layers), corpora=kept)
    return verify(bank.store, part, sample, progress, Where(corpus=sorted(entry.stored for entry in entries)))


def _is_whole(target: Bank, entry: CorpusEntry) -> bool:
    """Return whether a bank holds a corpus completely.

    Raises:
        CorpusError: it has another one of that name.
    """
    known = target.corpora.get(entry.name)
    if known is None:
        return False
    _require_same(target, known, entry)
    return known.complete and target.stored_contexts(entry.stored) == {entry.contexts}


def _announced(target: Bank, entry: CorpusEntry, known: CorpusEntry | None) -> CorpusEntry:
    """Return the entry of a corpus that is moved, which a bank may know already."""
    if known is not None:
        _require_same(target, known, entry)
    return entry


def _completed(target: Bank, entry: CorpusEntry, known: CorpusEntry | None) -> CorpusEntry:
    """Return the entry of a corpus that was moved."""
    if known is None:
        raise CorpusError(
            f"The corpus '{entry.name}' was dropped from the bank '{target.name}' while it was moved; move it again."
        )
    _require_same(target, known, entry)
    return replace(entry, complete=True)


def _require_same(target: Bank, known: CorpusEntry, entry: CorpusEntry) -> None:
    """Raise CorpusError if a bank's corpus is another one than that of an entry of the same name."""
    same = known.content_hash == entry.content_hash and dict(known.plan) == dict(entry.plan)
    if not same or known.stored != entry.stored:
        how = (
            f"stored as '{known.stored}', not '{entry.stored}'"
            if same
            else "other sentences or other plan settings"
        )
        raise CorpusError(
            f"The bank '{target.name}' holds another corpus '{entry.name}' ({how}); drop it first.",
            functions=("drop_corpus",),
        )
