"""Vectors of stored contexts, as hidden states' directions: un-rotated, of length 1."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentbank.bank.bank import Bank
from latentbank.bank.ledger import visible
from latentbank.bank.points import Neighbor
from latentbank.bank.rotation import unrotate
from latentbank.bank.store.captions import Ids
from latentbank.bank.where import Filter, Where
from latentbank.errors import QueryError

_READ = 1000  # vectors that are read at once


@dataclass(frozen=True, eq=False)
class ContextVector:
    """A stored context and its direction.

    Attributes:
        context: the context, with a cosine of 1.
        vector: the direction of its hidden state, float32 `[hidden]`, of length 1.
    """

    context: Neighbor
    vector: npt.NDArray[np.float32]


def context_vectors(
    bank: Bank,
    layer: int,
    where: Filter | None = None,
    limit: int = 1,
    *,
    wanted: Callable[[Neighbor], bool] | None = None,
    start: int | None = None,
) -> list[ContextVector]:
    """Return some contexts of a bank layer with their directions, in the order of their ids, which is a random one.

    Args:
        bank: a bank of plain cosine.
        layer: the bank layer.
        where: only contexts that this filter selects.
        limit: at most so many.
        wanted: further selects the contexts; None: all.
        start: seed of the id to begin at; None: at the first.

    Raises:
        LayerNotFound: the bank does not have the layer.
        QueryError: the bank is centred, so its vectors lack the mean of text.
    """
    (chosen,) = bank.choose_layers([layer])
    if bank.metric == "centred":
        raise QueryError(
            f"The bank '{bank.name}' is centred: its vectors lack the mean of text, so they are no hidden states; use "
            "a bank of plain cosine."
        )
    shown = visible(where, bank.shown_corpora, incomplete=True)

    def stored(first: str | None) -> Iterator[ContextVector]:
        for point in bank.store.scroll(chosen, shown, vectors=True, payloads=True, start=first):
            if point.payload is None or point.vector is None:
                continue
            context = Neighbor.from_payload(point.id, chosen, 1.0, point.payload)
            if wanted is None or wanted(context):
                yield ContextVector(context, _direction(bank, point.vector))

    if start is None:
        return list(itertools.islice(stored(None), limit))
    first = str(uuid.UUID(bytes=np.random.default_rng(start).bytes(16)))
    found = list(itertools.islice(stored(first), limit))
    if len(found) < limit:  # the end was reached: go on at the beginning
        before = itertools.takewhile(lambda one: one.context.id < first, stored(None))
        found += itertools.islice(before, limit - len(found))
    return found


def first_context(bank: Bank, where: Filter | None = None) -> str:
    """Return the id of a context that a filter selects: the first by its id, which is a random one.

    Raises:
        QueryError: there is none.
    """
    shown = visible(where, bank.shown_corpora, incomplete=True)
    point = next(iter(bank.store.scroll(bank.layers[0], shown)), None)
    if point is None:
        raise QueryError(f"No context of the bank '{bank.name}' is selected.", argument="where")
    return point.id


def stored_vectors(bank: Bank, layer: int, ids: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return vectors by their contexts' ids as a bank layer stores them: rotated, float32 `[ids, hidden]`.

    A context that is not there has a row of zeros.
    """
    vectors = np.zeros((len(ids), bank.hidden_size), np.float32)
    places = {id_: place for place, id_ in enumerate(ids)}
    for start in range(0, len(ids), _READ):
        for point in bank.store.scroll(layer, Ids(frozenset(ids[start : start + _READ])), vectors=True):
            vectors[places[point.id]] = point.vector
    return vectors


def unit_mean(bank: Bank, layer: int, most: int = 100_000) -> npt.NDArray[np.float32]:
    """Return the mean of a bank layer's vectors as they are stored: rotated, float32 `[hidden]`.

    In a bank of plain cosine it is the mean of unit vectors. Of a large bank it is that of a sample, to which each
    complete corpus gives its share: ids are hashes, so the first of a corpus are a random sample of it.

    Args:
        bank: the bank.
        layer: the bank layer.
        most: contexts that are read, about.

    Raises:
        QueryError: no complete corpus has contexts in this layer.
    """
    entries = [entry for entry in bank.corpora.values() if entry.complete]
    contexts = sum(entry.contexts for entry in entries)
    total, count = np.zeros(bank.hidden_size), 0
    for entry in entries:
        share = -(-entry.contexts * min(contexts, most) // contexts) if contexts else 0
        points = itertools.islice(bank.store.scroll(layer, Where(corpus=entry.stored), vectors=True), share)
        while block := list(itertools.islice(points, _READ)):
            vectors = [point.vector for point in block if point.vector is not None]
            total += np.sum(vectors, axis=0, dtype=np.float64)
            count += len(block)
    if not count:
        raise QueryError(
            f"Layer {layer} of the bank '{bank.name}' holds no contexts of a complete corpus; ingest one, or verify "
            "the bank.",
            argument="bank",
        )
    return (total / count).astype(np.float32)


def _direction(bank: Bank, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    plain = unrotate(vector, bank.manifest.rotation_seed)
    direction: npt.NDArray[np.float32] = plain / np.linalg.norm(plain)  # float16 is kept
    return direction
