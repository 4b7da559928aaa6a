"""Lenses by the names that people give them. Nothing heavy is imported before one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.merge import Unique
    from latentbank.bank.where import Filter
    from latentbank.models.vision.vision_language import VisualModel
    from latentbank.query.lenses.base import Lens

LENSES = ("latent", "logit", "embedding")


def lens_names(text: str) -> list[str]:
    """Read --lens, each name once.

    Raises:
        QueryError: there is no lens of a name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in LENSES]:
        raise QueryError(f"There is no lens '{unknown[0]}'; there are {', '.join(LENSES)}.")
    return names


def lenses_of(
    names: Sequence[str],
    model: VisualModel,
    bank: Bank | None,
    bank_layers: BankLayers = "all",
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
) -> list[Lens]:
    """Make lenses.

    Args:
        names: from `lens_names`.
        model: whose visual tokens are read; logit and embedding take its LLM's vocabulary.
        bank: that latent searches; None where it is not among the names.
        bank_layers: of latent.
        where: of latent.
        unique: of all.
        exact: of latent.
    """
    from latentbank.models.visual import unembedding_of
    from latentbank.query.lenses.base import EmbeddingLens, LatentLens, LogitLens

    def latent() -> Lens:
        assert bank is not None
        return LatentLens(bank, bank_layers, where, unique, exact)

    tokenizer = model.language.tokenizer
    make: dict[str, Callable[[], Lens]] = {
        "latent": latent,
        "logit": lambda: LogitLens(unembedding_of(model), tokenizer, unique),
        "embedding": lambda: EmbeddingLens(model.language.embedding, tokenizer, unique),
    }
    return [make[name]() for name in names]
