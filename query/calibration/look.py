"""The second look of a corrected LatentLens: the best contexts of each layer get corrected scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.manifest import Manifest
from latentbank.bank.points import Hit
from latentbank.bank.rotation import rotate
from latentbank.errors import QueryError
from latentbank.query.calibration.numbers import ALONG, HUBS, PLAIN_HUBS, pack_ids

if TYPE_CHECKING:
    from latentbank.query.calibration.calibration import Calibration
    from latentbank.query.calibration.correction import Mode

Floats = npt.NDArray[np.float32]
_TINY = 1e-5  # a query this near to what is subtracted has no direction left

DEPTH = 50
"""Contexts of each layer that are looked at."""
SHIFT = 0.5
"""The part of the mean of visual tokens that is subtracted from a query before it is searched for.

What is near to q alone is full of hubs; what is near to q − m can be far from q. Named on 60 scenes of the demo by the
best 50 of q, of q − m/2 and of q − m: 56.0, 60.1 and 61.3 % (descriptions), 47.0, 49.2 and 47.3 % (the demo's bank).
"""
NEAREST = 10
"""Contexts of a layer whose mean similarity to a query says how near the query is to all of them."""


@dataclass(frozen=True, eq=False)
class CorrectedLook:
    """Scores contexts that queries of one visual layer found again, by a calibration.

    Attributes:
        calibration: holds the numbers.
        mode: which corrections are made.
        layer: the visual layer of the queries.
    """

    calibration: Calibration
    mode: Mode
    layer: int

    def searched(self, manifest: Manifest, vectors: Floats) -> Floats:
        """Return the queries less a part of the mean of visual tokens, made unit; for hubs alone, as they are.

        Raises:
            QueryError: means are to be corrected in a centred bank, which subtracts them already.
        """
        require_hubs(self.mode, manifest)
        if self.mode == "hubs":
            return vectors
        mean = rotate(self.calibration.references(self.layer).mean, manifest.rotation_seed)
        shifted, lengths = _shifted(vectors, mean)
        return np.where(lengths > 0, shifted / np.where(lengths > 0, lengths, 1), vectors)

    def scores(
        self, manifest: Manifest, layer: int, vectors: Floats, found: Sequence[Sequence[Hit]]
    ) -> tuple[Floats, Floats]:
        """Return the corrected scores of each query's contexts, and their cosines: float32 `[queries, contexts]`.

        Raises:
            QueryError: a context has no numbers.
        """
        counts = np.array([len(hits) for hits in found], dtype=np.intp)
        scores = np.full((len(found), counts.max(initial=0)), -np.inf, np.float32)
        if not scores.size:
            return scores, scores
        there = np.arange(scores.shape[1]) < counts[:, None]
        scores[there] = [hit.score for hits in found for hit in hits]
        kept = self.calibration.numbers(
            manifest, layer, self.layer, pack_ids([hit.id for hits in found for hit in hits])
        )
        if self.mode == "hubs":
            cosines = scores.copy()
            # Without g: plain cosines of the first and the last layers differ too much from the others'.
            column = HUBS if manifest.metric == "centred" else PLAIN_HUBS
            scores[there] = 2 * scores[there] - kept.numbers[:, column]
            return scores, cosines
        rows = np.nonzero(there)[0]
        centre = self.calibration.centre(manifest, layer, self.layer)
        _, lengths = _shifted(vectors, centre.mean)
        plain = scores[there]
        shifted = lengths[rows, 0] > 0
        plain[shifted] *= lengths[rows[shifted], 0]
        plain[shifted] += SHIFT * kept.numbers[shifted, ALONG]
        cosines = np.zeros_like(scores)
        cosines[there] = plain
        scores[there] = centre.centred(plain, rows, vectors, kept)
        if self.mode == "mean":
            return scores, cosines
        near = mean_of_best(scores[:, :DEPTH], NEAREST)
        hubs = np.zeros_like(scores)
        hubs[there] = kept.numbers[:, HUBS]
        corrected: Floats = 2 * scores - hubs - near[:, None]
        return corrected, cosines


@dataclass(frozen=True, eq=False)
class CorrectedLooks:
    """Scores contexts again, each query's by the look of its visual layer; a `bank.second_look.SecondLook`.

    Attributes:
        looks: one for each visual layer.
        owners: for each query, the place of its look: `[queries]`.
    """

    looks: Sequence[CorrectedLook]
    owners: npt.NDArray[np.intp]

    @property
    def depth(self) -> int:
        """How many contexts of each layer it looks at."""
        return DEPTH

    def of_rows(self, rows: Sequence[int]) -> CorrectedLooks:
        """Return the looks for some of the queries."""
        return CorrectedLooks(self.looks, self.owners[list(rows)])

    def searched(self, manifest: Manifest, vectors: Floats) -> Floats:
        """See `CorrectedLook`."""
        searched = np.empty_like(vectors)
        for look, rows in self._parts():
            searched[rows] = look.searched(manifest, vectors[rows])
        return searched

    def scores(
        self, manifest: Manifest, layer: int, vectors: Floats, found: Sequence[Sequence[Hit]]
    ) -> tuple[Floats, Floats]:
        """See `CorrectedLook`."""
        most = max(map(len, found), default=0)
        scores = np.full((len(found), most), -np.inf, np.float32)
        cosines = np.zeros_like(scores)
        for look, rows in self._parts():
            part, own = look.scores(manifest, layer, vectors[rows], [found[row] for row in rows])
            scores[rows, : part.shape[1]], cosines[rows, : own.shape[1]] = part, own
        return scores, cosines

    def _parts(self) -> Iterator[tuple[CorrectedLook, npt.NDArray[np.intp]]]:
        """Yield each look with its queries."""
        for place, look in enumerate(self.looks):
            rows = np.flatnonzero(self.owners == place)
            if len(rows):
                yield look, rows


def looks_of(looks: Sequence[CorrectedLook | None], counts: Sequence[int]) -> CorrectedLooks | None:
    """Return the look for queries of several parts, so many of each; None if they are not corrected."""
    known = [look for look in looks if look is not None]
    return CorrectedLooks(known, np.repeat(np.arange(len(counts)), counts)) if known else None


def require_hubs(mode: Mode, manifest: Manifest) -> None:
    """Check that a correction can be made in a bank: in a centred one, only that of hubs.

    Raises:
        QueryError: it cannot.
    """
    if manifest.metric == "centred" and mode != "hubs":
        raise QueryError(
            f"The bank '{manifest.bank}' is centred, so means are subtracted already: correct hubs alone.",
            argument="correct",
        )


def _shifted(vectors: Floats, mean: Floats) -> tuple[Floats, Floats]:
    """Return queries less a part of a rotated mean, and their lengths `[queries, 1]`; 0 where a query is that part."""
    shifted = vectors - SHIFT * mean
    lengths = np.linalg.norm(shifted, axis=1, keepdims=True)
    return shifted, np.where(lengths > _TINY, lengths, 0)


def mean_of_best(scores: Floats, count: int) -> Floats:
    """Return the mean of the `count` highest scores of each row, float32 `[rows]`.

    Minus infinity is no score; the mean is of all scores where there are fewer, and 0 where there is none.
    """
    best = -np.sort(-scores, axis=1)[:, :count]
    there = np.isfinite(best)
    sums = np.where(there, best, 0).sum(axis=1)
    means: Floats = (sums / np.maximum(there.sum(axis=1), 1)).astype(np.float32)
    return means
