"""Readings of hidden states that others have saved, through any lens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentbank.errors import BankMismatch, QueryError
from latentbank.identity import identity_of
from latentbank.query.lenses.base import Lens, Queries
from latentbank.query.lenses.centring import QueryMean, described, resolve_mean
from latentbank.query.reading.pieces import read_in_pieces
from latentbank.query.reading.reading import Reading, TokenReading
from latentbank.query.reading.text import require_llm_layers
from latentbank.query.states.files import load_states
from latentbank.query.states.states import NOT_KNOWN, States
from latentbank.text import public_name
from latentbank.values import Layers, whole

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank


def read_states(
    states: States | str | os.PathLike[str],
    lenses: Sequence[Lens],
    layers: Layers | None = None,
    *,
    tensor: str | None = None,
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    query_mean: QueryMean | None = None,
    between: Callable[[int], None] | None = None,
) -> Reading:
    """Read hidden states of a file through lenses.

    Nobody can tell from numbers which model they come from. Their width is checked; so is the model's fingerprint, if
    the file's metadata says it under `fingerprint`.

    Args:
        states: a file, as for `load_states`, or what it returns.
        lenses: the lenses to read through.
        layers: as for `load_states`; for a file alone.
        tensor: as for `load_states`; for a file alone.
        labels: as for `load_states`; for a file alone.
        top_k: neighbors per token.
        query_mean: for a centred bank, as for `read_hidden`.
        between: called between pieces of a layer, as `read_in_pieces` says; None: a layer is read at once.

    Returns:
        A reading of all tokens at all layers, of kind "other".

    Raises:
        QueryError: the file cannot be read, its states have another width than the bank's, or a centred bank has no
            `query_mean`, or another bank has one.
        BankMismatch: the file says that the states come from another model than the bank's.
        LayerNotFound: the file, the bank's LLM, or a centred bank's means of text, do not have a layer.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.reading.states import read_states
        >>> with lb.open_bank("captions") as bank:
        ...     reading = read_states("steps.safetensors", [lb.LatentLens(bank)], layers=[8, 16])
    """
    top_k = whole(top_k, "top_k", 1)
    if not lenses:
        raise QueryError("Name at least one lens.")
    if not isinstance(states, States):
        states = load_states(states, layers, tensor=tensor, labels=labels)
    elif layers is not None or tensor is not None or labels is not None:
        raise QueryError("These states are read already: choose layers, tensor and labels when loading them.")
    searching = next((lens for lens in lenses if lens.bank is not None), None)
    bank = None if searching is None else searching.bank
    if bank is not None:
        _check(states, bank)
    tokens = [token for lens in lenses for token in _read(states, lens, top_k, query_mean, between)]
    nothing = searching is not None and not all(token.neighbors for token in tokens)
    return Reading(
        source=states.source,
        bank=bank.name if bank else "",
        model=public_name(states.model or (bank.manifest.model if bank else "")),
        lenses=tuple(lens.name for lens in lenses),
        bank_layers=tuple(searching.searched_layers()) if searching else (),
        layers=tuple(states.by_layer),
        tokens=tuple(tokens),
        metric=bank.metric if bank else "cosine",
        query_mean=described(query_mean) if bank else "",
        note=searching.why_nothing() if searching is not None and nothing else "",
    )


def _read(
    states: States,
    lens: Lens,
    top_k: int,
    query_mean: QueryMean | None,
    between: Callable[[int], None] | None,
) -> Iterator[TokenReading]:
    """Yield the readings of all tokens by one lens, layer by layer."""
    names = states.labels or tuple(str(number) for number in range(len(states)))
    for layer, rows in states.by_layer.items():
        norms = np.linalg.norm(rows.astype(np.float64), axis=-1)
        mean = None if lens.bank is None else resolve_mean(lens.bank, query_mean, layer, rows)
        queries = Queries(rows, None if layer == NOT_KNOWN else layer, "other", mean)
        found = (
            lens.read(queries, top_k) if between is None else read_in_pieces(lens, queries, top_k, between)
        )
        for index, (name, norm, neighbors) in enumerate(zip(names, norms, found, strict=True)):
            yield TokenReading(index, name, layer, float(norm), tuple(neighbors), lens.name)


def _check(states: States, bank: Bank) -> None:
    """Check what can be checked: the width, the layers, and the fingerprint if the states have one.

    Raises:
        QueryError: another width.
        BankMismatch: another model.
        LayerNotFound: the bank's LLM does not have a layer.
    """
    size = bank.manifest.hidden_size
    if states.width != size:
        raise QueryError(
            f"The hidden states of {states.source} are {states.width} wide, those of the bank '{bank.name}' {size}: "
            "they come from another model."
        )
    require_llm_layers(bank, (layer for layer in states.by_layer if layer != NOT_KNOWN))
    if not states.fingerprint:
        return
    try:
        bank.require_model(public_name(states.model) or "another model", identity_of(states.fingerprint))
    except BankMismatch as error:
        raise BankMismatch(f"{states.source}: {error}", argument=error.argument) from None
