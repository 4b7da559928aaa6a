"""Exact scans of an embedded bank's layers: products of queries with the original vectors, without the engine.

The vectors are those of the engine's own files (see `originals`), which are mapped: nothing is stored a second time. A
layer is scanned only while its files hold what the engine answers with. If something was written and not committed, or
the files look otherwise than they should, `scan` returns None, and the engine searches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import qdrant_edge as edge

from latentbank.bank.points import Hit
from latentbank.bank.scan import Precision, Scan, nearest, take
from latentbank.bank.store.base import Floats
from latentbank.bank.store.captions import Ids
from latentbank.bank.store.embedded.layers import Layers
from latentbank.bank.store.embedded.originals import Part, UnknownLayout, byte_ids, read_parts, text_ids
from latentbank.bank.where import Filter

Rows = npt.NDArray[np.intp]

# Filters whose contexts are kept for the next search, and those that are remembered with how many they select.
_KEPT, _COUNTED = 8, 1000
# Times as many contexts are looked at as are wanted, if the filter comes last, and again where they were too few;
# unless that is more than so many queries, and more than one in so many.
_DEEPER, _FEW = 8, 8
# Contexts of each part whose vectors are compared with the engine's when a layer is read.
_SAMPLE = 3


@dataclass(frozen=True, eq=False)
class Originals:
    """A layer's vectors, as they were after its last change.

    Attributes:
        change: how often the layer had been changed.
        parts: the vectors.
        filters: rows of each part by filter.
        counts: how many contexts filters select.
    """

    change: int
    parts: list[Part]
    filters: dict[str, list[Rows]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def alive(self) -> list[Rows | None]:
        """The rows of each part that are contexts; None: all of them."""
        return [None if part.alive.all() else np.flatnonzero(part.alive) for part in self.parts]

    @cached_property
    def count(self) -> int:
        """How many contexts there are."""
        return sum(int(part.alive.sum()) for part in self.parts)

    def counted(self, where: Filter, count: Callable[[], int]) -> int:
        """Return how many contexts a filter selects, as `count` counts them, which takes 0.3 µs each."""
        key = repr(where)
        if key not in self.counts:
            if len(self.counts) >= _COUNTED:
                self.counts.clear()
            self.counts[key] = count()
        return self.counts[key]

    @cached_property
    def _sorted(self) -> list[Rows]:
        return [np.argsort(part.ids) for part in self.parts]

    def rows_of(self, ids: list[str]) -> list[Rows]:
        """Return the rows of each part whose contexts have one of some ids, ascending."""
        wanted = np.sort(byte_ids(ids))
        found = []
        for part, order in zip(self.parts, self._sorted, strict=True):
            own = part.ids[order]
            at = np.minimum(np.searchsorted(own, wanted), len(own) - 1)
            rows = order[at[own[at] == wanted]]
            found.append(np.sort(rows[part.alive[rows]]))
        return found


class Scanner:
    """Scans the layers of one version of an embedded bank."""

    def __init__(
        self,
        layers: Layers,
        select: Callable[[int, Filter], Iterator[str]],
        is_committed: Callable[[int], bool],
    ) -> None:
        """Scan `layers`.

        Args:
            layers: the layers.
            select: returns the ids of the contexts of a layer that a filter selects.
            is_committed: whether everything that was written to a layer is in its files.
        """
        self._layers = layers
        self._select = select
        self._is_committed = is_committed
        self._read: dict[int, Originals] = {}
        self._unreadable: dict[int, int] = {}  # changes at which a layer could not be read
        self._guard = threading.Lock()

    def scan(
        self, layer: int, queries: Floats, limit: int, where: Filter | None, how: Scan
    ) -> list[list[Hit]] | None:
        """See `latentbank.bank.store.base.Store.scan`."""
        originals = self.originals(layer, queries.shape[1])
        if originals is None:
            return None
        if where is not None and how.filter_last and repr(where) not in originals.filters:
            return self._filter_last(layer, originals, queries, limit, where, how.precision)
        chosen = originals.alive if where is None else self._selected(layer, originals, where)
        return _hits(originals, chosen, queries, limit, how.precision)

    def _filter_last(
        self,
        layer: int,
        originals: Originals,
        queries: Floats,
        limit: int,
        where: Filter,
        precision: Precision,
    ) -> list[list[Hit]]:
        """Return what a filter selects of each query's nearest points, and look deeper where that is not enough."""
        kept: list[list[Hit]] = [[] for _ in queries]
        left, depth = list(range(len(queries))), _DEEPER * limit
        while left:
            found = _hits(originals, originals.alive, queries[left], depth, precision)
            ids = frozenset(hit.id for hits in found for hit in hits)
            selected = set(self._select(layer, where & Ids(ids)))
            short = []
            for row, hits in zip(left, found, strict=True):
                kept[row] = [hit for hit in hits if hit.id in selected][:limit]
                if len(kept[row]) < limit and len(hits) == depth:
                    short.append(row)
            left, depth = short, depth * _DEEPER
            if len(left) > max(_FEW, len(queries) // _FEW):  # what is near is not what the filter selects
                rows = self._selected(layer, originals, where)
                for row, hits in zip(
                    left, _hits(originals, rows, queries[left], limit, precision), strict=True
                ):
                    kept[row] = hits
                return kept
        return kept

    def originals(self, layer: int, hidden_size: int) -> Originals | None:
        """Return a layer's vectors; None: they cannot be read now."""
        change = self._layers.changes(layer)
        known = self._read.get(layer)
        if known is not None and known.change == change:
            return known
        # Whoever writes to the layer, or indexes it, holds this.
        if self._unreadable.get(layer) == change or not self._layers.writing.acquire(blocking=False):
            return None
        try:
            # In this block the layer is not handed over to another process that writes to it.
            with self._layers.use(layer) as shard:
                if not self._is_committed(layer):
                    return None
                change = self._layers.changes(layer)
                try:
                    found = Originals(change, read_parts(self._layers.loaded(layer), hidden_size))
                    self._check(found, shard)
                except UnknownLayout:
                    self._unreadable[layer] = change
                    return None
            self._read[layer] = found
            return found
        finally:
            self._layers.writing.release()

    def _check(self, found: Originals, shard: edge.EdgeShard) -> None:
        """Raise UnknownLayout unless the engine counts as many contexts, and some of them have the same vectors."""
        if found.count != shard.count(edge.CountRequest()):
            raise UnknownLayout("another number of contexts")
        for part in found.parts:
            rows = np.flatnonzero(part.alive)
            if not len(rows):
                continue
            some = rows[np.linspace(0, len(rows) - 1, _SAMPLE).astype(int)]
            ids = text_ids(part.ids[some])
            points = shard.retrieve(list[Any](ids), with_payload=False, with_vector=True)
            stored = {str(point.id): point.vector for point in points}
            if not all(
                id_ in stored and np.array_equal(np.asarray(stored[id_], np.float16), part.vectors[row])
                for id_, row in zip(ids, some, strict=True)
            ):
                raise UnknownLayout("other vectors")

    def _selected(self, layer: int, originals: Originals, where: Filter) -> list[Rows]:
        key = repr(where)
        rows = originals.filters.get(key)
        if rows is None:
            rows = originals.rows_of(list(self._select(layer, where)))
            with self._guard:
                while len(originals.filters) >= _KEPT:
                    del originals.filters[next(iter(originals.filters))]
                originals.filters[key] = rows
        return rows


def _hits(
    originals: Originals,
    chosen: Sequence[Rows | None],
    queries: Floats,
    limit: int,
    precision: Precision,
) -> list[list[Hit]]:
    """Return the nearest of the chosen rows of each part."""
    if not originals.parts:  # all contexts were deleted, and the layer was indexed since
        return [[] for _ in queries]
    scores, rows = nearest([part.vectors for part in originals.parts], chosen, queries, limit, precision)
    found = rows >= 0
    distinct, places = np.unique(rows[found], return_inverse=True)
    names = np.array(text_ids(take([part.ids for part in originals.parts], distinct)), object)[places]
    ends = np.cumsum(found.sum(axis=1))
    # As Hit(id, score, None), in half the time: for one picture a correction asks for ten thousand of them.
    fields = zip(names.tolist(), scores[found].tolist(), repeat(None))
    hits: list[Hit] = list(map(partial(tuple.__new__, Hit), fields))
    return [hits[end - int(row.sum()) : end] for end, row in zip(ends.tolist(), found, strict=True)]
