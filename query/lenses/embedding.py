"""EmbeddingLens: the nearest rows of the LLM's input embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentbank.bank.points import Neighbor
from latentbank.errors import QueryError
from latentbank.query.calibration.vocabulary import EmbeddingLook, embedding_look
from latentbank.query.lenses import vocabulary
from latentbank.query.lenses.base import Lens, LensOptions, Queries

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from latentbank.bank.merge import Unique
    from latentbank.query.calibration.correction import Correction


@dataclass(frozen=True)
class EmbeddingLens(Lens):
    """Nearest tokens by cosine with the LLM's input embeddings.

    The matrix is read in blocks, each converted to float32 alone, so that it is never copied whole.

    Args:
        embedding: `[vocab, hidden]` in any float dtype, on any device.
        tokenizer: of the same LLM.
        unique: as for `LogitLens`.
        mean: `[hidden]`, subtracted from each row of the matrix before it is compared (`mean_embedding` returns the
            matrix's own); None: nothing is subtracted. Hidden states are compared as they come.
        correction: how scores are corrected, by which tokens are then ranked; None: they are ranked by cosine. Text is
            never corrected.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lens = lb.EmbeddingLens.make(lb.LensOptions(vlm, unique="word"))
        >>> (reading,) = lb.read_images(vlm, ["cat.jpg"], [lens], layers=[0])
    """

    embedding: Tensor
    tokenizer: PreTrainedTokenizerBase
    unique: Unique | None = None
    mean: Tensor | None = None
    correction: Correction | None = None

    name = "embedding"
    title = "EmbeddingLens"
    score = "cosine"
    rank = 2

    @classmethod
    def make(cls, options: LensOptions) -> EmbeddingLens:
        """Return the lens over the input embeddings of the VLM's language model."""
        language = options.model.language
        return cls(language.embedding, language.tokenizer, options.unique, correction=options.correction)

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the nearest tokens of each query, highest score first: cosine, or the corrected score.

        Raises:
            QueryError: wrong shape, or a hidden state that is zero or not finite (the row is named). Also, with a
                correction, a visual layer that is not calibrated.
        """
        import torch

        rows = vocabulary.checked_rows(queries.states)
        width = self.embedding.shape[1]
        if rows.shape[1] != width:
            raise QueryError(f"The hidden states are {rows.shape[1]} wide, the input embeddings {width}.")
        rows = torch.nn.functional.normalize(rows.to(self.embedding.device), dim=-1)
        look = None
        if self.correction is not None and queries.kind != "text":
            look = embedding_look(self.correction, queries.layer, rows.device)
        with torch.inference_mode():
            found = vocabulary.token_neighbors(
                lambda rows, depth: self._best(rows, depth, look),
                rows,
                top_k,
                self.unique,
                self.tokenizer,
                lambda word, token, token_id, score: Neighbor(word, token, score, token_id=token_id),
            )
            return found if look is None else self._with_cosines(rows, found)

    def _best(self, rows: Tensor, depth: int, look: EmbeddingLook | None) -> tuple[Tensor, Tensor]:
        """Return scores and ids of the best tokens of unit hidden states: `[tokens, depth]`, highest first."""
        import torch

        size, width = self.embedding.shape
        known = min(len(self.tokenizer), size)  # rows beyond have no token
        mean = None if self.mean is None else self.mean.to(rows.device, torch.float32)
        scores = rows.new_empty(len(rows), 0)
        near = rows.new_empty(len(rows), 0)
        ids = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
        given = rows if look is None else look.queries(rows)
        step = max(1, vocabulary.BLOCK // max(width, len(rows)))
        for start in range(0, known, step):
            block = self.embedding[start : min(start + step, known)].float()
            if look is not None:
                cosines = given @ look.tokens(block).T
                near = look.nearest(torch.cat([near, cosines], 1))
                ranked = look.scores(cosines, start)
            else:
                block = block if mean is None else block - mean
                ranked = given @ block.T / block.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
            top = ranked.topk(min(depth, len(block)))
            scores, ids = torch.cat([scores, top.values], 1), torch.cat([ids, top.indices + start], 1)
            kept = scores.topk(min(depth, scores.shape[1]))
            scores, ids = kept.values, ids.gather(1, kept.indices)
        return (scores if look is None else look.less_near(scores, near)), ids

    def _with_cosines(self, rows: Tensor, found: list[list[Neighbor]]) -> list[list[Neighbor]]:
        """Return neighbors whose `cosine` is a corrected score with that score and the true cosine in their places."""
        import torch

        answers = []
        for row, neighbors in zip(rows, found, strict=True):
            tokens = self.embedding[[neighbor.token_id for neighbor in neighbors]].float()
            cosines = (torch.nn.functional.normalize(tokens, dim=-1) @ row).tolist()
            answers.append(
                [
                    replace(neighbor, cosine=cosine, corrected=neighbor.cosine)
                    for neighbor, cosine in zip(neighbors, cosines, strict=True)
                ]
            )
        return answers

    def distinct(self) -> EmbeddingLens:
        """Return the same lens with one neighbor per word."""
        return replace(self, unique="word")

    def centred(self) -> EmbeddingLens:
        """Return the same lens with the matrix's own mean, unless it has one."""
        return self if self.mean is not None else replace(self, mean=mean_embedding(self.embedding))

    def corrected(self, correction: Correction | None) -> EmbeddingLens:
        """Return the same lens with its scores corrected; None: with cosines."""
        return replace(self, correction=correction)


def mean_embedding(embedding: Tensor) -> Tensor:
    """Return the mean row of an input embedding `[vocab, hidden]`: float32 `[hidden]`, summed block by block."""
    import torch

    size, width = embedding.shape
    step = max(1, vocabulary.BLOCK // width)
    total = torch.zeros(width, dtype=torch.float64)  # on the CPU: Apple's GPU has no float64
    with torch.inference_mode():
        for start in range(0, size, step):
            # float32 is enough within a block; the blocks are summed in double, as some dimensions are huge.
            total += embedding[start : start + step].float().sum(0).cpu()
    return (total / size).float().to(embedding.device)
