"""LogitLens: the LLM's own next-token prediction from a hidden state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentbank.bank.points import Neighbor
from latentbank.query.calibration.vocabulary import read_logit_hubs
from latentbank.query.lenses import vocabulary
from latentbank.query.lenses.base import Lens, LensOptions, Queries

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from latentbank.bank.merge import Unique
    from latentbank.models.language.unembedding import Unembedding
    from latentbank.query.calibration.correction import Correction


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
        correction: tokens are ranked by their log-probability less what many visual tokens give them; None: by
            probability. Text is never corrected, and a correction of the mean alone changes nothing, as no vectors are
            compared.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lens = lb.LogitLens.make(lb.LensOptions(vlm))
        >>> (reading,) = lb.read_images(vlm, ["cat.jpg"], [lens], layers=[8])
    """

    unembedding: Unembedding
    tokenizer: PreTrainedTokenizerBase
    unique: Unique | None = None
    correction: Correction | None = None

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

        tokenizer = options.model.language.tokenizer
        return cls(unembedding_of(options.model), tokenizer, options.unique, options.correction)

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the most probable tokens for each query, or those with the highest corrected scores.

        Raises:
            QueryError: wrong shape, or a hidden state that is zero or not finite (the row is named). Also, with a
                correction, a visual layer that is not calibrated.
        """
        import torch

        rows = vocabulary.checked_rows(queries.states)
        known = len(self.tokenizer)
        hubs = self._hubs(queries)

        def best(rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
            found = []
            at = 0
            size = 1  # the first row tells how wide the logits are
            while at < len(rows):
                logits = self.unembedding.logits(rows[at : at + size]).float()
                at += size
                size = max(1, vocabulary.BLOCK // logits.shape[-1])
                # All logits share the probability, also those of rows without a token (padding of the matrix).
                if hubs is None:
                    scores = logits.softmax(-1)[:, :known]
                else:
                    scores = logits.log_softmax(-1)[:, :known] - hubs.to(logits.device)[:known]
                found.append(scores.topk(min(depth, scores.shape[-1])))
            return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

        def neighbor(word: str, token: str, token_id: int, score: float) -> Neighbor:
            if hubs is None:
                return Neighbor(word, token, math.nan, token_id=token_id, probability=score)
            chance = math.exp(score + float(hubs[token_id]))
            return Neighbor(word, token, math.nan, token_id=token_id, probability=chance, corrected=score)

        with torch.inference_mode():
            return vocabulary.token_neighbors(best, rows, top_k, self.unique, self.tokenizer, neighbor)

    def _hubs(self, queries: Queries) -> Tensor | None:
        """Return what each token's log-probability is corrected by, float32 `[vocab]`; None if nothing is."""
        import torch

        if self.correction is None or self.correction.mode == "mean" or queries.kind == "text":
            return None
        return torch.from_numpy(read_logit_hubs(self.correction.calibration, queries.layer))

    def distinct(self) -> LogitLens:
        """Return the same lens with one neighbor per word."""
        return replace(self, unique="word")

    def corrected(self, correction: Correction | None) -> LogitLens:
        """Return the same lens with its scores corrected; None: with probabilities."""
        return replace(self, correction=correction)
