"""Packed rows as a decoder of transformers takes them, to time its bare forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from latentbank.ingest.encode import Row


@dataclass(frozen=True)
class Batch:
    """Rows as a decoder takes them, on the device; `tokens` without padding."""

    ids: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    tokens: int


def batch_of(rows: Sequence[Row], device: str) -> Batch:
    """Return rows on the device, padded to the longest."""
    width = max(len(row.tokens) for row in rows)
    ids, positions = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    visible = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    for at, row in enumerate(rows):
        n = len(row.tokens)
        ids[at, :n], positions[at, :n] = torch.tensor(row.tokens), torch.tensor(row.depths)
        visible[at, :n, :n] = torch.from_numpy(row.attention())
    sizes = sum(len(row.tokens) for row in rows)
    return Batch(ids.to(device), positions.to(device), visible.to(device), sizes)
