"""What a graph hides that a server has continued.

A server adds new points to the graph that a segment has, unless `m` or `ef_construct` have changed. A search with a
filter then finds few of these points or none, if the filter selects too much to be scanned (1.18.2: 0.02 to 0.7 of the
five nearest of 576 dimensions). Here it finds none.
"""

from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as m

_ALL = 1 << 30


class Graph:
    """The graph of one collection; the collection's lock guards it."""

    def __init__(self) -> None:
        """Start without a graph."""
        self._settings: tuple[int, int] | None = None
        self._first: set[Any] = set()
        self._added: set[Any] = set()

    def optimized(self, shard: edge.EdgeShard, config: m.HnswConfig) -> None:
        """Note what the graph has now, built anew or continued."""
        settings = config.m, config.ef_construct
        found, _ = shard.scroll(edge.ScrollRequest(limit=_ALL)) if config.m else ([], None)
        ids = {record.id for record in found}
        if settings != self._settings:
            self._settings, self._first = settings, ids
        self._added = ids - self._first

    def seen(self, shard: edge.EdgeShard, chosen: edge.Filter | None, limit: int) -> edge.Filter | None:
        """Return a filter without the points that a search does not find; up to `limit` selected points are scanned."""
        if chosen is None or not self._added:
            return chosen
        if shard.count(edge.CountRequest(exact=True, filter=chosen)) <= limit:
            return chosen
        return edge.Filter(must=[chosen], must_not=[edge.HasIdCondition(self._added)])
