"""Searching a bank: queries are prepared, sent to every bank layer, and searched further if words repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from latentbank.bank.asking import Asked
from latentbank.bank.manifest import Manifest
from latentbank.bank.merge import Unique, merge
from latentbank.bank.planning import Plan, Way, plan_layer
from latentbank.bank.points import Hit, Neighbor, Payload
from latentbank.bank.rotation import rotated_units, unit
from latentbank.bank.settings import Metric
from latentbank.bank.store.base import Floats, Store
from latentbank.bank.where import Filter, Where
from latentbank.errors import QueryError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

# Queries sent to the store in one batch: enough to share the engine's work, few enough to run batches in parallel.
QUERY_BATCH = 288
# Requests that a server works on at once for one search.
_AT_ONCE = 8
# Hits whose payloads are asked for together with them: another request would take longer than what is read in vain.
_FEW_HITS = 100
# Times as many contexts are asked of a scan for distinct words, and again when their words were too few.
_DEEPER = 4


def prepare(
    states: npt.ArrayLike,
    what: str,
    hidden_size: int,
    seed: int,
    mean: npt.ArrayLike | None = None,
    *,
    unit_mean: bool = False,
) -> Floats:
    """Return hidden states as they are stored: centred, scaled to length 1, rotated; float32 `[n, hidden]`.

    Args:
        states: `[n, hidden]`, or a single one `[hidden]`: an array, lists of numbers, or a tensor.
        what: their name in errors ("queries").
        hidden_size: the width they must have.
        seed: the bank's rotation seed.
        mean: subtracted from each row, `[hidden]`, or a row each, `[n, hidden]`; None: nothing is subtracted.
        unit_mean: the mean is one of rows scaled to length 1, so they are scaled before it is subtracted.

    Raises:
        QueryError: they have a wrong shape or type, or a row is zero, not finite, or equal to its mean (the row is
            named).
    """
    try:
        rows = np.atleast_2d(as_floats(states))
    except (TypeError, ValueError) as error:
        raise QueryError(
            f"The {what} must be an array of numbers [{what}, hidden]: {str(error).rstrip('.')}."
        ) from None
    if rows.ndim != 2 or rows.shape[1] != hidden_size:
        raise QueryError(
            f"The {what} have shape {list(rows.shape)}; this bank's hidden size is {hidden_size}, so they must "
            f"be [{what}, {hidden_size}]."
        )
    squares = np.einsum("ij,ij->i", rows, rows)
    if not (np.isfinite(squares) & (squares > 0)).all():  # or they are only too large or small for this type
        _require_directions(rows, what)
    if mean is not None:
        rows = _centred(unit(rows) if unit_mean else rows, what, mean)
    return rotated_units(rows, seed)


def _require_directions(rows: npt.NDArray[np.floating[Any]], what: str) -> None:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise QueryError(f"Row {int(bad.argmax())} of the {what} holds a value that is not finite.")
    zero = ~rows.any(axis=1)
    if zero.any():
        raise QueryError(f"Row {int(zero.argmax())} of the {what} is all zeros: it has no direction.")


def prepared(manifest: Manifest, states: npt.ArrayLike, what: str, mean: npt.ArrayLike | None) -> Floats:
    """Return hidden states as a bank stores them; see `prepare`."""
    size, seed = manifest.hidden_size, manifest.rotation_seed
    return prepare(states, what, size, seed, mean, unit_mean=manifest.unit_means)


def _centred(
    rows: npt.NDArray[np.floating[Any]], what: str, mean: npt.ArrayLike
) -> npt.NDArray[np.floating[Any]]:
    try:
        means = as_floats(mean)
    except (TypeError, ValueError) as error:
        raise QueryError(f"The mean of the {what} must be an array of numbers: {error}.") from None
    if means.shape not in ((rows.shape[1],), rows.shape):
        raise QueryError(
            f"The mean of the {what} has shape {list(means.shape)}; it must be [{rows.shape[1]}], or one for each "
            f"of them, {list(rows.shape)}."
        )
    if not np.isfinite(means).all():
        raise QueryError(f"The mean of the {what} holds a value that is not finite.")
    left = rows.astype(np.float64) - means
    nothing = ~left.any(axis=1)
    if nothing.any():
        raise QueryError(
            f"Row {int(nothing.argmax())} of the {what} equals its mean: nothing is left that has a direction."
        )
    return left


def as_floats(states: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    """Return `states` as float32 or float64, also tensors that numpy cannot read (bfloat16, on a GPU, with grad).

    Raises:
        TypeError: they are not numbers.
        ValueError: rows have different lengths.
    """
    if hasattr(states, "detach"):
        states = states.detach().float().cpu().numpy()
    array = np.asarray(states)
    if (
        array.dtype.kind not in "fiu" and "float" not in array.dtype.name
    ):  # JAX's bfloat16 has a kind of its own
        raise TypeError(f"they are of type {array.dtype}")
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)


def require_query_mean(bank: str, metric: Metric, *, given: bool) -> None:
    """See `Bank.require_query_mean`."""
    if given and metric == "cosine":
        raise QueryError(
            f"The bank '{bank}' is not centred, so queries keep their mean: leave query_mean out, or create a "
            "bank with metric='centred'.",
            argument="query_mean",
        )
    if not given and metric == "centred":
        raise QueryError(
            f"The bank '{bank}' is centred, so its queries need a mean: pass query_mean, for text "
            "bank.text_mean(LAYER), for visual tokens the mean of their visual layer.",
            argument="query_mean",
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit in a bank layer, which may become a neighbor."""

    bank_layer: int
    hit: Hit
    corrected: float | None = None

    @property
    def id(self) -> str:
        """The context's id."""
        return self.hit.id

    @property
    def cosine(self) -> float:
        """Its cosine with the query."""
        return self.hit.score

    @property
    def score(self) -> float:
        """What it is ranked by: the corrected score if there is one, else the cosine."""
        return self.hit.score if self.corrected is None else self.corrected

    @property
    def word(self) -> str:
        """The context's word; empty unless payloads were requested."""
        return self.hit.payload["word"] if self.hit.payload else ""


