"""Lenses by the names that people give them. Nothing heavy is imported before one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from latentbank_errors import QueryError

if TYPE_CHECKING:
    from bank.bank import Bank
    from bank.layers import BankLayers
    from bank.merge import Unique
    from bank.where import Filter
    from models.vision_language import VisualModel
    from query.lenses import Lens

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
    from models.visual import unembedding_of
    from query.lenses import EmbeddingLens, LatentLens, LogitLens

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
