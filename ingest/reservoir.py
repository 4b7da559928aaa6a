"""Reservoirs: from each of many streams of prefixes, a random sample of a fixed size.

Every prefix has a random number of its own, a hash of the seed and its token ids, and a reservoir keeps the prefixes
with the lowest numbers (bottom-k sampling). So every set of distinct prefixes is equally likely to stay, however often
and in whatever order they come, and a seed keeps the same ones on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Sequence

from latentbank.bank.points import prefix_ids


class Reservoirs:
    """Samples of at most `size` distinct prefixes from each of many streams, chosen while the prefixes pass by.

    Memory grows with the prefixes that are kept, about 200 bytes each, never with those that pass.

    Attributes:
        kept: numbers of the prefixes in all reservoirs.
    """

    def __init__(self, size: int, seed: int) -> None:
        """Start with empty reservoirs.

        Args:
            size: how many prefixes a reservoir holds at most.
            seed: decides which; another seed gives an independent sample.
        """
        self.kept: set[int] = set()
        self._size, self._name = size, f"reservoir {seed}"
        # Heaps of negative numbers: the first one is that of the kept prefix with the highest number.
        self._heaps: dict[Hashable, list[int]] = {}

    def numbers(self, token_ids: Sequence[int]) -> Iterator[int]:
        """Yield the random number, of 128 bits, of every prefix of `token_ids`, shortest first."""
        return (int.from_bytes(digest, "big") for digest in prefix_ids(self._name, token_ids))

    def offer(self, stream: Hashable, number: int) -> bool:
        """Keep a prefix if it is new and among the lowest of its stream so far; return whether it is kept now.

        A prefix that is kept may still have to leave for a later one. One that is not, or has left, never comes back.

        Args:
            stream: the stream it belongs to, the same each time it is offered.
            number: its number.
        """
        if number in self.kept:
            return False
        heap = self._heaps.setdefault(stream, [])
        if len(heap) < self._size:
            heapq.heappush(heap, -number)
        elif number < -heap[0]:
            self.kept.remove(-heapq.heapreplace(heap, -number))
        else:
            return False
        self.kept.add(number)
        return True
