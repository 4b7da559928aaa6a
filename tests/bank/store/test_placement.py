"""Where copies of shards go when nodes join and leave."""

from __future__ import annotations

from collections import Counter

import pytest

from latentbank.bank.store.placement import Shard, Step, steps


def _shards(*replicas: set[int], collection: str = "c") -> list[Shard]:
    return [Shard(collection, number, dict.fromkeys(of, True)) for number, of in enumerate(replicas)]


def _after(shards: list[Shard], planned: list[Step]) -> list[set[int]]:
    """Return where the copies are after the steps; no step removes the last copy."""
    places = {(shard.collection, shard.number): set(shard.replicas) for shard in shards}
    for step in planned:
        of = places[step.collection, step.shard]
        if step.drop:
            of.remove(step.node)
            assert of
        else:
            assert step.node not in of
            of.add(step.node)
    return list(places.values())


def test_what_is_well_stays_as_it_is() -> None:
    assert steps(_shards({1, 2}, {2, 3}, {3, 1}), [1, 2, 3], 2) == []


def test_a_bank_of_one_node_gets_copies_on_the_others() -> None:
    assert steps(_shards({1}, {1}), [1, 2], 2) == [Step("c", 0, 2), Step("c", 1, 2)]
    # More copies than nodes are not possible.
    assert steps(_shards({1}), [1], 2) == []


def test_a_new_node_takes_its_share() -> None:
    shards = _shards({1, 2}, {2, 3}, {3, 1}, {1, 2}, {2, 3}, {3, 1})
    places = _after(shards, steps(shards, [1, 2, 3, 4], 2))
    assert all(len(of) == 2 for of in places)
    assert Counter(node for of in places for node in of) == {1: 3, 2: 3, 3: 3, 4: 3}


def test_a_leaving_node_is_emptied_and_nothing_loses_a_copy() -> None:
    shards = _shards({1, 2}, {2, 3}, {3, 1}, {1, 2}, {2, 3}, {3, 1})
    planned = steps(shards, [1, 2, 3, 4], 2, leaving=2)
    places = _after(shards, planned)
    assert all(len(of) == 2 and 2 not in of for of in places)
    load = Counter(node for of in places for node in of)
    assert max(load.values()) - min(load.values()) <= 1
    # In the place of each copy, another is made first.
    for step in planned:
        if step.drop and step.node == 2:
            assert planned.index(step) > planned.index(
                next(made for made in planned if made.shard == step.shard)
            )


def test_where_no_node_is_left_for_a_copy_there_are_fewer() -> None:
    shards = _shards({1, 2}, {1, 2})
    assert steps(shards, [1, 2], 2, leaving=2) == [Step("c", 0, 2, drop=True), Step("c", 1, 2, drop=True)]


def test_a_leaving_node_with_the_only_copy_gives_it_away_first() -> None:
    assert steps(_shards({2}), [1, 2], 1, leaving=2) == [Step("c", 0, 1), Step("c", 0, 2, drop=True)]


def test_what_a_killed_run_has_left_is_removed() -> None:
    # From the node that has most, but first a copy that cannot be read.
    assert steps(_shards({1, 2, 3}, {1, 2}, {1, 3}), [1, 2, 3], 2)[0] == Step("c", 0, 1, drop=True)
    shards = [Shard("c", 0, {1: True, 2: False, 3: True})]
    assert steps(shards, [1, 2, 3], 2) == [Step("c", 0, 2, drop=True)]


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("nodes", [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5]])
@pytest.mark.parametrize("leaving", [None, 2])
def test_a_second_look_finds_nothing_to_do(copies: int, nodes: list[int], leaving: int | None) -> None:
    shards = _shards({1}, {2}, {1, 2}, {1}, {1}, {2, 1}, {1})
    places = _after(shards, steps(shards, nodes, copies, leaving))
    assert leaving is None or not any(leaving in of for of in places)
    again = _shards(*places)
    assert steps(again, nodes, copies, leaving) == []
