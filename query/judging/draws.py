"""The statistics of agreement in all bootstrap draws at once, from counts of each image.

What `agreement._statistics` computes of pairs and items with the libraries' functions, this computes of sums, for
hundreds of draws in one product of matrices. Tests hold both against each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MAJORITY = 0.5
"""From this share of yes on, the people's verdict is yes."""
_SEED = 0


def drawn_weights(images: int, draws: int) -> Floats:
    """Return how often each image is in each draw of as many images, `[draws, images]`."""
    random = np.random.default_rng(_SEED)
    return random.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)


def drawn_statistics(
    weights: Floats,
    image_of_pair: npt.NDArray[np.int64],
    shares: Floats,
    votes: npt.NDArray[np.bool_],
    image_of_item: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> dict[str, Floats]:
    """Return accuracy, kappa, rho and alpha of each draw, `[draws]`; NaN where one is not defined.

    Args:
        weights: from `drawn_weights`.
        image_of_pair: `[pairs]`, the number of each pair's image.
        shares: `[pairs]`, the share of yes that is compared.
        votes: `[pairs]`, the vote that it is compared with.
        image_of_item: `[items]`, the number of each item's image.
        counts: `[items, 2]`, how often no and yes were given to an item.
    """
    levels, level = np.unique(shares, return_inverse=True)
    table = np.zeros((weights.shape[1], len(levels), 2))
    np.add.at(table, (image_of_pair, level, votes.astype(int)), 1)
    pairs = np.einsum("di,ilv->dlv", weights, table)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, kappa = _accuracy_and_kappa(pairs, levels >= MAJORITY)
        alpha = _alpha(weights, image_of_item, counts)
        return {"accuracy": accuracy, "kappa": kappa, "spearman": _rho(pairs), "alpha": alpha}


def _accuracy_and_kappa(pairs: Floats, verdicts: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return both from the number of pairs by level of the share and vote, `[draws, levels, 2]`."""
    count = pairs.sum(axis=(1, 2))
    accuracy = (pairs[:, verdicts, 1].sum(axis=1) + pairs[:, ~verdicts, 0].sum(axis=1)) / count
    yes, other = pairs[:, verdicts].sum(axis=(1, 2)) / count, pairs[:, :, 1].sum(axis=1) / count
    chance = yes * other + (1 - yes) * (1 - other)
    return accuracy, np.where(chance < 1, (accuracy - chance) / (1 - chance), np.nan)


def _rho(pairs: Floats) -> Floats:
    """Return Spearman's rho: the correlation of the mean ranks of levels and of votes."""
    by_level, by_vote = pairs.sum(axis=2), pairs.sum(axis=1)
    ranks, others = _ranks(by_level), _ranks(by_vote)
    count = by_level.sum(axis=1, keepdims=True)
    ranks, others = ranks - (count + 1) / 2, others - (count + 1) / 2  # the mean of all ranks
    together = np.einsum("dl,dlv,dv->d", ranks, pairs, others)
    spread = (by_level * ranks**2).sum(axis=1) * (by_vote * others**2).sum(axis=1)
    return np.where(spread > 0, together / np.sqrt(spread), np.nan)


def _ranks(counts: Floats) -> Floats:
    """Return the mean rank of each value, from 1, of how often each was drawn."""
    return counts.cumsum(axis=1) - (counts - 1) / 2


def _alpha(weights: Floats, image_of_item: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Floats:
    """Return Krippendorff's nominal alpha of two values: 1 less the disagreement observed, by that expected."""
    no, yes = counts.T.astype(np.float64)
    differ = 2 * no * yes / (no + yes - 1)
    sums = np.zeros((weights.shape[1], 3))
    np.add.at(sums, image_of_item, np.stack([no, yes, differ], axis=1))
    no, yes, differ = (weights @ sums).T
    return np.where(no * yes > 0, 1 - differ * (no + yes - 1) / (2 * no * yes), np.nan)
