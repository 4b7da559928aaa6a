"""The score by which contexts are compared with visual tokens while a corpus grows.

Plain cosines would take hubs: contexts that are near to all visual tokens. The score is twice the cosine of centred
vectors, minus how near the context is to all visual tokens, minus how near the token is to the bank's contexts (CSLS,
Conneau et al. 2018), with the images' own tokens as the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit

Floats = npt.NDArray[np.float32]

NEAREST = 50
"""Neighbors whose mean cosine says how near a vector is to all others."""
_ROWS = 4096  # vectors that are compared at once
_DENSE = 4000  # tokens among which density is measured


def mean_of_largest(left: Floats, right: Floats, count: int = NEAREST) -> Floats:
    """Return for each row of `left` `[n, hidden]` the mean of its largest products with rows of `right`: `[n]`."""
    count = min(count, len(right))
    found = np.empty(len(left), np.float32)
    for start in range(0, len(left), _ROWS):
        products = left[start : start + _ROWS] @ right.T
        found[start : start + _ROWS] = np.partition(products, -count, axis=1)[:, -count:].mean(axis=1)
    return found


def thin_mean(tokens: Floats) -> Floats:
    """Return the mean of unit vectors `[n, hidden]`, each weighted by how few others are near: float32 `[hidden]`.

    The weight is (1 - mean cosine to the 50 nearest)². Most tokens of images show background, and the mean of all
    would be the background's.
    """
    spread = tokens[np.linspace(0, len(tokens) - 1, min(len(tokens), _DENSE)).astype(int)]
    weights = (1 - mean_of_largest(spread, spread)).astype(np.float64) ** 2
    if not weights.sum():  # all tokens are the same
        weights[:] = 1.0
    return (weights @ spread / weights.sum()).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Space:
    """The visual tokens of one visual layer, among which contexts are compared.

    Attributes:
        mean: the mean of visual tokens, which is subtracted from them, float32 `[hidden]`.
        reference: centred unit vectors of visual tokens, float32 `[n, hidden]`.
        text: by bank layer the mean of its unit vectors, which is subtracted from contexts, float32 `[hidden]`.
    """

    mean: Floats
    reference: Floats
    text: dict[int, Floats]

    def queries(self, states: Floats) -> Floats:
        """Return hidden states of visual tokens `[n, hidden]` as centred unit vectors."""
        return unit(unit(states) - self.mean)

    def contexts(self, states: Floats, layer: int) -> Floats:
        """Return hidden states of contexts `[n, hidden]` of a bank layer as centred unit vectors."""
        return unit(unit(states) - self.text[layer])

    def hubness(self, contexts: Floats) -> Floats:
        """Return how near centred contexts `[n, hidden]` are to all visual tokens: `[n]`."""
        return mean_of_largest(contexts, self.reference)
