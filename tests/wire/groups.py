"""The server's query groups, made of the engine's searches as the server makes them.

As in Qdrant 1.18 (lib/collection/src/grouping): at most five searches for groups, each for as many points as all groups
hold, without the groups that are full and the points that are known; then at most five for what the best groups lack.
"""

from collections.abc import Callable, Sequence
from typing import Any

from qdrant_client.http import models as m

_COLLECT = _FILL = 5


def query_groups(
    given: m.QueryGroupsRequest, search: Callable[[m.QueryRequest], Sequence[m.ScoredPoint]]
) -> m.GroupsResult:
    """Return the groups of a request; `search` answers a search with payloads."""
    field, count = given.group_by, 3 if given.limit is None else given.limit
    size = 3 if given.group_size is None else given.group_size
    groups: dict[Any, list[m.ScoredPoint]] = {}

    def best() -> list[Any]:
        return sorted(groups, key=lambda key: -groups[key][0].score)[:count]

    def full(keys: Sequence[Any]) -> list[Any]:
        return [key for key in keys if len(groups[key]) >= size]

    def add(condition: list[Any]) -> bool:
        known: list[Any] = [point.id for own in groups.values() for point in own]
        must_not: list[Any] = [m.IsEmptyCondition(is_empty=m.PayloadField(key=field))]
        if known:
            must_not.append(m.HasIdCondition(has_id=known))
        asked = [given.filter] if given.filter else []
        found = search(
            m.QueryRequest(
                query=given.query,
                filter=m.Filter(must=[*asked, *condition], must_not=must_not),
                params=given.params,
                limit=count * size,
                with_payload=True,
            )
        )
        for point in found:
            groups.setdefault((point.payload or {})[field], []).append(point)
        return bool(found) and len(full(best())) < count

    for _ in range(_COLLECT):
        others = full(list(groups))
        condition = [m.FieldCondition(key=field, match=m.MatchExcept(**{"except": others}))] if others else []
        if not add(condition):
            break
    for _ in range(_FILL):
        lacking = [key for key in best() if len(groups[key]) < size]
        if not lacking or not add([m.FieldCondition(key=field, match=m.MatchAny(any=lacking))]):
            break
    return m.GroupsResult.model_construct(
        groups=[m.PointGroup.model_construct(id=key, hits=groups[key][:size]) for key in best()]
    )
