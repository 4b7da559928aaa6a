"""Merging against a plain computation: sort everything, look at each key alone."""

from __future__ import annotations

from itertools import groupby
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from latentbank.bank.merge import Unique, merge
from latentbank.bank.points import Neighbor

# Few values of everything, so that cosines tie and contexts and words repeat.
neighbors = st.builds(
    Neighbor,
    word=st.sampled_from(["dog", "Dog", "cat", "STRASSE", "straße", ""]),
    token=st.just(" x"),
    cosine=st.sampled_from([-0.25, 0.0, 0.5, 0.5000001, 0.75, 1.0]),
    bank_layer=st.sampled_from([4, 8, 12]),
    id=st.sampled_from(["a", "b", "c", "d"]),
)
lists = st.lists(neighbors, max_size=25)


def order(n: Neighbor) -> tuple[float, int, str]:
    return -n.score, n.bank_layer, n.id


def word(n: Neighbor) -> str:
    return n.word.casefold()


def context(n: Neighbor) -> str:
    return n.id


def shown(found: list[Neighbor]) -> list[tuple[float, int, str]]:
    return [order(n) for n in found]


@settings(deadline=None, max_examples=200)
@given(lists, st.integers(1, 12))
def test_merging_sorts_and_cuts(given_ones: list[Neighbor], top_k: int) -> None:
    assert shown(merge(given_ones, top_k)) == sorted(map(order, given_ones))[:top_k]


@settings(deadline=None, max_examples=300)
@given(lists, st.integers(1, 12), st.sampled_from(["context", "word"]))
def test_unique_keeps_the_best_of_each(given_ones: list[Neighbor], top_k: int, unique: Unique) -> None:
    key = {"context": context, "word": word}[unique]
    groups = groupby(sorted(given_ones, key=key), key)
    best = sorted(min(order(n) for n in group) for _, group in groups)
    found = merge(given_ones, top_k, unique)
    assert shown(found) == best[:top_k]
    assert len({key(n) for n in found}) == len(found)


@settings(deadline=None, max_examples=50)
@given(lists, st.randoms(), st.sampled_from([None, "context"]))
def test_the_order_of_arrival_does_not_matter(
    given_ones: list[Neighbor], random: Random, unique: Unique
) -> None:
    mixed = list(given_ones)
    random.shuffle(mixed)
    assert shown(merge(mixed, 5, unique)) == shown(merge(given_ones, 5, unique))


def test_nothing_merges_to_nothing() -> None:
    assert merge([], 5) == []
    assert merge(iter([]), 5, "word") == []
