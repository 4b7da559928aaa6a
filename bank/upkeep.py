"""Upkeep of a bank: its layers are indexed, also what jobs that were killed have left undone."""

from __future__ import annotations

from collections.abc import Sequence

from latentbank.bank.bank import Bank
from latentbank.bank.store.base import Store
from latentbank.progress import Progress, Silent


def index_waiting(bank: Bank, progress: Progress | None = None) -> list[int]:
    """Index the layers that hold contexts which are not indexed, and return these layers.

    Searches of such a layer find the same contexts, but take longer.

    Args:
        bank: open for writing.
        progress: counts layers.

    Raises:
        BankUnavailable: the server failed to index a layer.
    """
    left = [layer for layer in bank.layers if bank.store.info(layer).waiting]
    if left:
        index_layers(bank.store, left, progress)
    return left


def index_layers(store: Store, layers: Sequence[int], progress: Progress | None = None) -> None:
    """Index layers, several at once where that is faster.

    Args:
        store: a bank's, or that of its images, open for writing.
        layers: the layers.
        progress: counts layers.

    Raises:
        BankUnavailable: a layer could not be indexed.
    """
    progress, done = progress or Silent(), 0
    progress.stage("indexing", "layers")
    for group in store.index_together(layers):
        progress.update(done, len(layers))
        store.index(*group)
        done += len(group)
