"""Upkeep of a bank: what jobs that were killed have left undone in its layers."""

from __future__ import annotations

from latentbank.bank.bank import Bank
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
    progress = progress or Silent()
    left = [layer for layer in bank.layers if bank.store.info(layer).waiting]
    if left:
        progress.stage("indexing", "layers")
    for done, layer in enumerate(left):
        progress.update(done, len(left))
        bank.store.index(layer)
    return left
