"""Which way a search goes: through the index of a layer, or past it, by products with all of its original vectors.

An index of text finds text: with the settings' `ef`, 99 of 100 neighbors and more. Visual tokens are far from all text,
so they lose their way in it, and no `ef` is sure to find as many; `bank tune` measures which does. What is certain to
find them is a scan, which takes the same time whatever is looked for. A plan is the fastest way of those that find
enough.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from latentbank.bank.scan import FLOAT32, GROUP, MORE, Precision, Scan, better, convert, room_to_convert
from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.bank.search import Search

Way = Literal["auto", "graph", "exact"]
"""How a bank is searched: "graph" is through the index, "exact" compares with every context in float32, "auto" is the
faster of both that finds 99 of 100 neighbors."""
WAYS: tuple[Way, ...] = ("auto", "graph", "exact")

# Seconds to hand the engine a query and take its answer, and for each of the query's numbers (Intel Xeon, processor
# time, 2026-11-30).
_ASKED, _ASKED_NUMBER = 5e-5, 1.3e-7
# Seconds of a processor's core for a vector that the engine compares with a query in a graph, and for each of the
# vector's numbers (AMD EPYC, processor time, 2026-11-29; docs/benchmarks.md).
_COMPARED, _NUMBER = 1e-6, 2e-9
# The same for a vector that it compares without a graph, one after the other.
_SCANNED, _SCANNED_NUMBER = 3e-9, 3e-11
# The same for the engine's own exact search.
_EXACT, _EXACT_NUMBER = 1e-8, 9e-11
# Seconds to import torch, to learn the ids that a filter selects, each, and to read a layer's files.
_IMPORT, _SELECTED, _FILES = 2.0, 8e-6, 0.005
# Seconds to return what a query's scan has found, and to rescore it, for each number of a vector (Intel Xeon,
# 2026-11-30).
_RETURNED, _RESCORED = 1e-5, 1.5e-9
# How many contexts are usually asked for.
_WANTED = 5
# Of how many contexts a query's scan learns the ids, if the filter comes last.
_LOOKED = 30
# bfloat16 pays if it takes less than this share of the time: its best must be rescored.
_PAYS = 0.75


@dataclass(frozen=True)
class Work:
    """What a search of a layer through its index has to do for a query.

    Attributes:
        contexts: how many contexts the layer holds.
        compared: how many the index compares with the query, or what takes as long.
        graph: whether it finds them in a graph; else they are compared one after the other.
        segments: how many parts of the layer are searched side by side.
        selected: how many contexts the filter selects; None: there is no filter.
    """

    contexts: int
    compared: int
    graph: bool
    segments: int = 1
    selected: int | None = None

    def seconds(self, hidden_size: int) -> float:
        """Return the seconds that it takes."""
        base, number = (_COMPARED, _NUMBER) if self.graph else (_SCANNED, _SCANNED_NUMBER)
        compared = self.compared * (base + hidden_size * number) / min(cores(), self.segments)
        return _ASKED + hidden_size * _ASKED_NUMBER + compared


@dataclass(frozen=True)
class Plan:
    """How a layer is searched.

    Attributes:
        how: how it is scanned; None: it is searched through the index.
        index: the seconds expected of the index.
        scan: the seconds expected of the scan; None: it is not to be compared.
    """

    how: Scan | None
    index: float
    scan: float | None

    def __str__(self) -> str:
        """Return it for people."""
        if self.how is None:
            return "through the index"
        return f"exact scan, {self.how.precision}"


@dataclass(frozen=True)
class Rates:
    """What a scan takes on this machine, in seconds.

    Attributes:
        precision: how it multiplies.
        number: for each number of a vector, to convert it.
        pair: for each number of a vector and each query, to multiply them.
        product: for each product, to look whether it is among the best.
        query: for each query, to rescore what was found and return it.
    """

    precision: Precision
    number: float
    pair: float
    product: float
    query: float = 0.0

    def seconds(self, contexts: int, queries: int, hidden_size: int) -> float:
        """Return the seconds that a scan takes."""
        numbers = contexts * hidden_size
        products = numbers * self.pair + contexts * self.product
        return numbers * self.number + queries * (products + self.query)


@dataclass
class _Spent:
    """Seconds of searches for which torch was not imported: once they are as many as that takes, more may follow."""

    seconds: float = 0.0


_spent = _Spent()


def way_of(search: str | None, *, exact: bool, default: Way = "auto") -> Way:
    """Return the way that is asked for; `exact=True` is the older name of `search="exact"`.

    Raises:
        QueryError: there is no such way, or both are given and differ.
    """
    if search is None:
        return "exact" if exact else default
    if search not in WAYS:
        raise QueryError(f"search is {search!r}; it can be 'auto', 'graph' or 'exact'.", argument="search")
    if exact and search != "exact":
        raise QueryError(
            f"exact=True means search='exact', but search is {search!r}; give one of them.", argument="search"
        )
    return "graph" if search == "graph" else "exact" if search == "exact" else "auto"


def plan_layer(search: Search, layer: int, queries: int, hidden_size: int) -> Plan:
    """Return how a layer is searched for so many queries."""
    through = Plan(None, 0.0, None)
    if search.way == "graph" or not queries:
        return through
    work = search.store.work(layer, search.asked.most(), hidden_size, search.where)
    if work is None:
        return through
    if search.way == "exact":
        seconds = queries * work.contexts * (_EXACT + hidden_size * _EXACT_NUMBER)
        if "torch" not in sys.modules and seconds < _IMPORT:
            return replace(through, index=seconds)
        filter_last = work.selected is not None and _scanning(work, queries, hidden_size)[1]
        return Plan(Scan(precise(), filter_last), seconds, None)
    return plan(work, queries, hidden_size, finds=search.asked.finds)


def precise() -> Precision:
    """Return how an exact search multiplies: in float32."""
    import torch

    return Precision("float32", "cuda") if torch.cuda.is_available() else FLOAT32


def plan(work: Work, queries: int, hidden_size: int, *, finds: bool) -> Plan:
    """Return how a layer is searched.

    Args:
        work: what the index has to do.
        queries: how many there are.
        hidden_size: of the vectors.
        finds: whether the index finds 99 of 100 neighbors of such queries.
    """
    through = queries * work.seconds(hidden_size)
    fixed = _FILES
    if finds and "torch" not in sys.modules:
        fixed += max(0.0, _IMPORT - _spent.seconds)
        _spent.seconds += through
    if finds and through < fixed:
        return Plan(None, through, None)
    seconds, filter_last = _scanning(work, queries, hidden_size)
    scan = fixed + seconds
    how = Scan(rates(hidden_size).precision, filter_last)
    return Plan(how if scan < through or not finds else None, through, scan)


def _scanning(work: Work, queries: int, hidden_size: int) -> tuple[float, bool]:
    """Return the seconds that products take, and whether a filter had better come last."""
    measured = rates(hidden_size)
    whole = measured.seconds(work.contexts, queries, hidden_size)
    if work.selected is None:
        return whole, False
    first = work.selected * _SELECTED + measured.seconds(work.selected, queries, hidden_size)
    last = whole + queries * _LOOKED * _SELECTED
    # If a filter selects less than half, too many queries would have to look deeper.
    if 2 * work.selected >= work.contexts and last < first:
        return last, True
    return first, False


@lru_cache(maxsize=8)
def rates(hidden_size: int) -> Rates:
    """Measure what a scan takes here, in some hundredths of a second: in float32, and in bfloat16 where that pays."""
    import torch

    if torch.cuda.is_available():
        return _measured(hidden_size, Precision("bfloat16", "cuda"))
    plain = _measured(hidden_size, FLOAT32)
    half = _measured(hidden_size, Precision("bfloat16"))
    pays = half.number + half.pair * 256 < _PAYS * (plain.number + plain.pair * 256)
    return half if pays else plain


def _measured(hidden_size: int, precision: Precision) -> Rates:
    import torch

    rows, queries = max(64, 2048 * 576 // hidden_size), 256
    more = 0 if precision.dtype == "float32" else MORE
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((rows, hidden_size), generator=generator).half()
    dtype = getattr(torch, precision.dtype)
    given = torch.randn((queries, hidden_size), generator=generator).to(precision.device, dtype)
    block = torch.empty((rows, hidden_size), dtype=dtype, device=precision.device)
    room = torch.empty((queries, rows), dtype=dtype, device=precision.device)
    # Of a block's scores, few are better than what each query keeps: fewer where it keeps fewer.
    scores = torch.randn((queries, GROUP, 2048 // GROUP), generator=generator).to(precision.device, dtype)
    kept = scores.flatten(1).topk(1 + more // 6, dim=1)[0].float()
    wide = room_to_convert(given)
    steps: tuple[Callable[[], object], ...] = (
        lambda: convert(block, vectors, wide),
        lambda: torch.mm(given, block.T, out=room),
        lambda: better(scores, kept),
    )
    best = [float("inf")] * len(steps)
    with torch.inference_mode():
        for _ in range(4):  # the first warms up
            for number, step in enumerate(steps):
                began = time.perf_counter()
                step()
                if precision.device == "cuda":
                    torch.cuda.synchronize()
                best[number] = min(best[number], time.perf_counter() - began)
    numbers = rows * hidden_size
    query = _RETURNED + (_WANTED + more) * hidden_size * _RESCORED
    return Rates(precision, best[0] / numbers, best[1] / (numbers * queries), best[2] / scores.numel(), query)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
