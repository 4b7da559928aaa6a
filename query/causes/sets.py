"""Sets of visual tokens that are compared: those that show a word, as many at random, and as many as near."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentbank.query.evaluation.scoring import names

if TYPE_CHECKING:
    from latentbank.bank.points import Neighbor

NEAREST = 3
"""Tokens of the nearest score, of which one is drawn for each token of a set."""


def showing(neighbors: Sequence[Sequence[Neighbor]], word: str) -> list[int]:
    """Return the tokens one of whose neighbors names a word (`scoring.names`)."""
    return [
        number
        for number, found in enumerate(neighbors)
        if any(names(neighbor.word, word) for neighbor in found)
    ]


def random_sets(count: int, among: Sequence[int], draws: int, chance: np.random.Generator) -> list[list[int]]:
    """Return sets of `count` tokens drawn from `among` without replacement; none if there are too few."""
    if not 0 < count <= len(among):
        return []
    return [sorted(chance.choice(np.array(among), count, replace=False).tolist()) for _ in range(draws)]


def near_sets(
    chosen: Sequence[int],
    among: Sequence[int],
    scores: Sequence[float],
    draws: int,
    chance: np.random.Generator,
) -> list[list[int]]:
    """Return sets of tokens that are as near to their own best neighbor as the chosen tokens to theirs.

    For each chosen token, in random order, one of the `NEAREST` tokens of `among` is drawn whose best score differs
    least from its best score; no token is drawn twice in a set.

    Args:
        chosen: the tokens to be matched.
        among: the tokens that may be drawn.
        scores: the score of the best neighbor of each of the image's tokens; NaN: it has none.
        draws: number of sets.
        chance: where chance comes from.

    Returns:
        No set if there are too few tokens with a score.
    """
    able = [number for number in among if not np.isnan(scores[number])]
    if not 0 < len(chosen) <= len(able):
        return []
    sets = []
    for _ in range(draws):
        left, drawn = list(able), []
        for number in chance.permutation(np.array(chosen)).tolist():
            apart = np.abs(np.array([scores[other] for other in left]) - scores[number])
            nearest = np.argsort(apart, kind="stable")[: min(NEAREST, len(left))]
            drawn.append(left.pop(int(chance.choice(nearest))))
        sets.append(sorted(drawn))
    return sets


def best_scores(neighbors: Sequence[Sequence[Neighbor]]) -> list[float]:
    """Return the score of each token's best neighbor; NaN for a token without neighbors."""
    return [found[0].score if found else float("nan") for found in neighbors]
