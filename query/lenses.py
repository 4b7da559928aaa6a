"""Lenses: what turns a hidden state into words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from bank.bank import Bank, BankLayers
from bank.merge import Unique
from bank.points import Neighbor
from bank.where import Filter


@dataclass(frozen=True)
class LatentLens:
    """Nearest contexts of a bank by cosine (arXiv 2602.00462).

    Args:
        bank: where the contexts are.
        bank_layers: "mid", "all", one layer or several.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word"; None: all.
        exact: compare with every context in full precision.
        query_mean: for a centred bank, the mean of what the hidden states are examples of, as `Bank.search` takes it
            (query/centring.py finds it).
    """

    bank: Bank
    bank_layers: BankLayers = "mid"
    where: Filter | None = None
    unique: Unique | None = None
    exact: bool = False
    query_mean: npt.ArrayLike | None = None

    name = "latent"

    def read(self, hidden_states: npt.ArrayLike, top_k: int = 5) -> list[list[Neighbor]]:
        """Give the neighbors of each hidden state `[tokens, hidden]`, highest cosine first."""
        return self.bank.search(
            hidden_states,
            self.bank_layers,
            top_k,
            self.where,
            exact=self.exact,
            unique=self.unique,
            query_mean=self.query_mean,
        )
