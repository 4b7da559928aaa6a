"""The exact neighbors by float32 cosines, and how close both sides come to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.states import States, subset

# Cosines that differ by less than this are ties: either context is a right answer.
TIE = 1e-4
# Error of a cosine that float16 storage may cause. The two sides may rank contexts differently within it.
STORAGE = 2e-3

Floats = npt.NDArray[np.float32]


def unit(rows: npt.ArrayLike) -> Floats:
    """Return rows scaled to length 1, float32."""
    array = np.asarray(rows, dtype=np.float32)
    scaled: Floats = array / np.linalg.norm(array, axis=1, keepdims=True)
    return scaled


def judge(
    states: States,
    count: int,
    layers: Sequence[int],
    queries: Floats,
    top_k: int,
    theirs: dict[str, Any],
    ours: dict[str, Any],
) -> dict[str, Any]:
    """Return how both sides' neighbors compare with the exact ones, and our exact search with the reference's."""
    truth = Truth(states, count, layers, queries, top_k)
    verdict: dict[str, Any] = {
        "reference": truth.score(theirs["neighbors"]),
        "latentbank": truth.score(ours["neighbors"]),
        "latentbank_exact": truth.score(ours["exact"]),
        "ways": {way: truth.score(found["neighbors"]) for way, found in ours.get("ways", {}).items()},
    }
    same = ties = other = 0
    furthest = 0.0
    for i, (mine, their) in enumerate(zip(ours["exact"], theirs["neighbors"], strict=True)):
        furthest = max(furthest, *(abs(a[3] - b[3]) for a, b in zip(mine, their, strict=True)))
        ours_only = {tuple(n[:3]) for n in mine} ^ {tuple(n[:3]) for n in their}
        if not ours_only:
            same += 1
        elif all(truth.near_the_end(i, key) for key in ours_only):
            ties += 1
        else:
            other += 1
    return verdict | {"exact_same": same, "exact_ties": ties, "exact_other": other, "cosine_apart": furthest}


class Truth:
    """The exact cosines of every query with every context, float32."""

    def __init__(
        self, states: States, count: int, layers: Sequence[int], queries: Floats, top_k: int
    ) -> None:
        rows = subset(states, count)
        chosen = {row: i for i, row in enumerate(rows.tolist())}
        self._row = {
            (payload["caption"], payload["position"]): chosen[i]
            for i, (_, payload) in enumerate(states.contexts())
            if i in chosen
        }
        self._queries = unit(queries)
        self._top_k = top_k
        self._contexts: dict[int, Floats] = {}
        best = []
        for layer in layers:
            self._contexts[layer] = unit(states.hidden(layer)[rows])
            for at in range(0, count, 1 << 15):
                cosines = self._queries @ self._contexts[layer][at : at + (1 << 15)].T
                best.append(-np.sort(-cosines, axis=1)[:, :top_k])
        self._best = -np.sort(-np.concatenate(best, axis=1), axis=1)[:, :top_k]

    def cosine(self, query: int, key: Sequence[Any]) -> float:
        """Return the cosine of a query with a context; `key` is its layer, caption and position."""
        row = self._row[key[1], key[2]]
        return float(self._queries[query] @ self._contexts[key[0]][row])

    def near_the_end(self, query: int, key: Sequence[Any]) -> bool:
        """Return whether a context ties with the last of the query's exact neighbors, within float16's precision."""
        return abs(self.cosine(query, key) - float(self._best[query, -1])) <= STORAGE

    def score(self, neighbors: Sequence[Sequence[Sequence[Any]]]) -> dict[str, float]:
        """Return recall@k and the share of right first neighbors; ties count as right."""
        hits = first = 0
        for i, row in enumerate(neighbors):
            keys = dict.fromkeys(tuple(neighbor[:3]) for neighbor in row)
            hits += sum(self.cosine(i, key) >= self._best[i, -1] - TIE for key in keys)
            first += self.cosine(i, next(iter(keys))) >= self._best[i, 0] - TIE
        return {
            "recall": float(hits / (len(neighbors) * self._top_k)),
            "top_1": float(first / len(neighbors)),
        }
