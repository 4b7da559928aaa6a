"""Patchscopes: what the LLM itself writes for a hidden state that is put into a prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentbank.errors import ModelError, QueryError
from latentbank.query.lenses import vocabulary
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.query.lenses.logit import LogitLens

if TYPE_CHECKING:
    from latentbank.bank.points import Neighbor
    from latentbank.models.language.patching import Patched
    from latentbank.models.vision.tokens import VisualModel


@dataclass(frozen=True)
class Patchscopes(Lens):
    """The LLM's next token after a prompt that repeats words, with the hidden state in a word's place.

    Ghandeharioun et al. 2024 (arXiv 2401.06102). The prompt is `cat->cat; 1135->1135; hello->hello; ?->`. The hidden
    state replaces that of the `?` at its own layer, and the rest of the LLM runs on. Its neighbors carry the
    `probability` of each next token; they have no cosine. A hidden state of the last layer reaches no other token, so
    it is read as LogitLens reads it.

    Args:
        patched: the LLM and the prompt.
        logit: LogitLens of the same LLM.
    """

    patched: Patched
    logit: LogitLens

    name = "patchscopes"
    title = "Patchscopes"
    score = "probability"
    rank = 5
    needs_whole = True

    @classmethod
    def make(cls, options: LensOptions) -> Patchscopes:
        """Return the lens over the VLM's language model.

        Raises:
            ModelError: only part of the language model is loaded, or it has no unembedding.
        """
        from latentbank.models.language.patching import Patched

        return cls(Patched(options.model.language), LogitLens.make(replace(options, correction=None)))

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the most probable next tokens for each query.

        Raises:
            QueryError: wrong shape, a hidden state that is zero or not finite, or a layer that is not known.
        """
        if queries.layer is None:
            raise QueryError(
                "Patchscopes puts hidden states into their own layer: say which layer they are of."
            )
        rows = vocabulary.checked_rows(queries.states)
        return self.logit.read(replace(queries, states=self.patched.outputs(rows, queries.layer)), top_k)

    def check(self, model: VisualModel) -> None:
        """Check that the lens is of the VLM's language model.

        Raises:
            ModelError: it is of another one.
        """
        if self.patched.language is not model.language:
            raise ModelError(f"This Patchscopes lens is not of {model.name}: make one for it.")

    def distinct(self) -> Patchscopes:
        """Return the same lens with one neighbor per word."""
        return replace(self, logit=self.logit.distinct())
