"""How the visual tokens of one layer are ranked for a question: a search, then a second look at the nearest.

Ranking by the corrected score would need all visual tokens; the search for what is nearest to a word, less the mean of
text, finds nearly all of those that it would rank first (docs/findings.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from latentbank.bank.rotation import unit

if TYPE_CHECKING:
    from latentbank.bank.images.bank import ImageBank
    from latentbank.bank.images.points import Patch
    from latentbank.bank.planning import Way
    from latentbank.bank.where import Filter
    from latentbank.query.images.space import Floats, Words

EXAMPLES = 10
"""The best tokens, whose mean is what a word looks like in the collection. This is pseudo-relevance feedback as Rocchio
(1971) gave it for documents: the question moves half of the way to the mean."""
DEPTH = 500
"""Tokens that get a second look, at least."""
_PER_IMAGE = 4  # of an image, at least, when images are asked for


@dataclass(frozen=True)
class Pool:
    """Which visual tokens are looked for.

    Attributes:
        images: the bank of images.
        layer: the visual layer.
        where: only visual tokens that this filter selects.
        limit: tokens, or images if these are asked for.
        per_image: tokens of an image; None: images are not asked for.
        exact: compare with every token.
    """

    images: ImageBank
    layer: int
    where: Filter | None
    limit: int
    per_image: int | None
    exact: bool

    def near(self, direction: Floats, times: int = 2) -> dict[str, Patch]:
        """Return the tokens that are nearest to a direction `[hidden]`, of length 1, by id.

        Args:
            direction: what is searched.
            times: so many times as many as are asked for; without a second look, once is enough.
        """
        if self.per_image is not None:
            size = max(self.per_image, _PER_IMAGE) if times > 1 else self.per_image
            groups = self.images.nearest_by_image(
                direction,
                self.layer,
                max(times * self.limit, DEPTH // 10 if times > 1 else 1),
                size,
                self.where,
                exact=self.exact,
            )
            return {patch.id: patch for group in groups for patch in group}
        count = max(times * self.limit, DEPTH) if times > 1 else self.limit
        # A scan of the originals would find no more that matters: of 490,000 tokens it took three times as long.
        exact = self.exact or self.images.settings.search == "exact"
        way: Way = "exact" if exact else "graph"
        (found,) = self.images.nearest(direction[None], self.layer, count, self.where, search=way)
        return {patch.id: patch for patch in found}


@dataclass
class Ranking:
    """What was found at one visual layer, and how any token of it is scored.

    Attributes:
        pool: what was looked for.
        question: what cosines are told to, of length 1, `[hidden]`.
        direction: what a centred token is compared with, of length 1; None: tokens are ranked by cosine.
        mean: the mean of visual tokens that is subtracted.
        words: the words that compete; None: none do.
        anchor: the word itself, of length 1, where words compete: it counts beside the direction.
        found: the tokens by id.
        vectors: their vectors as they are stored, by id; filled as they are needed.
    """

    pool: Pool
    question: Floats
    direction: Floats | None = None
    mean: Floats | None = None
    words: Words | None = None
    anchor: Floats | None = None
    found: dict[str, Patch] = field(default_factory=dict)
    vectors: dict[str, Floats] = field(default_factory=dict)

    def scores(self, ids: list[str]) -> tuple[Floats, Floats]:
        """Return the scores and the cosines of tokens that are stored at this layer, float32 `[ids]` each."""
        rows = self.rows(ids)
        cosines: Floats = unit(rows) @ self.question
        if self.direction is None or self.mean is None:
            return cosines, cosines
        centred = self.centred(ids)
        scores: Floats = centred @ self.direction
        if self.words is not None and self.anchor is not None:
            scores = scores + centred @ self.anchor - self.words.competing(centred)
        return scores, cosines

    def centred(self, ids: list[str]) -> Floats:
        """Return tokens less the mean, of length 1, float32 `[ids, hidden]`."""
        assert self.mean is not None
        return unit(unit(self.rows(ids)) - self.mean)

    def rows(self, ids: list[str]) -> Floats:
        """Return the vectors of tokens, read where they are not known."""
        missing = [id_ for id_ in ids if id_ not in self.vectors]
        if missing:
            self.vectors |= self.pool.images.vectors(self.pool.layer, missing)
        return np.stack([self.vectors[id_] for id_ in ids])


def by_cosine(pool: Pool, question: Floats) -> Ranking:
    """Return the tokens nearest to a question by plain cosine."""
    made = Ranking(pool, question)
    made.found = pool.near(question, times=1)
    return made


def by_means(pool: Pool, question: Floats, direction: Floats, mean: Floats) -> Ranking:
    """Return the tokens nearest to a direction after their mean is subtracted."""
    made = Ranking(pool, question, direction, mean)
    made.found = pool.near(direction)
    return made


def by_examples(pool: Pool, question: Floats, direction: Floats, mean: Floats, words: Words) -> Ranking:
    """Return the tokens of which a word says more than all others, then those that look like the best of them.

    Scores are cos(x′, q) + cos(x′, t′) − T log Σ exp(cos(x′, w′) / T) over the words w, where t′ is the word and q lies
    in the middle between t′ and the mean of the `EXAMPLES` best by the other two terms.

    Args:
        pool: what is looked for.
        question: the word's plain vector, of length 1.
        direction: t′.
        mean: m.
        words: those of the same bank layer.
    """
    made = Ranking(pool, question, np.zeros_like(direction), mean, words, direction)
    made.found = pool.near(direction)
    ids = list(made.found)
    if ids:
        first, _ = made.scores(ids)
        best = [ids[place] for place in np.argsort(-first, kind="stable")[:EXAMPLES].tolist()]
        middle = direction + unit(made.centred(best).mean(axis=0)[None])[0]
        made.direction = unit(middle[None])[0]
        made.found |= pool.near(made.direction)
    return made
