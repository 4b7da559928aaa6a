"""The nearest points in groups, one for each value of a payload field: a server's own answer, or made of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

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
    """

    field: str
    count: int
    size: int

    def only(self, values: Sequence[str], where: Filter | None) -> Filter:
        """Return a filter, narrowed to the groups of some values."""
        chosen = self._selects(values)
        return chosen if where is None else where & chosen

    def others(self, values: Sequence[str], where: Filter | None) -> Filter | None:
        """Return a filter without the groups of some values."""
        if not values:
            return where
        rest = ~self._selects(values)
        return rest if where is None else where & rest

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


@runtime_checkable
class GroupingStore(Protocol):
    """A store that forms groups itself."""

    def groups(
        self,
        layer: int,
        query: Floats,
        wanted: Groups,
        where: Filter | None = None,
        exact: bool = False,
        ef: int | None = None,
    ) -> list[list[Hit]]:
        """Return the groups whose best points are nearest, nearest first; see `nearest_groups`."""


def nearest_groups(
    store: Store,
    layer: int,
    query: Floats,
    wanted: Groups,
    where: Filter | None = None,
    exact: bool = False,
    ef: int | None = None,
) -> list[list[Hit]]:
    """Return the groups whose best points are nearest to a query, nearest first, each with its own nearest points.

    A server forms them itself (Qdrant's query groups). The embedded engine has no groups: it is asked for more and more
    points until they are of enough groups, then for the points that a group lacks. Both give the same answer.

    Args:
        store: of visual tokens.
        layer: the visual layer.
        query: rotated, of length 1, float32 `[hidden]`.
        wanted: by which field, how many groups, and of how many points.
        where: only points that this filter selects.
        exact: compare with every point.
        ef: candidates examined in a graph.
    """
    if isinstance(store, GroupingStore):
        return store.groups(layer, query, wanted, where, exact, ef)
    limit = wanted.count * wanted.size
    while True:
        (hits,) = store.search(layer, query[None], limit, where, exact, ef=ef)
        found = wanted.of(hits)
        if len(found) >= wanted.count or len(hits) < limit:
            break
        limit *= _MORE
    best = dict(list(found.items())[: wanted.count])
    lacking = [value for value, own in best.items() if len(own) < wanted.size]
    if lacking and len(hits) == limit:
        filters = [wanted.only([value], where) for value in lacking]
        rows = np.repeat(query[None], len(lacking), axis=0)
        best |= dict(zip(lacking, store.search(layer, rows, wanted.size, filters, exact, ef=ef), strict=True))
    return [own[: wanted.size] for own in best.values()]
