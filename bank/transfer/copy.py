"""Moving a bank between a server and this machine: contexts as they are stored, by snapshot or by scroll and upsert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, zip_longest

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Points, Store, Stored
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

# Coordinates of one vector in two stores: each scales it to length 1 and rounds it to float16 for itself.
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

    The bank there is made if there is none. Run again after a kill, it goes on where it stopped; corpora that are
    there already stay. Ids, rotation, means and quantization are the source's. Nothing is written to the source.

    Args:
        source: the bank to read.
        settings: where the copy is.
        layers: which of the source's layers the copy has.
        corpora: which corpora; None: all that are complete.
        progress: told contexts copied of all contexts in all layers, then layers indexed, then contexts compared.
        sample: how many vectors of each layer are compared.
        by: "snapshot": layers come whole, with their indexes, several times faster, or not at all; "scroll": context
            by context; None: by snapshot where both sides allow it and there are enough contexts.

    Raises:
        BankMismatch: a bank of that name is there, of another LLM or with other layers.
        CorpusError: a corpus is missing, incomplete, or another one of that name is there.
        LayerNotFound: the source does not have a layer.
        LatentBankError: snapshots cannot be had, but were asked for.

    Example:
        >>> import latentbank as lb
        >>> backup = lb.load_settings(data_dir="backup")
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.copy_bank(bank, backup)
        >>> lb.list_banks(backup)
        ['captions']
    """
    progress = progress or Silent()
    chosen = tuple(source.choose_layers(layers))
    source.reload()
    manifest = source.manifest
    entries = complete_corpora(manifest, corpora)
    means = {layer: mean for layer, mean in manifest.means.items() if layer in chosen}
    wanted = replace(manifest, layers=chosen, means=means, corpora={})
    with receiving_bank(wanted, settings) as target:
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
    if held := receiver.stored_contexts(layer, entry.stored):
        if held == entry.contexts:
            receiver.skip(held)
            return
        there, start = _first_missing(source, target, layer, where)
        receiver.skip(there)
        if start is None:
            return
    points = source.scroll(layer, where, vectors=True, payloads=True, start=start)
    for batch in batches(points, BATCH):
        receiver.put(layer, as_points(batch))


def as_points(batch: Sequence[Stored]) -> Points:
    """Give points that were read with vectors and payloads as points to store."""
    return Points(
        [point.id for point in batch],
        np.stack([point.vector for point in batch if point.vector is not None]),
        [point.payload for point in batch if point.payload is not None],
    )


def _first_missing(source: Store, target: Store, layer: int, where: Filter) -> tuple[int, str | None]:
    """Give the first id that only the source has, and how many come before it: both go in the order of ids."""
    ours = target.scroll(layer, where)
    at = 0
    for at, point in enumerate(source.scroll(layer, where)):
        mine = next(ours, None)
        if mine is None or mine.id != point.id:
            return at, point.id
    return at + 1, None


def _compare(
    source: Bank, target: Bank, entries: Sequence[CorpusEntry], sample: int, progress: Progress
) -> list[str]:
    """Verify both sides, and compare them: one layer's ids (in a sound bank all layers have the same), some vectors."""
    wrong = [
        f"In the {side}: {said}"
        for side, bank in (("copy", target), ("source", source))
        for said in verify_corpora(bank, target.layers, entries, sample, progress)
    ]
    where = Where(corpus=[entry.stored for entry in entries])
    mend = "drop its corpora (`latentbank bank drop-corpus`) and run the command again."
    first = target.layers[0]
    both = zip_longest(source.store.scroll(first, where), target.store.scroll(first, where))
    if any(one is None or other is None or one.id != other.id for one, other in both):
        return [*wrong, f"The copy holds other contexts than the source; {mend}"]
    for layer in target.layers:
        sides = (bank.store.scroll(layer, where, vectors=True) for bank in (source, target))
        if not all(_alike(*pair) for pair in islice(zip(*sides, strict=False), sample)):
            wrong.append(f"The copy has other vectors in layer {layer} than the source; {mend}")
    return wrong


def _alike(one: Stored, other: Stored) -> bool:
    if one.vector is None or other.vector is None or one.vector.shape != other.vector.shape:
        return False
    return bool(np.abs(one.vector - other.vector).max() <= _TOLERANCE)
