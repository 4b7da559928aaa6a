"""Evidence: how much a lens's best neighbor says of a visual token, as one number that can be compared with nulls.

The plain cosine is a bad one: hubs, contexts that are near to everything, reach the highest cosines where there is
nothing to see. So LatentLens is judged by 2 q′·c′ − h(c) of its best neighbor c, however that one was ranked: how near
the token q is to it, less how near the reference tokens get to it (`query.calibration.numbers` has the formula). Other
lenses are judged by the score that they rank by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.search import prepare
from latentbank.query.calibration.numbers import HUBS, pack_ids

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.points import Neighbor
    from latentbank.query.calibration.calibration import Calibration
    from latentbank.query.lenses.base import Lens, Queries

Doubles = npt.NDArray[np.float64]


def evidence_of(
    lens: Lens, calibration: Calibration, queries: Queries, found: Sequence[Sequence[Neighbor]]
) -> Doubles:
    """Return what the best neighbor of each visual token says of it, `[tokens]`; NaN for a token without neighbors.

    Args:
        lens: the lens that found the neighbors.
        calibration: of the VLM for the lens's bank.
        queries: the visual tokens of one layer.
        found: the neighbors of each, best first.

    Raises:
        QueryError: the visual layer is not calibrated, or a context has no numbers.
    """
    best = [neighbors[0] if neighbors else None for neighbors in found]
    if lens.bank is not None:
        return _margins(lens.bank, calibration, queries, best)
    return np.array([math.nan if one is None else one.score for one in best], dtype=np.float64)


def _margins(
    bank: Bank, calibration: Calibration, queries: Queries, best: Sequence[Neighbor | None]
) -> Doubles:
    """Return 2 q′·c′ − h(c) of each query and its neighbor."""
    manifest, layer = bank.manifest, calibration.require_layer(queries.layer)
    vectors = prepare(queries.states, "queries", manifest.hidden_size, manifest.rotation_seed)
    margins = np.full(len(best), math.nan)
    for bank_layer in sorted({one.bank_layer for one in best if one is not None}):
        rows = [row for row, one in enumerate(best) if one is not None and one.bank_layer == bank_layer]
        inside = [one for one in best if one is not None and one.bank_layer == bank_layer]
        kept = calibration.numbers(manifest, bank_layer, layer, pack_ids([one.id for one in inside]))
        cosines = np.array([one.cosine for one in inside], dtype=np.float32)
        centre = calibration.centre(manifest, bank_layer, layer)
        if manifest.metric == "centred":
            near = cosines  # of centred vectors already
        else:
            near = centre.centred(cosines, np.asarray(rows, dtype=np.intp), vectors, kept)
        margins[rows] = 2 * near - kept.numbers[:, HUBS]
    return margins
