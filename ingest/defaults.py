"""What an ingestion takes where nothing is named: the bank's name and layers, and the plan's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings


def default_layers(num_layers: int) -> list[int]:
    """Return the layers of a new bank when none are named: four, evenly spaced up to the middle of the LLM.

    Args:
        num_layers: blocks of the whole LLM.
    """
    return sorted({max(1, round(num_layers * eighth / 8)) for eighth in (1, 2, 3, 4)})


def bank_name(model: str) -> str:
    """Return the name of a new bank when none is named: the last part of the LLM's name."""
    return Path(model).name.removesuffix(".gguf").replace("--", "-")


def plan_folder(settings: Settings, bank: str, corpus: str) -> Path:
    """Return the folder where the plan of a bank's corpus is kept, in the folder of embedded banks."""
    return settings.data_dir / ".plans" / bank / corpus  # no bank's name begins with a dot
