"""LogitLens: the LLM's own next-token prediction from a hidden state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentbank.bank.points import Neighbor
from latentbank.query.lenses import vocabulary
from latentbank.query.lenses.base import Lens, LensOptions, Queries

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from latentbank.bank.merge import Unique
    from latentbank.models.language.unembedding import Unembedding


@dataclass(frozen=True)
class LogitLens(Lens):
    """The LLM's next-token prediction from a hidden state, as if its last block ended here (nostalgebraist, 2020).

    It applies the final norm and the unembedding.

    Its neighbors carry the token's `probability`, the softmax of all logits; they have no cosine.

    Args:
        unembedding: of the LLM that the hidden states live in.
        tokenizer: of the same LLM.
        unique: "word" gives one neighbor per word, whose tokens differ in case and leading space; "context"
            changes nothing, as a token is not a context.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lens = lb.LogitLens.make(lb.LensOptions(vlm))
        >>> (reading,) = lb.read_images(vlm, ["cat.jpg"], [lens], layers=[8])
    """

    unembedding: Unembedding
    tokenizer: PreTrainedTokenizerBase
    unique: Unique | None = None

    name = "logit"
    title = "LogitLens"
    score = "probability"
    rank = 1

    @classmethod
    def make(cls, options: LensOptions) -> LogitLens:
        """Return the lens over the unembedding of the VLM's language model.

        Raises:
            ModelError: the language model has no unembedding, or it cannot be loaded.
        """
        from latentbank.models.visual import unembedding_of

        return cls(unembedding_of(options.model), options.model.language.tokenizer, options.unique)

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the most probable tokens for each query.

        Raises:
            QueryError: wrong shape, or a hidden state that is zero or not finite (the row is named).
        """
        import torch

        rows = vocabulary.checked_rows(queries.states)
        known = len(self.tokenizer)

        def best(rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
            found = []
            at = 0
            size = 1  # the first row tells how wide the logits are
            while at < len(rows):
                logits = self.unembedding.logits(rows[at : at + size]).float()
                at += size
                size = max(1, vocabulary.BLOCK // logits.shape[-1])
                # All logits share the probability, also those of rows without a token (padding of the matrix).
                chances = logits.softmax(-1)[:, :known]
                found.append(chances.topk(min(depth, chances.shape[-1])))
            return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

        def neighbor(word: str, token: str, token_id: int, score: float) -> Neighbor:
            return Neighbor(word, token, math.nan, token_id=token_id, probability=score)

        with torch.inference_mode():
            return vocabulary.token_neighbors(best, rows, top_k, self.unique, self.tokenizer, neighbor)

    def distinct(self) -> LogitLens:
        """Return the same lens with one neighbor per word."""
        return replace(self, unique="word")
