"""The second look of a corrected LatentLens: the best contexts of each layer get corrected scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.manifest import Manifest
from latentbank.bank.store.base import Hit
from latentbank.query.calibration.numbers import HUBS, PLAIN_HUBS, pack_ids

if TYPE_CHECKING:
    from latentbank.query.calibration.calibration import Calibration
    from latentbank.query.calibration.correction import Mode

Floats = npt.NDArray[np.float32]

DEPTH = 50
"""Contexts of each layer that are looked at."""


@dataclass(frozen=True, eq=False)
class CorrectedLook:
    """Scores contexts again by a calibration; see `latentbank.bank.second_look.SecondLook`.

    Attributes:
        calibration: holds the numbers.
        mode: which corrections are made.
        layer: the visual layer of the queries.
    """

    calibration: Calibration
    mode: Mode
    layer: int

    @property
    def depth(self) -> int:
        """How many contexts of each layer it looks at."""
        return DEPTH

    def scores(
        self, manifest: Manifest, layer: int, vectors: Floats, found: Sequence[Sequence[Hit]]
    ) -> Floats:
        """Return the corrected scores of each query's contexts, float32 `[queries, most contexts]`.

        Raises:
            QueryError: a context has no numbers.
        """
        counts = np.array([len(hits) for hits in found], dtype=np.intp)
        scores = np.full((len(found), counts.max(initial=0)), -np.inf, np.float32)
        if not scores.size:
            return scores
        there = np.arange(scores.shape[1]) < counts[:, None]
        scores[there] = [hit.score for hits in found for hit in hits]
        kept = self.calibration.numbers(
            manifest, layer, self.layer, pack_ids([hit.id for hits in found for hit in hits])
        )
        if self.mode != "hubs":
            centre = self.calibration.centre(manifest, layer, self.layer)
            scores[there] = centre.centred(scores[there], np.nonzero(there)[0], vectors, kept)
        if self.mode == "mean":
            return scores
        near = mean_of_best(scores[:, : self.depth], self.calibration.references(self.layer).nearest)
        hubs = np.zeros_like(scores)
        hubs[there] = kept.numbers[:, PLAIN_HUBS if self.mode == "hubs" else HUBS]
        corrected: Floats = 2 * scores - hubs - near[:, None]
        return corrected


def mean_of_best(scores: Floats, count: int) -> Floats:
    """Return the mean of the `count` highest scores of each row, float32 `[rows]`.

    Minus infinity is no score; the mean is of all scores where there are fewer, and 0 where there is none.
    """
    best = -np.sort(-scores, axis=1)[:, :count]
    there = np.isfinite(best)
    sums = np.where(there, best, 0).sum(axis=1)
    means: Floats = (sums / np.maximum(there.sum(axis=1), 1)).astype(np.float32)
    return means
