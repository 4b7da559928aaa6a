"""Which of a bank's layers a reader means."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Literal, cast

from latentbank.bank.manifest import Manifest
from latentbank.errors import LayerNotFound

BankLayers = Literal["mid", "all"] | int | Iterable[int]


def choose(manifest: Manifest, bank_layers: BankLayers) -> list[int]:
    """See `Bank.choose_layers`."""
    if isinstance(bank_layers, str):  # asked first: an array compared with text is no truth value
        if bank_layers == "all":
            return list(manifest.layers)
        if bank_layers == "mid":
            total = manifest.num_layers
            return [one for one in manifest.layers if total / 4 <= one <= total / 2] or list(manifest.layers)
        raise LayerNotFound(f"'{bank_layers}' names no bank layers; use mid, all or numbers.")
    given = [bank_layers] if isinstance(bank_layers, Integral) else bank_layers
    wanted = sorted({int(layer) for layer in cast("Iterable[int]", given)})
    missing = [layer for layer in wanted if layer not in manifest.layers]
    if not wanted:
        raise LayerNotFound(f"No bank layer was named; '{manifest.bank}' has {listed(manifest.layers)}.")
    if missing:
        raise LayerNotFound(
            f"The bank '{manifest.bank}' has no layer {listed(missing)}; it has {listed(manifest.layers)}."
        )
    return wanted


def listed(layers: Iterable[int]) -> str:
    """Name layers in a sentence."""
    return ", ".join(map(str, layers))
