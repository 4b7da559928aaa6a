"""The store: banks of contexts in Qdrant. No torch, no transformers; names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bank.bank import Bank
    from bank.manifest import CorpusEntry, Manifest
    from bank.opening import create_bank, delete_bank, list_banks, open_bank, use_bank
    from bank.points import Neighbor, Payload, context_id
    from bank.settings import Settings, load_settings
    from bank.where import Where, parse_where

_HOME = {
    "Bank": "bank.bank",
    "create_bank": "bank.opening",
    "delete_bank": "bank.opening",
    "list_banks": "bank.opening",
    "open_bank": "bank.opening",
    "use_bank": "bank.opening",
    "CorpusEntry": "bank.manifest",
    "Manifest": "bank.manifest",
    "Neighbor": "bank.points",
    "Payload": "bank.points",
    "context_id": "bank.points",
    "Settings": "bank.settings",
    "load_settings": "bank.settings",
    "Where": "bank.where",
    "parse_where": "bank.where",
}

__all__ = [
    "Bank",
    "CorpusEntry",
    "Manifest",
    "Neighbor",
    "Payload",
    "Settings",
    "Where",
    "context_id",
    "create_bank",
    "delete_bank",
    "list_banks",
    "load_settings",
    "open_bank",
    "parse_where",
    "use_bank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bank' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
