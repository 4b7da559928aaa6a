"""Which visual tokens fall silent in a bank, as those that may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.query.calibration.correction import Correction
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.silence.significance import significant

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.where import Filter
    from latentbank.query.silence.silence import Silence

_ROWS = 512  # tokens that are read at once


def p_values(
    lens: LatentLens, silence: Silence, layer: int, states: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the p-value of each visual token `[tokens, hidden]` of a layer; 1 for one without neighbors."""
    found: list[float] = []
    for start in range(0, len(states), _ROWS):
        queries = Queries(states[start : start + _ROWS], layer, "visual")
        values = silence.p_values(lens, queries, lens.read(queries, 1))
        found += [1.0 if value is None else value for value in values]
    return np.array(found)


def silent_tokens(
    bank: Bank,
    silence: Silence,
    layer: int,
    states: npt.NDArray[np.float32],
    images: npt.NDArray[np.int64],
    bank_layers: Sequence[int],
    where: Filter | None,
) -> npt.NDArray[np.bool_]:
    """Return which visual tokens a corrected LatentLens leaves silent, bool `[tokens]`.

    Args:
        bank: the bank; its calibration must have all contexts that count.
        silence: when a token falls silent.
        layer: the visual layer.
        states: the tokens' hidden states, float32 `[tokens, hidden]`.
        images: the number of each token's image: Benjamini and Hochberg's procedure is for those of one image.
        bank_layers: the bank layers that are searched.
        where: the contexts that count.

    Raises:
        QueryError: the visual layer, or a context, is not calibrated.
    """
    lens = LatentLens(bank, tuple(bank_layers), where, correction=Correction(silence.calibration))
    values = p_values(lens, silence, layer, states)
    silent = np.ones(len(states), np.bool_)
    for image in np.unique(images):
        own = images == image
        silent[own] = ~significant(values[own], silence.fdr)
    return silent