@dataclass(frozen=True)
class Search:
    """One search of a bank's layers.

    Attributes:
        store: the store to search.
        layers: the bank layers.
        where: restricts the search to the contexts that this filter selects.
        way: through the index, past it, or what is faster; see `Way`.
        payloads: read the payloads of all hits at once; else only of those that are kept.
        asked: how many candidates each query examines in a graph, and whether it finds enough so.
        oversampling: candidates per context that are rescored exactly; None: as in the settings.
        plans: how each layer was searched; filled by the search.
        read: payloads of what scans have found, by layer and id; filled by the search.
    """

    store: Store
    layers: Sequence[int]
    where: Filter | None
    way: Way
    payloads: bool
    asked: Asked
    oversampling: float | None = None
    plans: dict[int, Plan] = field(default_factory=dict)
    read: dict[int, dict[str, Payload]] = field(default_factory=dict)

    def best(self, vectors: Floats, top_k: int, unique: Unique | None) -> list[list[Neighbor]]:
        """Return each query's `top_k` nearest contexts of all layers; see `Bank.search`."""
        found = self.ask_for_words(vectors, top_k) if unique == "word" else self.ask(vectors, top_k)
        return self.neighbors([merge(candidates, top_k, unique) for candidates in found])

    def of_rows(self, rows: Sequence[int]) -> Search:
        """Return the same search for some of the queries, numbered anew."""
        return replace(self, asked=self.asked.of_rows(rows))

    def ask(self, vectors: Floats, depth: int, scanned: int | None = None) -> list[list[Candidate]]:
        """Return each query's nearest contexts of every layer, layer by layer; see `hits`."""
        answers = self.hits(vectors, depth, scanned)
        return [
            [Candidate(layer, hit) for layer in self.layers for hit in answers[row, layer]]
            for row in range(len(vectors))
        ]

    def hits(
        self, vectors: Floats, depth: int, scanned: int | None = None
    ) -> dict[tuple[int, int], list[Hit]]:
        """Return each query's `depth` nearest contexts by row and layer.

        Args:
            vectors: the queries: unit length, rotated, float32 `[queries, hidden]`.
            depth: contexts of each layer.
            scanned: contexts of a layer that is scanned; None: `depth`.
        """
        rows = range(len(vectors))
        answers: dict[tuple[int, int], list[Hit]] = {}
        through: dict[int, list[tuple[int, Filter | None]]] = {}
        for layer in self.layers:
            found = self._scan(layer, vectors, depth if scanned is None else scanned)
            if found is None:
                through[layer] = [(row, self.where) for row in rows]
            else:
                answers |= {(row, layer): hits for row, hits in zip(rows, found, strict=True)}
        return answers | self._ask(through, vectors, depth)

    def _scan(self, layer: int, vectors: Floats, depth: int) -> list[list[Hit]] | None:
        """Return a layer's nearest contexts by a scan; None: it is searched through its index."""
        plan = self.plans.get(layer)
        if plan is None:
            plan = self.plans[layer] = plan_layer(self, layer, *vectors.shape)
        if plan.how is None:
            return None
        found = self.store.scan(layer, vectors, depth, self.where, plan.how)
        if found is None:  # its files cannot be read now
            self.plans[layer] = replace(plan, how=None)
            return None
        if not self.payloads:
            return found
        read = self.read.setdefault(layer, {})
        ids = dict.fromkeys(hit.id for hits in found for hit in hits if hit.id not in read)
        read |= self.store.payloads(layer, list(ids))
        return [[Hit(hit.id, hit.score, read[hit.id]) for hit in hits if hit.id in read] for hits in found]

    def _ask(
        self, requests: Mapping[int, Sequence[tuple[int, Filter | None]]], vectors: Floats, depth: int
    ) -> dict[tuple[int, int], list[Hit]]:
        """Return each layer's answers for rows of `vectors`, each with its filter, by row and layer.

        Layers and batches of queries are asked for at once. A server works on them side by side; the embedded engine
        works on one batch at a time, and on a layer's segments side by side. It is asked for a batch in one layer after
        the other, as it keeps the batch in its own form.
        """
        asked = [
            (layer, ef, queries)
            for layer, all_queries in requests.items()
            for ef, queries in self.asked.by_ef(all_queries)
        ]
        tasks = [
            (layer, ef, part)
            for at in range(0, len(vectors), QUERY_BATCH)
            for layer, ef, queries in asked
            if (part := queries[at : at + QUERY_BATCH])
        ]

        few = self.store.shared and depth * sum(map(len, requests.values())) <= _FEW_HITS

        def run(task: tuple[int, int | None, Sequence[tuple[int, Filter | None]]]) -> list[list[Hit]]:
            layer, ef, queries = task
            rows, wheres = zip(*queries, strict=True)
            more = {} if self.oversampling is None else {"oversampling": self.oversampling}
            exact, payloads = self.way == "exact", self.payloads or few
            return self.store.search(layer, vectors[list(rows)], depth, wheres, exact, payloads, ef, **more)

        return {
            (row, layer): hits
            for (layer, _, queries), answers in zip(tasks, self._each(run, tasks), strict=True)
            for (row, _), hits in zip(queries, answers, strict=True)
        }

    def _each(self, ask: Callable[[Task], Answer], tasks: Sequence[Task]) -> list[Answer]:
        """Return the store's answer to each task; a server is asked for several at once."""
        if not self.store.shared or len(tasks) < 2:
            return [ask(task) for task in tasks]
        with ThreadPoolExecutor(min(_AT_ONCE, len(tasks))) as pool:
            return list(pool.map(ask, tasks))

    def ask_for_words(self, vectors: Floats, top_k: int) -> list[list[Candidate]]:
        """Return candidates of each query that certainly have the best `top_k` words among them.

        A layer is searched again, without the words that it has returned, as long as its answer ended above the worst
        candidate that is kept. Every round adds at least one word, the layer's nearest of those that are left. A layer
        that is scanned is asked for more contexts instead: filters that differ from query to query are dear there.
        """
        depth = top_k * _DEEPER
        found = self.ask(vectors, top_k, depth)
        last = {
            (row, layer): [hit for hit in candidates if hit.bank_layer == layer]
            for row, candidates in enumerate(found)
            for layer in self.layers
        }
        while last:
            worst = {row: self._worst_kept(found[row], top_k) for row in {row for row, _ in last}}
            requests: dict[int, list[tuple[int, Filter | None]]] = {}
            deeper: dict[int, list[int]] = {}
            for (row, layer), answer in last.items():
                scanned = self.is_scanned(layer)
                if len(answer) >= (depth if scanned else top_k) and answer[-1].cosine > worst[row]:
                    if scanned:
                        deeper.setdefault(layer, []).append(row)
                        continue
                    returned = {hit.word: None for hit in found[row] if hit.bank_layer == layer}
                    others = ~Where(word=tuple(returned))
                    requests.setdefault(layer, []).append(
                        (row, others if self.where is None else self.where & others)
                    )
            answers = self._ask(requests, vectors, top_k)
            last = {
                (row, layer): [Candidate(layer, hit) for hit in hits]
                for (row, layer), hits in answers.items()
            }
            for (row, _), answer in last.items():
                found[row] += answer
            depth *= _DEEPER
            for layer, rows in deeper.items():
                last |= self._look_deeper(layer, rows, found, vectors, depth)
        return found

    def is_scanned(self, layer: int) -> bool:
        """Return whether a layer was searched by a scan."""
        return layer in self.plans and self.plans[layer].how is not None

    def _look_deeper(
        self, layer: int, rows: list[int], found: list[list[Candidate]], vectors: Floats, depth: int
    ) -> dict[tuple[int, int], list[Candidate]]:
        """Add a layer's `depth` nearest contexts to what some queries found; return them by row and layer."""
        scanned = self._scan(layer, vectors[rows], depth)
        if scanned is None:  # somebody writes to it
            asked = {layer: [(row, self.where) for row in rows]}
            answers = self._ask(asked, vectors, depth)
            scanned = [answers[row, layer] for row in rows]
        last = {}
        for row, hits in zip(rows, scanned, strict=True):
            known = {one.id for one in found[row] if one.bank_layer == layer}
            last[row, layer] = [Candidate(layer, hit) for hit in hits]
            found[row] += [one for one in last[row, layer] if one.id not in known]
        return last

    @staticmethod
    def _worst_kept(candidates: Sequence[Candidate], top_k: int) -> float:
        """Return the lowest cosine among the best words; minus infinity as long as there are fewer than `top_k`."""
        best = merge(candidates, top_k, "word")
        return best[-1].cosine if len(best) == top_k else -math.inf

    def neighbors(self, kept: Sequence[Sequence[Candidate]]) -> list[list[Neighbor]]:
        """Return each query's candidates as neighbors, after reading the payloads that are missing."""
        missing: dict[int, dict[str, None]] = {}
        for candidate in chain.from_iterable(kept):
            if candidate.hit.payload is None:
                missing.setdefault(candidate.bank_layer, {})[candidate.id] = None
        payloads = self._each(lambda layer: self.store.payloads(layer, list(missing[layer])), list(missing))
        read = dict(zip(missing, payloads, strict=True))
        return [
            [
                Neighbor.from_payload(c.id, c.bank_layer, c.cosine, payload, c.corrected)
                for c in row
                # None: deleted since it was found.
                if (payload := c.hit.payload or read[c.bank_layer].get(c.id)) is not None
            ]
            for row in kept
        ]


def told(search: Search, layer: int) -> str:
    """Return for people how a layer was searched."""
    plan = search.plans.get(layer)
    if plan is not None and plan.how is not None:
        return str(plan)
    return "exactly, by the engine" if search.way == "exact" else "through the index"
