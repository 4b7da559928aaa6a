"""The bank of an LLM: made by what the LLM is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from latentbank.bank.bank import Bank
from latentbank.bank.opening import create_bank
from latentbank.bank.settings import Metric, Settings
from latentbank.models.language.model import LanguageModel


def create_bank_of(
    model: LanguageModel,
    name: str,
    layers: Iterable[int],
    settings: Settings | None = None,
    *,
    metric: Metric | None = None,
    **given: Any,
) -> Bank:
    """Create a bank of an LLM, or open the one that is there if it is this LLM's; see `create_bank`, also for errors.

    Args:
        model: the LLM.
        name: the bank's.
        layers: the bank layers.
        settings: where to make it; read from arguments and environment when None.
        metric: "cosine" or "centred"; None: the bank's own, or for a new one the settings'.
        given: settings as arguments.
    """
    return create_bank(
        name,
        settings,
        model=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint(),
        layers=layers,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        metric=metric,
        **given,
    )
