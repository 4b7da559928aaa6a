"""Patchscopes: what the LLM itself writes for a hidden state that is put into a prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentbank.bank.points import Neighbor
from latentbank.errors import ModelError, QueryError
from latentbank.query.lenses import vocabulary
from latentbank.query.lenses.base import Lens, LensOptions, Queries

if TYPE_CHECKING:
    from torch import Tensor

    from latentbank.bank.merge import Unique
    from latentbank.models.language.patching import Patched
    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.tokens import VisualModel


@dataclass(frozen=True)
class Patchscopes(Lens):
    """The LLM's next token after a prompt that repeats words, with the hidden state in a word's place.

    Ghandeharioun et al. 2024 (arXiv 2401.06102). The prompt is `cat -> cat; 1135 -> 1135; hello -> hello; ? ->`. The
    hidden state replaces that of the `?` at its own layer, and the rest of the LLM runs on. The next token is read at
    the `?`, as the authors do, and after the arrow, which the hidden states of deep layers hardly reach any more; the
    `probability` of a neighbor is the mean of the two. Neighbors have no cosine.

    Args:
        patched: the LLM and the prompt.
        unembedding: of the same LLM.
        unique: as for `LogitLens`.
    """

    patched: Patched
    unembedding: Unembedding
    unique: Unique | None = None

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
        from latentbank.models.visual import unembedding_of

        return cls(Patched(options.model.language), unembedding_of(options.model), options.unique)

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the most probable next tokens for each query.

        Raises:
            QueryError: wrong shape, a hidden state that is zero or not finite, or a layer that is not known.
        """
        if queries.layer is None:
            raise QueryError(
                "Patchscopes puts hidden states into their own layer: say which layer they are of."
            )
        import torch

        tokenizer = self.patched.language.tokenizer
        known = len(tokenizer)
        outputs = self.patched.outputs(vocabulary.checked_rows(queries.states), queries.layer)
        step = max(1, vocabulary.BLOCK // (known * outputs.shape[1]))

        def best(rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
            found = []
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                logits = self.unembedding.logits(part.flatten(0, 1)).float()
                chances = logits.softmax(-1).view(*part.shape[:2], -1).mean(1)[:, :known]
                found.append(chances.topk(min(depth, chances.shape[-1])))
            return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

        def neighbor(word: str, token: str, token_id: int, score: float) -> Neighbor:
            return Neighbor(word, token, math.nan, token_id=token_id, probability=score)

        with torch.inference_mode():
            return vocabulary.token_neighbors(best, outputs, top_k, self.unique, tokenizer, neighbor)

    def check(self, model: VisualModel) -> None:
        """Check that the lens is of the VLM's language model.

        Raises:
            ModelError: it is of another one.
        """
        if self.patched.language is not model.language:
            raise ModelError(f"This Patchscopes lens is not of {model.name}: make one for it.")

    def distinct(self) -> Patchscopes:
        """Return the same lens with one neighbor per word."""
        return replace(self, unique="word")
