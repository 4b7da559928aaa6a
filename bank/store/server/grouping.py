"""Groups of points on a server: Qdrant's query groups."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from qdrant_client import models

from latentbank.bank.points import Hit, Payload
from latentbank.bank.store.grouping import Groups, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentbank.bank.store.base import Floats
    from latentbank.bank.store.server.client import Connection
    from latentbank.bank.where import Filter

# Groups of one request. The server looks for them in at most five searches, each for as many points as they hold.
_AT_ONCE = 100


def query_groups(
    server: Connection,
    collection: str,
    query: Floats,
    wanted: Groups,
    params: models.SearchParams,
    translated: Callable[[Filter | None], Any],
) -> list[list[Hit]]:
    """Return a collection's groups; see `Store.groups`.

    A server gives up after a few searches, also when its best points are all of a few groups. It is then asked for
    further groups, without those that it has returned: they can only be farther.

    Args:
        server: the connection.
        collection: its name.
        query: float32 `[hidden]`.
        wanted: the groups.
        params: how the server searches.
        translated: makes the server's conditions of a filter.
    """
    found: list[list[Hit]] = []
    while len(found) < wanted.count:
        known = [value_of(group[0], wanted.field) for group in found]
        ask = partial(
            server.rest.query_points_groups,
            collection,
            group_by=wanted.field,
            query=query.tolist(),
            query_filter=translated(wanted.others(known)),
            search_params=params,
            limit=min(_AT_ONCE, wanted.count - len(found)),
            group_size=wanted.size,
            with_payload=True,
        )
        groups = server.call(ask).groups
        if not groups:
            break
        found += [
            [Hit(str(point.id), point.score, cast("Payload", point.payload)) for point in group.hits]
            for group in groups
        ]
    return found
