"""Banks that are filled from elsewhere: from another bank, or from files. Nothing is encoded anew.

Ids, rotation seed and means stay what they were there, so vectors can be moved as they are stored. So does the name a
corpus is stored under, from which its ids are made, where it has replaced another of its name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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

T = TypeVar("T")

# Contexts between two commits: what a kill can cost at most.
COMMIT = 8192
# Contexts that are in memory at once, with their vectors and payloads.
BATCH = 1024


@dataclass(frozen=True)
class MoveReport:
    """What a move did.

    `contexts` is how many each layer holds of the moved `corpora`, `written` how many were stored in this run over all
    layers, `left_out` the corpora that are incomplete where they come from, `wrong` what the verification found,
    `snapshots` how many layers came as snapshots in this run.
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
    """Make the bank that a manifest describes, without its corpora, or open it where it is.

    Raises:
        BankMismatch: a bank of that name is there whose contexts lie in another space.
    """

    def agree(bank: Bank) -> None:
        bank.require_model(manifest.model, manifest.fingerprint)
        own = bank.manifest
        if own.layers != manifest.layers:
            there, here = (", ".join(map(str, some.layers)) for some in (own, manifest))
            raise BankMismatch(
                f"The bank '{own.bank}' has layers {there}, but {here} would be stored in it; name its own layers "
                "with --layers, or store them under another name."
            )
        for what in ("metric", "rotation_seed"):
            if getattr(own, what) != getattr(manifest, what):
                raise BankMismatch(
                    f"The bank '{own.bank}' has another {what.replace('_', ' ')} ({getattr(own, what)}, not "
                    f"{getattr(manifest, what)}); store the contexts under another name."
                )
        if own.means and dict(own.means) != dict(manifest.means):
            raise BankMismatch(
                f"The bank '{own.bank}' is centred with other means; store the contexts under another name."
            )

    bank = create_from_manifest(replace(manifest, corpora={}), settings, agree)
    if manifest.means and not bank.manifest.means:
        bank.fix_means({layer: read_mean(text) for layer, text in manifest.means.items()})
    return bank


def complete_corpora(manifest: Manifest, wanted: Sequence[str] | None = None) -> list[CorpusEntry]:
    """Give the ledger's complete corpora, or those of them that are named.

    Raises:
        CorpusError: there is none, or one that was named is missing or incomplete.
    """
    known = manifest.corpora
    for name in wanted or ():
        if name not in known:
            raise CorpusError(
                f"The bank '{manifest.bank}' has no corpus '{name}'; it has {', '.join(sorted(known)) or 'none'}."
            )
        if not known[name].complete:
            raise CorpusError(
                f"The corpus '{name}' of bank '{manifest.bank}' is incomplete; finish its `latentbank ingest run` "
                "first."
            )
    # By name: a server gives its ledger in any order. What a replacement has left behind does not move.
    found = [
        replace(known[name], obsolete=())
        for name in sorted(known)
        if known[name].complete and (wanted is None or name in wanted)
    ]
    if not found:
        raise CorpusError(f"The bank '{manifest.bank}' has no complete corpus: there is nothing to move.")
    return found


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give the items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def incomplete_corpora(manifest: Manifest) -> list[str]:
    """Give the names of the ledger's incomplete corpora."""
    return sorted(name for name, entry in manifest.corpora.items() if not entry.complete)


class Receiver:
    """Fills a bank with corpora that come ready-made; run again after a kill, it goes on."""

    def __init__(self, target: Bank, entries: Sequence[CorpusEntry], progress: Progress) -> None:
        """Begin: the ledger says of the corpora in `todo`, which the bank has not whole, that they are incomplete.

        Raises:
            CorpusError: the bank holds a corpus of that name with other content.
        """
        self._target, self._progress = target, progress
        self.todo = [entry for entry in entries if not _is_whole(target, entry)]
        self.written = self._done = self._open = 0
        self._total = sum(entry.contexts for entry in self.todo) * len(target.layers)
        for entry in self.todo:
            target.record(replace(entry, complete=False))
        # No reader may go by a ledger in which the corpora are not announced when their first context comes.
        self._begins = time.monotonic() + LEDGER_SECONDS if self.todo and target.store.shared else 0.0
        for layer in target.layers if self.todo else ():
            expected = sum(entry.contexts for entry in self.todo)
            target.store.defer_index(layer, target.store.count(layer) + expected)

    def stored_contexts(self, layer: int, stored: str) -> int:
        """Return how many contexts a layer holds of a corpus, by the name it is stored under."""
        return self._target.store.count(layer, Where(corpus=stored))

    def skip(self, contexts: int) -> None:
        """Say that so many contexts of a layer are there already."""
        self._done += contexts
        self._progress.update(self._done, self._total)

    def put(self, layer: int, points: Points) -> None:
        """Store contexts whose vectors are as the bank stores them: unit length, rotated."""
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
                    f"The layers hold {', '.join(f'{n:,}' for n in sorted(found))} contexts of '{entry.name}' instead "
                    f"of {entry.contexts:,}; drop the corpus (`latentbank bank drop-corpus {self._target.name} "
                    f"{entry.name}`) and run the command again."
                )
            self._target.record(replace(entry, complete=True))


def verify_corpora(
    bank: Bank, layers: Sequence[int], entries: Sequence[CorpusEntry], sample: int, progress: Progress
) -> list[str]:
    """Verify a bank as `Bank.verify` does, but only some of its layers and corpora."""
    bank.reload()
    names = {entry.name for entry in entries}
    some = {name: entry for name, entry in bank.manifest.corpora.items() if name in names}
    progress.stage("comparing", "contexts")
    part = replace(bank.manifest, layers=tuple(layers), corpora=some)
    return verify(bank.store, part, sample, progress, Where(corpus=sorted(entry.stored for entry in entries)))


def _is_whole(target: Bank, entry: CorpusEntry) -> bool:
    """Tell whether a bank holds a corpus whole.

    Raises:
        CorpusError: it holds another one of that name.
    """
    held = target.corpora.get(entry.name)
    if held is None:
        return False
    same = held.content_hash == entry.content_hash and dict(held.plan) == dict(entry.plan)
    if not same or held.stored != entry.stored:
        how = (
            f"stored as '{held.stored}', not '{entry.stored}'"
            if same
            else "other sentences or other plan settings"
        )
        raise CorpusError(
            f"The bank '{target.name}' holds another corpus '{entry.name}' ({how}); "
            f"drop it first with `latentbank bank drop-corpus {target.name} {entry.name}`."
        )
    return held.complete and target.stored_contexts(entry.stored) == {entry.contexts}
