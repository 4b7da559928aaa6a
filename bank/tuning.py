"""How thoroughly a bank's graphs must be searched: measured once, and kept in its manifest.

A query examines `ef` candidates in a graph. How many it needs depends on what it is: text is near other text, visual
tokens are far from all of it, each visual layer in its own way. `tune` finds for each kind of query the smallest `ef`
at which the answers hold enough of the true neighbors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.bank import changes
from latentbank.bank.asking import Asked, kind_of, known_contexts
from latentbank.bank.ledger import visible
from latentbank.bank.manifest import now
from latentbank.bank.planning import Way
from latentbank.bank.points import Hit
from latentbank.bank.search import Search
from latentbank.bank.store.base import Floats
from latentbank.errors import QueryError
from latentbank.progress import Progress, Silent
from latentbank.values import real

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank

TOP_K = 5
"""Neighbors of a query that are counted."""
TIE = 1e-5
"""Cosines that differ by less are ties: either context is a right answer."""
MOST = 4096
"""The largest `ef` that is tried."""
_LEAST = 64


@dataclass(frozen=True, eq=False)
class Sample:
    """Queries of one kind.

    Attributes:
        vectors: as the bank stores them: unit length, rotated, float32 `[queries, hidden]`.
        own: the id of the context that each query is, which is no neighbor of its own; empty: they are none.
    """

    vectors: Floats
    own: Sequence[str] = ()


@dataclass(frozen=True)
class TunedKind:
    """What was measured for a kind of query.

    Attributes:
        kind: "text", or "visual 8" for the visual tokens of visual layer 8.
        queries: how many there were.
        ef: the smallest that finds enough in all bank layers together; None: none does.
        recall: the share of the true neighbors that it finds, or that the largest `ef` tried finds.
    """

    kind: str
    queries: int
    ef: int | None
    recall: float


def tune(
    bank: Bank,
    recall: float = 0.99,
    visual: Mapping[int, Sample] | None = None,
    queries: int = 256,
    progress: Progress | None = None,
) -> list[TunedKind]:
    """Measure the smallest `ef` for each kind of query, and keep it in the bank, where searches find it.

    Queries of text are contexts of the bank itself. What was measured for other visual layers stays, if it was measured
    for the same recall and the bank has hardly grown since.

    Args:
        bank: a bank that can be written to.
        recall: the share of the true five nearest contexts of a bank layer that shall be found, on average.
        visual: visual tokens by visual layer.
        queries: how many contexts are asked for.
        progress: counts the kinds.

    Raises:
        QueryError: the bank is empty, or no such recall.
    """
    wanted = real(recall, "recall", 0.5, 1.0)
    progress = progress or Silent()
    samples = {kind_of(None): text_sample(bank, queries)}
    samples |= {kind_of(layer): sample for layer, sample in (visual or {}).items()}
    found = []
    for number, (kind, sample) in enumerate(samples.items()):
        progress.update(number, len(samples))
        found.append(_smallest(bank, kind, sample, wanted))
    known = bank.manifest.tuned
    contexts = known_contexts(bank.manifest)
    kept = known.get("efs", {}) if known.get("recall") == wanted and known.get("contexts") == contexts else {}
    efs = {**kept, **{one.kind: one.ef for one in found}}
    changes.record_tuned(bank, {"recall": wanted, "contexts": contexts, "measured": now(), "efs": efs})
    return found


def text_sample(bank: Bank, count: int) -> Sample:
    """Return contexts of all layers in turn as queries.

    Raises:
        QueryError: the bank has no contexts.
    """
    where = visible(None, bank.shown_corpora, incomplete=True)
    each = -(-count // len(bank.layers))
    rows, ids = [], []
    for layer in bank.layers:
        # Ids are hashes, so the first ones are a random sample.
        for number, point in enumerate(bank.store.scroll(layer, where, vectors=True)):
            if number == each:
                break
            rows.append(point.vector)
            ids.append(point.id)
    if not rows:
        raise QueryError(f"The bank '{bank.name}' has no contexts: there is nothing to measure.")
    return Sample(np.stack([row for row in rows if row is not None]), ids)


def _smallest(bank: Bank, kind: str, sample: Sample, recall: float) -> TunedKind:
    """Double `ef` until it finds enough, then halve the step three times."""
    truth = _hits(bank, sample, "exact", None)
    found: dict[int, float] = {}

    def reaches(ef: int) -> bool:
        found[ef] = _recall(sample, truth, _hits(bank, sample, "graph", ef), bank.layers)
        return found[ef] >= recall

    # Without a graph, nothing depends on it; it is then what a graph shall begin with.
    works = [bank.store.work(layer, None, bank.hidden_size) for layer in bank.layers]
    indexed = any(work is None or work.graph for work in works)
    usual = bank.settings.ef if kind == kind_of(None) else bank.settings.ef_visual
    ef = _LEAST if indexed else usual
    while not reaches(ef):
        if ef >= MOST:
            return TunedKind(kind, len(sample.vectors), None, found[ef])
        ef *= 2
    low, high = ef // 2, ef
    for _ in range(3):
        middle = (low + high) // 2
        if ef == _LEAST or not indexed or middle in (low, high):
            break
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return TunedKind(kind, len(sample.vectors), high, found[high])


def _hits(bank: Bank, sample: Sample, way: Way, ef: int | None) -> dict[tuple[int, int], list[Hit]]:
    where = visible(None, bank.shown_corpora, incomplete=True)
    search = Search(bank.store, bank.layers, where, way, payloads=False, asked=Asked(ef))
    return search.hits(sample.vectors, TOP_K + bool(sample.own))


def _recall(
    sample: Sample,
    truth: Mapping[tuple[int, int], Sequence[Hit]],
    found: Mapping[tuple[int, int], Sequence[Hit]],
    layers: Sequence[int],
) -> float:
    """Return the share of neighbors at least as near as the last of the true ones, on average."""
    shares = []
    for row in range(len(sample.vectors)):
        own = sample.own[row] if sample.own else ""
        for layer in layers:
            right = _without(truth[row, layer], own)
            if right:
                near = [hit for hit in _without(found[row, layer], own) if hit.score >= right[-1].score - TIE]
                shares.append(len(near) / len(right))
    return float(np.mean(shares))


def _without(hits: Sequence[Hit], own: str) -> list[Hit]:
    return [hit for hit in hits if hit.id != own][:TOP_K]


def sample_rows(rows: npt.NDArray[Any], count: int, seed: int = 0) -> npt.NDArray[np.intp]:
    """Return the numbers of `count` rows at random, ascending; of all of them if there are fewer."""
    random = np.random.default_rng(seed)
    return np.sort(random.choice(len(rows), min(count, len(rows)), replace=False))
