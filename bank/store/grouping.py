"""The nearest points in groups, one for each value of a payload field, made of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from latentbank.bank.where import Filter, WhereImage

if TYPE_CHECKING:
    from latentbank.bank.points import Hit
    from latentbank.bank.store.base import Floats, Store

_MORE = 4  # times as many points are asked for when they were of too few groups


@dataclass(frozen=True)
class Groups:
    """Which groups are wanted.

    Attributes:
        field: an indexed payload field of visual tokens; points of the same value form a group.
        count: groups, at most.
        size: points of a group, at most.
        where: only points that this filter selects.
    """

    field: str
    count: int
    size: int
    where: Filter | None = None

    def only(self, values: Sequence[str]) -> Filter:
        """Return the filter, narrowed to the groups of some values."""
        chosen = self._selects(values)
        return chosen if self.where is None else self.where & chosen

    def others(self, values: Sequence[str]) -> Filter | None:
        """Return the filter without the groups of some values."""
        if not values:
            return self.where
        rest = ~self._selects(values)
        return rest if self.where is None else self.where & rest

    def _selects(self, values: Sequence[str]) -> Filter:
        given: dict[str, Any] = {self.field: tuple(values)}
        return WhereImage(**given)

    def of(self, hits: Sequence[Hit]) -> dict[str, list[Hit]]:
        """Return hits in their groups, in their order."""
        found: dict[str, list[Hit]] = {}
        for hit in hits:
            found.setdefault(value_of(hit, self.field), []).append(hit)
        return found


def value_of(hit: Hit, field: str) -> str:
    """Return a payload field of a hit as text."""
    return str(cast("dict[str, object]", hit.payload or {}).get(field, ""))


def grouped(
    store: Store, layer: int, query: Floats, wanted: Groups, exact: bool, ef: int | None
) -> list[list[Hit]]:
    """Return what `Store.groups` does for a store that can only search.

    It is asked for more and more points until they are of enough groups, then for the points that a group lacks.
    """
    limit = wanted.count * wanted.size
    while True:
        (hits,) = store.search(layer, query[None], limit, wanted.where, exact, ef=ef)
        found = wanted.of(hits)
        if len(found) >= wanted.count or len(hits) < limit:
            break
        limit *= _MORE
    best = dict(list(found.items())[: wanted.count])
    lacking = [value for value, own in best.items() if len(own) < wanted.size]
    if lacking and len(hits) == limit:
        filters = [wanted.only([value]) for value in lacking]
        rows = np.repeat(query[None], len(lacking), axis=0)
        best |= dict(zip(lacking, store.search(layer, rows, wanted.size, filters, exact, ef=ef), strict=True))
    return [own[: wanted.size] for own in best.values()]
