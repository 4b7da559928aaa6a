"""The numbers that a corrected search needs of each context: computed from vectors once, then looked up by id.

Let q be a visual token, x the reference tokens of its layer, c a context of a bank layer, all of length 1 and rotated;
m the weighted mean of the x, and μ the mean of the layer's c. A prime means: less m (q, x) or μ (c), and made length 1.
With three numbers kept for each context, m·c, ‖c − μ‖ and h(c) = the mean of the k largest c′·x′, the corrected score

    2 q′·c′ − h(c) − g(q),   q′·c′ = (q·c − m·c − q·μ + m·μ) / (‖q − m‖ ‖c − μ‖)

needs the plain cosine q·c alone, which the search gives. h of the plain cosines is the fourth number, for the
correction of hubs alone. h and g make the score CSLS (Conneau et al., Word Translation Without Parallel Data, 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import rotate, rotated_units

if TYPE_CHECKING:
    from torch import Tensor

    from latentbank.query.calibration.references import ReferenceTokens

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint64]

ALONG, HUBS, PLAIN_HUBS = range(3)
"""The columns of a context's numbers for a visual layer: m·c, h(c) of the centred cosines, h(c) of the plain ones."""
_TINY = 1e-5  # lengths below are of vectors that equal their mean: they have no direction


@dataclass(frozen=True)
class Centre:
    """What queries of a visual layer need besides the numbers of contexts.

    Attributes:
        mean: m, rotated, float32 `[hidden]`.
        text_mean: μ, rotated, float32 `[hidden]`.
    """

    mean: Floats
    text_mean: Floats

    @property
    def product(self) -> float:
        """Return m·μ."""
        return float(self.mean.astype(np.float64) @ self.text_mean)

    def centred(self, cosines: Floats, rows: npt.NDArray[np.intp], vectors: Floats, kept: Kept) -> Floats:
        """Return q′·c′ for pairs of a query and a context, float32 `[pairs]`.

        Args:
            cosines: q·c, float32 `[pairs]`.
            rows: the row of each pair's query in `vectors`.
            vectors: the queries, rotated, float32 `[queries, hidden]`.
            kept: the numbers of the pairs' contexts.
        """
        lengths = np.linalg.norm(vectors - self.mean, axis=1)[rows] * kept.spread
        numerators = cosines - kept.numbers[:, ALONG] - (vectors @ self.text_mean)[rows] + self.product
        centred: Floats = np.divide(numerators, lengths, out=np.zeros_like(numerators), where=lengths > _TINY)
        return centred


@dataclass(frozen=True)
class Kept:
    """The numbers of some contexts: `spread`, ‖c − μ‖, float32 `[n]`, and `numbers`, float32 `[n, 3]`."""

    spread: Floats
    numbers: Floats


def spread_of(vectors: Floats, text_mean: Floats) -> Floats:
    """Return ‖c − μ‖ of contexts `[n, hidden]`, float32 `[n]`."""
    spread: Floats = np.linalg.norm(vectors - text_mean, axis=1).astype(np.float32)
    return spread


class Comparison:
    """Compares contexts of a bank layer with the reference tokens of a visual layer, a block at a time."""

    def __init__(self, tokens: ReferenceTokens, text_mean: Floats, seed: int, device: str = "cpu") -> None:
        """Prepare the tokens as queries are; `text_mean` is rotated, `device` is where matrices are multiplied."""
        import torch

        units, mean = rotated_units(tokens.states, seed), rotate(tokens.mean, seed)
        lengths = np.linalg.norm(units - mean, axis=1)
        inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > _TINY)
        self._nearest = min(tokens.nearest, len(units))
        self._units = torch.from_numpy(units).to(device).T.contiguous()
        self._mean = torch.from_numpy(mean).to(device)
        self._offsets = torch.from_numpy(units @ text_mean).to(device)
        self._inverse = torch.from_numpy(inverse).to(device)
        self._product = Centre(mean, text_mean).product

    def numbers(self, vectors: Tensor, spread: Tensor) -> Floats:
        """Return the numbers of contexts `[n, hidden]` with their ‖c − μ‖ `[n]`: float32 `[n, 3]`."""
        import torch

        with torch.inference_mode():
            along = vectors @ self._mean
            cosines = vectors @ self._units
            plain = self._mean_of_largest(cosines)
            # (c·x − x·μ − m·c + m·μ) / ‖x − m‖ in place; the length of c − μ is the same for all x.
            cosines -= self._offsets
            cosines -= (along - self._product)[:, None]
            cosines *= self._inverse
            centred = self._mean_of_largest(cosines)
            centred = torch.where(
                spread > _TINY, centred / spread.clamp(min=_TINY), torch.zeros_like(centred)
            )
            found: Floats = torch.stack([along, centred, plain], dim=1).cpu().numpy()
        return found

    def _mean_of_largest(self, numbers: Tensor) -> Tensor:
        return numbers.topk(self._nearest, dim=1, sorted=False).values.mean(1)


def pack_ids(ids: Sequence[str]) -> Ids:
    """Return UUIDs as the halves of 128-bit numbers, uint64 `[2, n]`: first the higher halves, then the lower ones."""
    raw = np.frombuffer(bytes.fromhex("".join(ids).replace("-", "")), dtype=">u8")
    return np.ascontiguousarray(raw.reshape(-1, 2).T.astype(np.uint64))


def places_of(wanted: Ids, table: Ids) -> npt.NDArray[np.intp]:
    """Return the place of each id `[2, n]` in a table of ids `[2, m]`, sorted; -1 where it is not there."""
    found = np.full(wanted.shape[1], -1, np.intp)
    if not table.shape[1]:
        return found
    # Of a large corpus, each table holds the ids of one range.
    pending = np.flatnonzero((wanted[0] >= table[0, 0]) & (wanted[0] <= table[0, -1]))
    places = np.zeros_like(found)
    places[pending] = np.searchsorted(table[0], wanted[0, pending])
    while len(pending):  # more than once only if two ids share their first half
        at = places[pending]
        inside = at < table.shape[1]
        pending, at = pending[inside], at[inside]
        same = table[0, at] == wanted[0, pending]
        pending, at = pending[same], at[same]
        equal = table[1, at] == wanted[1, pending]
        found[pending[equal]] = at[equal]
        pending = pending[~equal]
        places[pending] += 1
    return found
