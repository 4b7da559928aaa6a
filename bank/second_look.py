"""A second look: the nearest contexts of each layer are scored again, and ranked by the new scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from latentbank.bank.manifest import Manifest
from latentbank.bank.merge import Unique, merge
from latentbank.bank.points import Hit, Neighbor
from latentbank.bank.search import Candidate, Search
from latentbank.bank.store.base import Floats

OVERSAMPLING = 2.0
"""Candidates per context that are rescored exactly. So many contexts are looked at that the last of them do not matter;
of 49,541 real contexts, all of the 50 nearest were found so."""

Hits = Mapping[tuple[int, int], Sequence[Hit]]
"""The contexts found for each query, nearest first, by row and layer."""


class SecondLook(Protocol):
    """What scores contexts again."""

    @property
    def depth(self) -> int:
        """How many contexts of each layer it looks at, the nearest by cosine."""

    def of_rows(self, rows: Sequence[int]) -> SecondLook:
        """Return the same look for some of the queries, numbered anew."""

    def searched(self, manifest: Manifest, vectors: Floats) -> Floats:
        """Return the vectors whose nearest contexts are looked at: unit length, rotated, float32 `[queries, hidden]`.

        Args:
            manifest: that of the bank as it is searched.
            vectors: the queries, unit length and rotated; they may be searched for as they are.
        """

    def scores(
        self, manifest: Manifest, layer: int, vectors: Floats, found: Sequence[Sequence[Hit]]
    ) -> tuple[Floats, Floats]:
        """Return the scores of each query's contexts in a bank layer; those of several layers can be compared.

        Args:
            manifest: that of the bank as it is searched.
            layer: the bank layer.
            vectors: the queries: unit length, rotated, float32 `[queries, hidden]`.
            found: each query's contexts with their cosines to what was `searched`, nearest first; a few more than
                `depth` where words are to be distinct.

        Returns:
            Scores, and the cosines of query and context: float32 `[queries, most contexts of a query]` each; the scores
            are minus infinity where a query has fewer.

        Raises:
            QueryError: a context cannot be scored.
        """


def look_again(
    search: Search,
    look: SecondLook,
    manifest: Manifest,
    vectors: Floats,
    top_k: int,
    unique: Unique | None,
) -> list[list[Neighbor]]:
    """Return each query's `top_k` best contexts by the scores of a second look, best first; see `Bank.search`."""
    search = replace(search, payloads=False, oversampling=OVERSAMPLING)
    searched = look.searched(manifest, vectors)
    hits: Hits = search.hits(searched, max(look.depth, top_k))
    ranked = _ranked(search.layers, look, manifest, vectors, hits)
    if unique == "word":
        best = _distinct(search, ranked, top_k)
        if short := [row for row, neighbors in enumerate(best) if len(neighbors) < top_k]:
            # Their contexts are of few words, so the nearest contexts of other words are scored, too.
            wider = _with_more_words(search, hits, searched, short, top_k)
            again = _ranked(search.layers, look.of_rows(short), manifest, vectors[short], wider)
            for row, neighbors in zip(short, _distinct(search, again, top_k), strict=True):
                best[row] = neighbors
        return best
    # A context can be found in each layer.
    needed = top_k * len(search.layers) if unique == "context" else top_k
    rows = range(len(vectors))
    return search.neighbors([merge(ranked.best(row, 0, needed), top_k, unique) for row in rows])


@dataclass(frozen=True)
class _Ranked:
    """Contexts of all layers with their scores.

    Attributes:
        layers: the bank layers.
        hits: the contexts.
        scores: float32 `[queries, layers, contexts]`, minus infinity where there is no context.
        cosines: of query and context, in the same places.
        order: of each query, the places in its scores as one row, best first.
    """

    layers: Sequence[int]
    hits: Hits
    scores: Floats
    cosines: Floats
    order: npt.NDArray[np.intp]

    def best(self, row: int, start: int, stop: int) -> list[Candidate]:
        """Return a query's contexts of the ranks from `start` to before `stop`; fewer if there are no more."""
        found = []
        for place in self.order[row, start:stop].tolist():
            layer, at = divmod(place, self.scores.shape[2])
            score = float(self.scores[row, layer, at])
            if score == -np.inf:
                break
            hit = self.hits[row, self.layers[layer]][at]._replace(score=float(self.cosines[row, layer, at]))
            found.append(Candidate(self.layers[layer], hit, score))
        return found


def _ranked(
    layers: Sequence[int], look: SecondLook, manifest: Manifest, vectors: Floats, hits: Hits
) -> _Ranked:
    """Score the contexts of all layers again."""
    found = [
        look.scores(manifest, layer, vectors, [hits[row, layer] for row in range(len(vectors))])
        for layer in layers
    ]
    scores = np.full(
        (len(vectors), len(layers), max(part.shape[1] for part, _ in found)), -np.inf, np.float32
    )
    cosines = np.zeros_like(scores)
    for place, (part, own) in enumerate(found):
        scores[:, place, : part.shape[1]] = part
        cosines[:, place, : own.shape[1]] = own
    order = np.argsort(-scores.reshape(len(vectors), -1), axis=1, kind="stable")
    return _Ranked(layers, hits, scores, cosines, order)


def _distinct(search: Search, ranked: _Ranked, top_k: int) -> list[list[Neighbor]]:
    """Return each query's best contexts with distinct words, fewer than `top_k` if there are no more.

    Payloads tell the words. They are read in steps, for all queries together, as the best are nearly always enough.
    """
    best: list[list[Neighbor]] = [[] for _ in ranked.order]
    pending, start, step = list(range(len(best))), 0, 2 * top_k
    while pending:
        parts = {row: ranked.best(row, start, start + step) for row in pending}
        for row, neighbors in zip(parts, search.neighbors(list(parts.values())), strict=True):
            best[row] = merge([*best[row], *neighbors], top_k, "word")
        pending = [row for row, part in parts.items() if len(part) == step and len(best[row]) < top_k]
        start, step = start + step, 2 * step
    return best


def _with_more_words(
    search: Search, hits: Hits, vectors: Floats, rows: Sequence[int], top_k: int
) -> dict[tuple[int, int], list[Hit]]:
    """Return the contexts of some queries, numbered anew, with those of the `top_k` nearest words added."""
    wide = replace(search.of_rows(rows), payloads=True, oversampling=None, plans={})
    found = wide.ask_for_words(vectors[list(rows)], top_k)
    wider = {
        (number, layer): list(hits[row, layer]) for number, row in enumerate(rows) for layer in search.layers
    }
    known = {(*key, hit.id) for key, row in wider.items() for hit in row}
    for number, candidates in enumerate(found):
        for candidate in candidates:
            if (number, candidate.bank_layer, candidate.id) not in known:
                wider[number, candidate.bank_layer].append(candidate.hit)
    return wider
