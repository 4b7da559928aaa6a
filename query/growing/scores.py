"""The score by which contexts are compared with visual tokens while a corpus grows.

Plain cosines would take hubs: contexts that are near to all visual tokens. The score is twice the cosine of centred
vectors, minus how near the context is to all visual tokens, minus how near the token is to the bank's contexts (CSLS,
Conneau et al. 2018). `query/calibration` has the same for reading; here the images' own tokens are the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit
from latentbank.query.calibration.references import mean_of_largest, nearest_of

Floats = npt.NDArray[np.float32]

NEAREST = 50
"""Contexts of each bank layer that are looked at, as a corrected reading does; of these it is the token's nearness."""
_ROWS = 4096  # contexts that are compared at once


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
        """Return how near centred contexts `[n, hidden]` are to all visual tokens, a mean of the largest: `[n]`."""
        count = nearest_of(len(self.reference))
        parts = [
            mean_of_largest(contexts[start : start + _ROWS] @ self.reference.T, count)
            for start in range(0, len(contexts), _ROWS)
        ]
        return np.concatenate([np.empty(0, np.float32), *parts])
