"""Figures that come from readings alone: bank layers of the neighbors, cosines, parts of speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentbank.errors import QueryError
from latentbank.query.reproduction.measured import Measured

TOP = 5
"""Neighbors that the paper looks at."""
BINS = np.linspace(0, 1, 31)
"""Edges of the histograms of cosines, as in the authors' data."""
_SAMPLE = 2_000  # words of a layer that are tagged
_COLUMNS = ("source", "index", "kind", "layer", "lens", "rank", "word", "cosine", "caption", "bank_layer")

Tag = Callable[[Sequence[str]], list[str]]
"""Return the part of speech of each word."""


class Neighbors:
    """The neighbors of all visual tokens of a folder of readings."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's Parquet files.

        Raises:
            QueryError: there is none.
        """
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise QueryError(f"{folder} holds no readings.")
        tables = [pq.read_table(file, columns=list(_COLUMNS), partitioning=None) for file in files]
        table = pa.concat_tables(tables)
        self._table = table.filter(pc.equal(table["kind"], "visual")).sort_by(
            [(name, "ascending") for name in ("source", "index", "rank")]
        )

    @property
    def layers(self) -> list[int]:
        """The visual layers that were read."""
        return sorted(pc.unique(self._table["layer"]).to_pylist())

    def at(self, lens: str, layer: int) -> pa.Table:
        """Return the neighbors of one lens at one layer: sorted by image, token and rank."""
        chosen = pc.and_(pc.equal(self._table["lens"], lens), pc.equal(self._table["layer"], layer))
        return self._table.filter(pc.and_(chosen, pc.is_valid(self._table["rank"])))

    def grid(self, lens: str, layer: int, column: str) -> npt.NDArray[np.float64]:
        """Return a column as an array `[tokens, TOP]`, NaN where a token has fewer neighbors."""
        table = self.at(lens, layer)
        ranks = table["rank"].to_numpy()
        first = ranks.min() if len(ranks) else 0
        ranks = ranks - first
        tokens = np.cumsum(ranks == 0) - 1
        kept = ranks < TOP
        found = np.full((int(tokens[-1]) + 1 if len(tokens) else 0, TOP), np.nan)
        values = pc.fill_null(table[column].cast(pa.float64()), float("nan")).to_numpy()
        found[tokens[kept], ranks[kept]] = values[kept]
        return found


def alignment(neighbors: Neighbors, model: str) -> Iterator[Measured]:
    """Yield, for each visual layer, the shares of the nearest `TOP` neighbors that each bank layer has.

    As in the paper, the neighbors are those of LatentLens and EmbeddingLens together; the input embeddings, which have
    no context, are bank layer 0.
    """
    for layer in neighbors.layers:
        cosines = [neighbors.grid(lens, layer, "cosine") for lens in ("latent", "embedding")]
        own = neighbors.grid("latent", layer, "bank_layer")
        if len(cosines[0]) != len(cosines[1]):
            raise QueryError("LatentLens and EmbeddingLens have read other tokens; read the images again.")
        both = np.nan_to_num(np.concatenate(cosines, axis=1), nan=-2.0)
        layers = np.concatenate([own, np.zeros_like(cosines[1])], axis=1)
        best = np.argsort(-both, axis=1, kind="stable")[:, :TOP]
        chosen = np.take_along_axis(layers, best, axis=1).ravel()
        counts = Counter(chosen[np.isfinite(chosen)].astype(int).tolist())
        total = sum(counts.values())
        for bank_layer, count in sorted(counts.items()):
            share = count / total
            yield Measured("alignment", model, "latent", "top 5", layer, bank_layer, share, of=total)


def cosines(neighbors: Neighbors, model: str, lens: str = "latent") -> Iterator[Measured]:
    """Yield the histogram and the median of the nearest neighbor's cosine at each visual layer."""
    for layer in neighbors.layers:
        best = neighbors.grid(lens, layer, "cosine")[:, 0]
        best = best[np.isfinite(best)]
        if not len(best):
            continue
        yield Measured("cosines", model, lens, "median", layer, value=float(np.median(best)), of=len(best))
        counts, _ = np.histogram(best.clip(BINS[0], BINS[-1]), BINS)
        for edge, count in zip(BINS[:-1].tolist(), counts.tolist(), strict=True):
            if count:
                at, share = round(edge, 6), count / len(best)
                yield Measured("cosines", model, lens, "bin", layer, at, share, of=len(best))


def speech(neighbors: Neighbors, model: str, tag: Tag, seed: int, lens: str = "latent") -> Iterator[Measured]:
    """Yield the shares of parts of speech among the neighbors' words at each visual layer, of a sample of them."""
    for layer in neighbors.layers:
        words = [word for word in neighbors.at(lens, layer)["word"].to_pylist() if word]
        if len(words) > _SAMPLE:
            chosen = np.random.default_rng([seed, layer]).choice(len(words), _SAMPLE, replace=False)
            words = [words[index] for index in np.sort(chosen).tolist()]
        counts = Counter(tag(words))
        total = sum(counts.values())
        for kind, count in sorted(counts.items()):
            yield Measured("speech", model, lens, kind, layer, value=count / total, of=total)
