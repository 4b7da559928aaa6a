"""Following a context of a bank through its layers, in all of which it has the same id."""

from __future__ import annotations

import uuid

import numpy as np

from latentbank.bank.asking import asked_for
from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.ledger import named, visible
from latentbank.bank.merge import Unique
from latentbank.bank.points import Neighbor
from latentbank.bank.search import Search
from latentbank.bank.store.captions import Ids
from latentbank.bank.vectors import stored_vectors, unit_mean
from latentbank.bank.where import Filter
from latentbank.errors import QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.following.followed import Followed, Step, Vector, drifts
from latentbank.text import public_name
from latentbank.values import whole

_MEAN_OF = 2_000  # contexts whose mean is a layer's


def follow_context(
    bank: Bank,
    context: str,
    bank_layers: BankLayers = "all",
    *,
    top_k: int = 5,
    unique: Unique | None = "word",
    where: Filter | None = None,
    progress: Progress | None = None,
) -> Followed:
    """Follow a stored context through a bank's layers.

    Args:
        bank: the bank.
        context: the context's id, as neighbors carry it (`Neighbor.id`).
        bank_layers: "all", "mid", "paper", one layer or several.
        top_k: nearest other contexts at each layer.
        unique: "word" keeps one neighbor of each word; None: all.
        where: only neighbors that this filter selects.
        progress: counts the layers.

    Returns:
        The context at each layer. A centred bank keeps no hidden states without the mean, so only centred cosines are
        known there.

    Raises:
        QueryError: the bank has no such context, or that is no id.
        LayerNotFound: the bank does not have a layer.
    """
    top_k = whole(top_k, "top_k", 1)
    layers, known = bank.choose_layers(bank_layers), _as_id(context)
    corpora = bank.shown_corpora
    shown = visible(None, corpora, incomplete=True)
    points = list(bank.store.scroll(layers[0], _with(shown, Ids(frozenset([known]))), payloads=True))
    if not points or points[0].payload is None:
        raise QueryError(
            f"The bank '{bank.name}' has no context {known}; the neighbors of a reading carry the ids of theirs."
        )
    (own,) = named([Neighbor.from_payload(known, layers[0], 1.0, points[0].payload)], corpora)
    others = _with(visible(where, corpora, incomplete=True), ~Ids(frozenset([known])))
    progress = progress or Silent()
    found, vectors, centred = [], list[Vector](), list[Vector]()
    for number, layer in enumerate(layers):
        progress.update(number, len(layers))
        row = stored_vectors(bank, layer, [known])
        asked = asked_for(bank.manifest, bank.settings, 1, None, None)
        search = Search(
            bank.store, [layer], others, bank.settings.search, payloads=unique == "word", asked=asked
        )
        found.append(tuple(named(search.best(row, top_k, unique)[0], corpora)))
        vectors.append(row[0])
        centred.append(row[0] - bank_mean(bank, layer))
    drift = drifts(None if bank.metric == "centred" else vectors, centred)
    return Followed(
        kind="context",
        label=own.token,
        source=own.caption,
        bank=bank.name,
        model=public_name(bank.manifest.model),
        lenses=("latent",),
        steps=tuple(
            Step(layer, one, None, {"latent": neighbors})
            for layer, one, neighbors in zip(layers, drift, found, strict=True)
        ),
        means=mean_told(bank),
        context=own,
        span=(own.start, own.end),
    )


def bank_mean(bank: Bank, layer: int) -> Vector:
    """Return the mean of a layer's vectors as they are stored, which is zero in a centred bank: `[hidden]`."""
    if bank.metric == "centred":
        return np.zeros(bank.hidden_size, np.float32)
    return unit_mean(bank, layer, _MEAN_OF)


def mean_told(bank: Bank) -> str:
    """Return in words which mean `bank_mean` is, or in a centred bank was subtracted before."""
    return f"of text, at each layer of the bank '{bank.name}'"


def _with(shown: Filter | None, condition: Filter) -> Filter:
    return condition if shown is None else shown & condition


def _as_id(text: str) -> str:
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise QueryError(
            f"'{text}' is no context's id; ids look like 0b9f2c1e-5d7a-4e0c-9a3b-2f6d8c7e1a45."
        ) from None
