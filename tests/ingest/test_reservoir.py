"""Reservoirs: which prefixes stay, that order and repetitions change nothing, and how much memory they take."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from latentbank.ingest.reservoir import Reservoirs

# Prefixes of a few tokens, so that many repeat and one is often the beginning of another.
PREFIXES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), max_size=60)


def kept(prefixes: list[tuple[int, ...]], size: int, seed: int) -> set[tuple[int, ...]]:
    """Return the prefixes that stay in the reservoirs of their last tokens."""
    reservoirs = Reservoirs(size, seed)
    number = {prefix: list(reservoirs.numbers(prefix))[-1] for prefix in prefixes}
    for prefix in prefixes:
        assert reservoirs.offer(prefix[-1], number[prefix]) <= (number[prefix] in reservoirs.kept)
    return {prefix for prefix in prefixes if number[prefix] in reservoirs.kept}


@given(PREFIXES, st.integers(1, 5), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_lowest_numbers_stay_whatever_the_order(
    prefixes: list[tuple[int, ...]], size: int, seed: int, order: random.Random
) -> None:
    stay = kept(prefixes, size, seed)
    numbers = Reservoirs(size, seed).numbers
    for token in range(3):
        of_token = sorted({p for p in prefixes if p[-1] == token}, key=lambda p: list(numbers(p))[-1])
        assert {p for p in stay if p[-1] == token} == set(of_token[:size])
    shuffled = prefixes * 2
    order.shuffle(shuffled)
    assert kept(shuffled, size, seed) == stay


@given(PREFIXES)
def test_what_was_refused_or_left_never_comes_back(prefixes: list[tuple[int, ...]]) -> None:
    reservoirs = Reservoirs(2, 0)
    offered, gone = set[int](), set[int]()
    for prefix in prefixes * 2:
        number = list(reservoirs.numbers(prefix))[-1]
        assert reservoirs.offer(prefix[-1], number) == (number in reservoirs.kept - offered)
        offered.add(number)
        assert not gone & reservoirs.kept
        gone |= offered - reservoirs.kept


def test_each_prefix_stays_equally_often() -> None:
    """Of 12 prefixes 3 stay: over 4,000 seeds each of them about 1,000 times, and so does each pair about 182 times."""
    prefixes = [(i, 7) for i in range(12)]
    single, pairs = Counter[int](), Counter[tuple[int, int]]()
    for seed in range(4000):
        reservoirs = Reservoirs(3, seed)
        numbers = [list(reservoirs.numbers(prefix))[-1] for prefix in prefixes]
        for number in numbers + numbers[:6] * 5:  # half of them come six times
            reservoirs.offer("token", number)
        stay = [i for i, number in enumerate(numbers) if number in reservoirs.kept]
        single.update(stay)
        pairs.update((a, b) for a in stay for b in stay if a < b)
    assert all(abs(single[i] - 1000) < 150 for i in range(12))  # five standard deviations: 137
    assert len(pairs) == 66
    assert all(abs(count - 4000 * 6 / 132) < 70 for count in pairs.values())


def test_memory_is_bounded() -> None:
    reservoirs, numbers = Reservoirs(20, 0), random.Random(0)
    tracemalloc.start()
    try:
        for i in range(60_000):
            reservoirs.offer(i % 1000, numbers.getrandbits(128))
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(reservoirs.kept) == 20 * 1000
    assert used < 220 * 20 * 1000
