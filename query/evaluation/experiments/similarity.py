"""How alike two sets of vectors of the same contexts are: shared nearest neighbors, and linear CKA.

The share of mutual nearest neighbors is that of "The Platonic Representation Hypothesis" (Huh et al., arXiv
2405.07987). CKA is that of "Similarity of Neural Network Representations Revisited" (Kornblith et al., arXiv
1905.00414) with the unbiased estimate of HSIC (Song et al., JMLR 13, 2012), which is near 0 for unrelated vectors
however many dimensions they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latentbank.query.evaluation.scoring import Share

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

GROUPS = 20
"""Groups of contexts that the jackknife leaves out in turn."""
_SCALE = 100_000  # cosines that differ by less than its inverse are ties, which the contexts' order breaks
_BLOCK = 512


def nearest(vectors: Floats, words: Ints, k: int) -> Ints:
    """Return the `k` nearest contexts of each by inner product, `[n, k]`, ascending; none of its own word.

    Args:
        vectors: `[n, hidden]`, of length 1.
        words: the number of each context's word, `[n]`.
        k: how many; less than the contexts of all other words.
    """
    count = len(vectors)
    order = np.arange(count - 1, -1, -1)
    found = np.empty((count, k), np.int64)
    for start in range(0, count, _BLOCK):
        rows = slice(start, start + _BLOCK)
        keys = (
            np.rint((vectors[rows] @ vectors.T).astype(np.float64) * _SCALE).astype(np.int64) * count + order
        )
        keys[words[rows, None] == words[None]] = np.iinfo(np.int64).min
        found[rows] = np.sort(np.argpartition(keys, count - k, axis=1)[:, count - k :], axis=1)
    return found


def shared(first: Ints, second: Ints) -> npt.NDArray[np.float64]:
    """Return for each context the share of its neighbors `[n, k]` that two sets have in common, `[n]`."""
    count, k = first.shape
    rows = np.arange(count)[:, None] * count
    common = np.intersect1d(rows + first, rows + second, assume_unique=True)
    shares: Doubles = np.bincount(common // count, minlength=count) / k
    return shares


@dataclass(frozen=True, eq=False)
class Features:
    """Vectors of contexts, made ready to be compared by CKA.

    The kernels `[n, n]` of all inner products are never made: with their diagonals left out, all that is needed of them
    are products of features and sums over rows.

    Attributes:
        vectors: `[n, hidden]` float32, less their mean.
        kept: which rows are left, for all rows and then without each group of the jackknife, bool `[n]` each.
        diagonal: the kernel's diagonal, `[n]`.
        sums: the kernel's sums over the rows that are left, without the diagonal; an array for each of `kept`.
    """

    vectors: Floats
    kept: Sequence[npt.NDArray[np.bool_]]
    diagonal: Doubles
    sums: Sequence[Doubles]

    @classmethod
    def of(cls, vectors: Floats, words: Ints) -> Features:
        """Return the features of vectors `[n, hidden]`; the contexts of a word are left out together.

        Args:
            vectors: the vectors.
            words: the number of each context's word, `[n]`.
        """
        centred = (vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32)
        diagonal = np.einsum("ij,ij->i", centred, centred, dtype=np.float64)
        everything = np.ones(len(centred), bool)
        kept = [everything, *(words % GROUPS != group for group in range(GROUPS))]
        totals = np.stack([centred[rows].sum(axis=0, dtype=np.float64) for rows in kept], axis=1)
        sums = (centred.astype(np.float64) @ totals) - diagonal[:, None]
        return cls(centred, kept, diagonal, [sums[rows, at] for at, rows in enumerate(kept)])

    @cached_property
    def own(self) -> Doubles:
        """The unbiased HSIC with themselves: of all rows, then without each group, `[1 + groups]`."""
        return _hsics(self, self)


def cka(first: Features, second: Features) -> Share:
    """Return linear CKA of the same contexts' vectors, with a 95 % interval by the jackknife over groups of words.

    Equal vectors have exactly 1.
    """
    count = len(first.vectors)
    if first.vectors.shape == second.vectors.shape and np.array_equal(first.vectors, second.vectors):
        return Share(1.0, 1.0, 1.0, count)
    both, own, other = _hsics(first, second), first.own, second.own
    with np.errstate(invalid="ignore", divide="ignore"):
        values = both / np.sqrt(np.maximum(own, 0) * np.maximum(other, 0))
    value, without = float(values[0]), values[1:]
    error = float(np.sqrt((GROUPS - 1) / GROUPS * np.sum((without - without.mean()) ** 2)))
    return Share(value, value - 1.96 * error, min(1.0, value + 1.96 * error), count)


def _hsics(first: Features, second: Features) -> Doubles:
    """Return the unbiased HSIC of linear kernels: of all rows, then without each group, `[1 + groups]`."""
    x, y = first.vectors, second.vectors
    cross = (x.T @ y).astype(np.float64)
    found = []
    for rows, sum_x, sum_y in zip(first.kept, first.sums, second.sums, strict=True):
        left, count = cross, len(sum_x)
        if not rows.all():
            left = cross - (x[~rows].T @ y[~rows]).astype(np.float64)
        trace = np.vdot(left, left) - first.diagonal[rows] @ second.diagonal[rows]
        sums = sum_x.sum() * sum_y.sum() / ((count - 1) * (count - 2))
        both = 2 / (count - 2) * (sum_x @ sum_y)
        found.append((trace + sums - both) / (count * (count - 3)))
    return np.array(found)
