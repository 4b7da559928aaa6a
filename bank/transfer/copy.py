"""Copying a bank between a server and this machine, as its contexts are stored: by snapshot, or context by context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, zip_longest

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Stored
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Points, Store
from latentbank.bank.transfer.receive import (
    BATCH,
    MoveReport,
    Receiver,
    batches,
    complete_corpora,
    incomplete_corpora,
    receiving_bank,
    verify_corpora,
)
from latentbank.bank.transfer.snapshots import Way, take_snapshots
from latentbank.bank.where import Filter, Where
from latentbank.progress import Progress, Silent
from latentbank.values import whole

# Largest difference of a coordinate in two stores: each scales the vector to length 1 and rounds it to float16.
_TOLERANCE = 1e-3


def copy_bank(
    source: Bank,
    settings: Settings,
    layers: BankLayers = "all",
    corpora: Sequence[str] | None = None,
    progress: Progress | None = None,
    sample: int = 1000,
    by: Way | None = None,
) -> MoveReport:
    """Copy a bank's complete corpora to the bank of the same name in another place, and compare both.

    The target bank is created if it does not exist. After a kill, call it again: it continues where it stopped. Corpora
    that the target has already stay. Ids, rotation, means and quantization are the source's. Nothing is written to the
    source.

    Args:
        source: the bank to read.
        settings: where the copy is.
        layers: which of the source's layers the copy has.
        corpora: which corpora to copy; None: all that are complete.
        progress: counts the contexts copied of those in all layers, then layers indexed, then contexts compared.
        sample: how many vectors of each layer are compared.
        by: "snapshot": whole layers with their indexes, several times faster; "scroll": context by context; None:
            snapshots if both sides allow it and there are enough contexts.

    Raises:
        BankMismatch: the target exists with another LLM or other layers.
        CorpusError: a corpus is missing or incomplete, or the target has another one of that name.
        LayerNotFound: the source does not have a layer.
        LatentBankError: snapshots were requested, but are not available.

    Examples:
        >>> import latentbank as lb
        >>> backup = lb.load_settings(data_dir="backup")
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.copy_bank(bank, backup)
        >>> lb.list_banks(backup)
        ['captions']
    """
    progress, sample = progress or Silent(), whole(sample, "sample", 0)
    chosen = tuple(source.choose_layers(layers))
    source.reload()
    manifest = source.manifest
    entries = complete_corpora(manifest, corpora)
    means = {layer: mean for layer, mean in manifest.means.items() if layer in chosen}
    target_manifest = replace(manifest.without_path(), layers=chosen, means=means, corpora={})
    with receiving_bank(target_manifest, settings) as target:
        receiver = Receiver(target, entries, progress)
        snapshots = take_snapshots(source, target, entries, receiver, progress, by)
        for entry in receiver.todo:
            for layer in target.layers:
                _copy(source.store, target.store, layer, entry, receiver)
        receiver.finish()
        wrong = _compare(source, target, entries, sample, progress)
    return MoveReport(
        bank=manifest.bank,
        layers=list(chosen),
        corpora=[entry.name for entry in entries],
        contexts=sum(entry.contexts for entry in entries),
        written=receiver.written,
        left_out=incomplete_corpora(manifest),
        wrong=wrong,
        snapshots=snapshots,
    )


def _copy(source: Store, target: Store, layer: int, entry: CorpusEntry, receiver: Receiver) -> None:
    where = Where(corpus=entry.stored)
    start: str | None = None
    if copied := receiver.stored_contexts(layer, entry.stored):
        if copied == entry.contexts:
            receiver.skip(copied)
            return
        there, start = _first_missing(source, target, layer, where)
        receiver.skip(there)
        if start is None:
            return
    points = source.scroll(layer, where, vectors=True, payloads=True, start=start)
    for batch in batches(points, BATCH):
        receiver.put(layer, as_points(batch))


def as_points(batch: Sequence[Stored]) -> Points:
    """Return points that were read with vectors and payloads as points to store."""
    return Points(
        [point.id for point in batch],
        np.stack([point.vector for point in batch if point.vector is not None]),
        [point.payload for point in batch if point.payload is not None],
    )


def _first_missing(source: Store, target: Store, layer: int, where: Filter) -> tuple[int, str | None]:
    """Return how many points both sides share at the start, in the order of ids, and the first id after them.

    The id is None if the target has all points of the source.
    """
    copied = target.scroll(layer, where)
    at = 0
    for at, point in enumerate(source.scroll(layer, where)):
        copy = next(copied, None)
        if copy is None or copy.id != point.id:
            return at, point.id
    return at + 1, None


def _compare(
    source: Bank, target: Bank, entries: Sequence[CorpusEntry], sample: int, progress: Progress
) -> list[str]:
    """Verify both sides and compare them: the ids of one layer (verified layers have equal ids), and some vectors."""
    wrong = [
        f"In the {side}: {problem}"
        for side, bank in (("copy", target), ("source", source))
        for problem in verify_corpora(bank, target.layers, entries, sample, progress)
    ]
    where = Where(corpus=[entry.stored for entry in entries])
    repair = "drop its corpora and copy it again."
    first = target.layers[0]
    both = zip_longest(source.store.scroll(first, where), target.store.scroll(first, where))
    if any(point is None or copy is None or point.id != copy.id for point, copy in both):
        return [*wrong, f"The copy holds other contexts than the source; {repair}"]
    for layer in target.layers:
        sides = (bank.store.scroll(layer, where, vectors=True) for bank in (source, target))
        if not all(_alike(*pair) for pair in islice(zip(*sides, strict=False), sample)):
            wrong.append(f"The copy has other vectors in layer {layer} than the source; {repair}")
    return wrong


def _alike(point: Stored, copy: Stored) -> bool:
    if point.vector is None or copy.vector is None or point.vector.shape != copy.vector.shape:
        return False
    return bool(np.abs(point.vector - copy.vector).max() <= _TOLERANCE)
