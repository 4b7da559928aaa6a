"""How graphs are searched with filters: what a filter selects is scanned if it is little, else ACORN finds it.

Graphs have no links of payload indexes. With them an embedded bank takes twice as long to build a graph, a server three
times, and filters find less (benchmarks/filters.py, benchmarks/server_filters.py).
"""

from __future__ import annotations

LEAST_SCAN = 10_000
"""KiB of vectors in a segment up to which what a filter selects is scanned in small segments: a server's own choice,
8,900 contexts of 576 dimensions."""

MOST_BY_ACORN = 0.7
"""The share of a layer up to which a filter that selects too much for a scan is searched by ACORN."""


def scan_for(contexts: int, segments: int, hidden_size: int) -> int:
    """Return the KiB of vectors up to which a new graph's engine scans what a filter selects in a segment.

    The engine scans a segment for every query, with a filter or without, if all of it is no more. So it is half of a
    segment, except in small ones, where a scan takes no longer than the graph.
    """
    return max(LEAST_SCAN, kib(contexts // (2 * segments), hidden_size))


def kib(contexts: int, hidden_size: int) -> int:
    """Return how many KiB the originals of so many contexts are: two bytes a number."""
    return -(-contexts * 2 * hidden_size // 1024)
