"""Where copies of shards should lie on the nodes of a cluster, and the steps that lead there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shard:
    """A shard of a collection.

    Attributes:
        collection: the collection's name.
        number: the shard's number in it.
        replicas: whether the copy on a node can be read, by the node's number.
        copied_to: the nodes that a copy is on its way to.
    """

    collection: str
    number: int
    replicas: Mapping[int, bool]
    copied_to: frozenset[int] = field(default_factory=frozenset)

    @property
    def readable(self) -> list[int]:
        """The nodes whose copies can be read."""
        return sorted(node for node, active in self.replicas.items() if active)


@dataclass(frozen=True)
class Step:
    """One change: a copy of a shard is made on a node, or (`drop`) removed from it."""

    collection: str
    shard: int
    node: int
    drop: bool = False


def steps(
    shards: Sequence[Shard], nodes: Sequence[int], copies: int, leaving: int | None = None
) -> list[Step]:
    """Return the steps after which each shard has its copies, and all nodes about the same number of them.

    There are as many as `copies`, or as there are nodes. A copy is removed only after another was made in its place, or
    where there are enough others: what a killed run has left, or the leaving node's where every other node has one.

    Args:
        shards: all shards among which the nodes are shared out.
        nodes: the cluster's nodes.
        copies: number of copies of each shard.
        leaving: the node that shall have none.
    """
    staying = [node for node in nodes if node != leaving]
    places = [set(shard.replicas) for shard in shards]
    load = Counter(dict.fromkeys(nodes, 0))
    for place in places:
        load.update(place)
    found: list[Step] = []
    for shard, place in zip(shards, places, strict=True):
        wanted = min(copies, len(staying))
        while len(place - {leaving}) < wanted:
            node = min((node for node in staying if node not in place), key=lambda node: load[node])
            found.append(Step(shard.collection, shard.number, node))
            place.add(node)
            load[node] += 1
        dead = {node for node, active in shard.replicas.items() if not active}
        while len(place) > wanted or leaving in place:
            node = max(place, key=lambda node: (node == leaving, node in dead, load[node]))
            found.append(Step(shard.collection, shard.number, node, drop=True))
            place.remove(node)
            load[node] -= 1
    return [*found, *_levelled(shards, places, load, staying)]


def _levelled(
    shards: Sequence[Shard], places: Sequence[set[int]], load: Counter[int], nodes: Sequence[int]
) -> Iterator[Step]:
    """Yield steps that move copies to the nodes that have the fewest, until none has two more than another."""
    while True:
        fewest, most = (pick(nodes, key=lambda node: load[node]) for pick in (min, max))
        movable = (
            pair for pair in zip(shards, places, strict=True) if most in pair[1] and fewest not in pair[1]
        )
        if load[most] - load[fewest] < 2 or (pair := next(movable, None)) is None:
            return
        shard, place = pair
        yield Step(shard.collection, shard.number, fewest)
        yield Step(shard.collection, shard.number, most, drop=True)
        place.symmetric_difference_update({fewest, most})
        load.update({fewest: 1, most: -1})
