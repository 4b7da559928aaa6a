"""Which of a bank's layers a request stands for."""

from __future__ import annotations

from typing import Literal

from latentbank.bank.manifest import Manifest
from latentbank.errors import LayerNotFound
from latentbank.layers import NAMED_BANK_LAYERS, PAPER, paper_layers
from latentbank.text import listed
from latentbank.values import Layers, layers_of

BankLayers = Literal["mid", "all", "paper"] | Layers


def choose(manifest: Manifest, bank_layers: BankLayers) -> list[int]:
    """See `Bank.choose_layers`."""
    if isinstance(bank_layers, str):  # checked first: comparing an array with a string gives no truth value
        if bank_layers == "all":
            return list(manifest.layers)
        if bank_layers == "mid":
            total = manifest.num_layers
            middle = [layer for layer in manifest.layers if total / 4 <= layer <= total / 2]
            return middle or list(manifest.layers)
        if bank_layers != PAPER:
            raise LayerNotFound(
                f"'{bank_layers}' names no bank layers; use {listed(NAMED_BANK_LAYERS)} or numbers."
            )
        bank_layers = paper_layers(manifest.num_layers)
    requested = sorted(layers_of(bank_layers, "bank_layers"))
    missing = [layer for layer in requested if layer not in manifest.layers]
    if not requested:
        raise LayerNotFound(f"No bank layer was named; '{manifest.bank}' has {listed(manifest.layers)}.")
    if missing:
        raise LayerNotFound(
            f"The bank '{manifest.bank}' has no layer {listed(missing)}; it has {listed(manifest.layers)}."
        )
    return requested
