"""p-values against measured nulls, and which of them are significant."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.errors import QueryError
from latentbank.values import real

Doubles = npt.NDArray[np.float64]


def p_values(evidence: npt.ArrayLike, nulls: npt.ArrayLike) -> Doubles:
    """Return the p-value of each number: how probable it is that a null is as large.

    It is (1 + the number of nulls at least as large) / (1 + the number of nulls), which is never 0 (Phipson and Smyth,
    Permutation P-values Should Never Be Zero, 2010).

    Args:
        evidence: `[n]`; the larger, the more it says.
        nulls: `[nulls]`, the same measured where there is nothing to see.
    """
    ordered = np.sort(np.asarray(nulls, dtype=np.float64))
    below = np.searchsorted(ordered, np.asarray(evidence, dtype=np.float64), side="left")
    found: Doubles = (1 + len(ordered) - below) / (1 + len(ordered))
    return found


def significant(values: npt.ArrayLike, fdr: float) -> npt.NDArray[np.bool_]:
    """Return which p-values are significant, so that at most the share `fdr` of these is expected to be false.

    The p-values of n tests, ascending, are compared with fdr/n, 2 fdr/n, ...; all up to the last one that is not above
    its limit are significant (Benjamini and Hochberg, Controlling the False Discovery Rate, 1995).

    Args:
        values: p-values `[n]`.
        fdr: from 0 to 1.
    """
    given = np.asarray(values, dtype=np.float64)
    count = len(given)
    ordered = np.sort(given)
    passed = np.flatnonzero(ordered <= fdr * np.arange(1, count + 1) / max(count, 1))
    if not len(passed):
        return np.zeros(count, np.bool_)
    kept: npt.NDArray[np.bool_] = given <= ordered[passed[-1]]
    return kept


def checked_fdr(fdr: Any) -> float:
    """Return the largest share of the words given that may be false, as a number above 0 and below 1.

    Raises:
        QueryError: it is not one.
    """
    level = real(fdr, "fdr", 0, 1)
    if not 0 < level < 1:
        raise QueryError(f"fdr is {fdr}; it must be above 0 and below 1, such as 0.05.", argument="fdr")
    return level
