"""Copying a bank's layers as snapshots: as the server stores and indexes them, if both sides allow it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.store.base import MOST_CORPORA, NoSnapshot
from latentbank.bank.transfer.receive import Receiver
from latentbank.errors import LatentBankError
from latentbank.progress import Progress

log = logging.getLogger("latentbank")

Way = Literal["snapshot", "scroll"]

# Contexts of a layer from which a snapshot is worth its size: the engine's files are large even when they are empty.
SNAPSHOT_FROM = 10_000
_MIB = 1 << 20


def take_snapshots(
    source: Bank,
    target: Bank,
    entries: Sequence[CorpusEntry],
    receiver: Receiver,
    progress: Progress,
    way: Way | None,
) -> int:
    """Fill the target's layers from snapshots, and return how many; the others remain to be copied by scroll.

    A layer is replaced in one step by one that holds exactly what the ledger says. If a snapshot is not available, the
    reason is logged in one line.

    Args:
        source: the bank to read.
        target: the copy.
        entries: the corpora that are moved.
        receiver: counts what is written.
        progress: counts the MiB downloaded.
        way: "snapshot": only snapshots; "scroll": no snapshots; None: snapshots if they are available and worth it.

    Raises:
        LatentBankError: snapshots were requested, but are not available.
    """
    expected = {entry.stored: entry.contexts for entry in entries}
    total = sum(expected.values())
    if way == "scroll" or not receiver.todo or (way is None and total < SNAPSHOT_FROM):
        return 0
    left = [layer for layer in target.layers if target.store.count(layer) != total]
    if not left:
        return 0
    taken = 0
    try:
        if reason := _obstacle(source, target, entries, receiver, left):
            raise NoSnapshot(reason)
        for layer in left:
            progress.stage(f"downloading layer {layer} ({taken + 1} of {len(left)})", "MiB")
            target.store.load_snapshot(layer, _Download(source, layer, progress), expected)
            receiver.written += total
            taken += 1
    except NoSnapshot as error:
        if way == "snapshot":
            raise LatentBankError(
                f"The bank '{source.name}' cannot be copied by snapshot: {error}; copy it by scroll.",
                argument="by",
            ) from None
        if not target.store.shared:
            log.warning("Contexts are copied by scroll, not by snapshot: %s.", error)
    progress.stage("copying", "contexts")
    return taken


@dataclass(frozen=True)
class _Download:
    """Saves the snapshot of a layer to the file that it is called with."""

    source: Bank
    layer: int
    progress: Progress

    def __call__(self, file: Path) -> None:
        self.source.store.save_snapshot(self.layer, file, self._update)

    def _update(self, received: int) -> None:
        self.progress.update(received / _MIB)


def _obstacle(
    source: Bank,
    target: Bank,
    entries: Sequence[CorpusEntry],
    receiver: Receiver,
    layers: Sequence[int],
) -> str | None:
    """Return why snapshots, which hold `layers` completely and replace them, cannot be used; None if they can."""
    known = source.manifest.corpora
    if target.store.shared:
        return "a server cannot be filled from snapshots"
    if not source.store.shared:
        return "only a server makes snapshots"
    if not all(entry.complete for entry in known.values()):
        return "the bank has an incomplete corpus, whose contexts would be copied too"
    if any(entry.obsolete for entry in known.values()):
        return "the bank still holds contexts of a corpus that was replaced, which would be copied too"
    if len(entries) < len(known):
        return "only some of the bank's corpora are copied"
    if len(receiver.todo) < len(entries):
        return "the copy has some of the corpora already"
    if target.manifest.quantization != source.manifest.quantization:
        return (
            f"the copy's vectors are compressed in another way ({target.manifest.quantization}, not "
            f"{source.manifest.quantization})"
        )
    stored = {entry.stored for entry in entries}
    if any(target.store.facet(layer, "corpus", limit=MOST_CORPORA).keys() - stored for layer in layers):
        return "the copy holds contexts of other corpora, which would be replaced"
    return None
