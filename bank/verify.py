"""Verification: whether a bank holds what its ledger says, the same in every layer, with valid vectors."""

from __future__ import annotations

import hashlib
from itertools import islice

import numpy as np

from latentbank.bank.manifest import Manifest
from latentbank.bank.store.base import MOST_CORPORA, Store
from latentbank.bank.where import Filter
from latentbank.progress import Progress
from latentbank.text import count_text, listed

# The length of a unit vector in float16 differs from 1 only by rounding.
NORM_TOLERANCE = 5e-3
# Contexts between two updates of the progress.
_REPORT_EVERY = 10_000


def verify(
    store: Store, manifest: Manifest, sample: int, progress: Progress, where: Filter | None = None
) -> list[str]:
    """Return what is wrong with a bank; see `Bank.verify`.

    If the manifest has only some of the bank's layers or corpora, only those are checked; `where` then selects their
    contexts.
    """
    there = store.layers()
    wrong = [
        f"Layer {layer} has no collection; ingest the bank's corpora again to fill it."
        for layer in manifest.layers
        if layer not in there
    ]
    layers = [layer for layer in manifest.layers if layer in there]
    if manifest.metric == "centred" and manifest.corpora and not manifest.means:
        wrong.append(
            f"The bank '{manifest.bank}' is centred, but its means are lost; restore its manifest from a backup."
        )
    wrong += _counts(store, manifest, layers, where)
    wrong += _ids(store, layers, progress, where)
    wrong += _vectors(store, manifest, layers, sample, where)
    if where is None:
        wrong += _indexes(store, layers)
    return wrong


def _indexes(store: Store, layers: list[int]) -> list[str]:
    wrong = []
    for layer in layers:
        state = store.info(layer)
        if state.failure:
            wrong.append(
                f"The server failed to change or index layer {layer} ({state.failure}); see its log, restart it, "
                "and index the bank again."
            )
        elif state.waiting:
            wrong.append(
                f"{state.waiting:,} of the {state.points:,} contexts of layer {layer} are not indexed, so searches are "
                "slow; wait if a job is adding contexts, else index the bank again."
            )
    return wrong


def _counts(store: Store, manifest: Manifest, layers: list[int], where: Filter | None) -> list[str]:
    wrong = []
    found = {layer: store.facet(layer, "corpus", where, limit=MOST_CORPORA) for layer in layers}
    for name, entry in manifest.corpora.items():
        if not entry.complete:
            wrong.append(f"Corpus '{name}' is incomplete; run its ingestion again, or drop it.")
            continue
        for layer in layers:
            there = found[layer].get(entry.stored, 0)
            if there != entry.contexts:
                repair = (
                    "run its ingestion again, it adds what is missing"
                    if there < entry.contexts
                    else "drop it and ingest it again"
                )
                wrong.append(
                    f"Layer {layer} holds {count_text(there, 'context')} of corpus '{name}', the ledger says "
                    f"{entry.contexts:,}; {repair}."
                )
    known = {name for entry in manifest.corpora.values() for name in (entry.stored, *entry.obsolete)}
    wrong += [
        f"Corpus '{name}' was replaced, but its old contexts are not all deleted; run its ingestion again."
        for name, entry in manifest.corpora.items()
        if entry.obsolete
    ]
    for layer in layers:
        for name in sorted(found[layer].keys() - known):
            wrong.append(
                f"Layer {layer} holds {count_text(found[layer][name], 'context')} of corpus '{name}', which is not in "
                "the ledger; drop it."
            )
    return wrong


def _ids(store: Store, layers: list[int], progress: Progress, where: Filter | None) -> list[str]:
    """Compare the layers by a digest of their ids in order, so that no list of ids is held in memory."""
    digests, done, total = {}, 0, sum(store.count(layer, where) for layer in layers)
    for layer in layers:
        digest = hashlib.blake2b(digest_size=16)
        for point in store.scroll(layer, where):
            digest.update(point.id.encode())
            done += 1
            if done % _REPORT_EVERY == 0:
                progress.update(done, total)
        digests[layer] = digest.digest()
    if len(set(digests.values())) <= 1:
        return []
    first = layers[0]
    others = [str(layer) for layer in layers if digests[layer] != digests[first]]
    return [
        f"Layer {listed(others)} holds other contexts than layer {first}; run the ingestion of "
        "the bank's corpora again, it adds what is missing."
    ]


def _vectors(
    store: Store, manifest: Manifest, layers: list[int], sample: int, where: Filter | None
) -> list[str]:
    wrong = []
    for layer in layers:
        for point in islice(store.scroll(layer, where, vectors=True), sample):
            norm = float(np.linalg.norm(point.vector)) if point.vector is not None else 0.0
            if point.vector is None or len(point.vector) != manifest.hidden_size:
                wrong.append(f"Layer {layer}, context {point.id}: its vector has the wrong size.")
                break
            if not abs(norm - 1.0) <= NORM_TOLERANCE:
                wrong.append(
                    f"Layer {layer}, context {point.id}: its vector has length {norm:.4f} instead of 1; drop "
                    "its corpus and ingest it again."
                )
                break
    return wrong
