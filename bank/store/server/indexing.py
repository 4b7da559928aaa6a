"""When a server indexes a layer: not while it is loaded, and then until every context is indexed.

A collection's `indexing_threshold` decides: a server indexes each segment with at least so many kilobytes of vectors,
and 0 switches that off. It says green when no segment is left to index under the threshold that its optimizers use,
and they begin to use a new one a moment after the change was answered. So green alone proves nothing. The number of
indexed vectors does, but for vectors that were deleted after they were indexed, which it still counts. Segments below
the threshold stay unindexed, which costs a search nothing.

Jobs that fill a layer at the same time share its threshold, so its value also says what they want of it:

- OFF while contexts are loaded: indexes would be built again and again.
- WANTED while a job waits for its contexts to be indexed. A job that loads leaves it so, and loads a little slower.
- ON afterwards. A job that still loads sets OFF again.

A job that waits sets WANTED again if it finds OFF. So nobody waits in vain, and what a killed job leaves behind is put
right by the next call of `index_layer`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from qdrant_client import models

from latentbank.bank.store.fields import has_graph
from latentbank.bank.store.graphs import kib, scan_for
from latentbank.bank.store.names import split_collection
from latentbank.bank.store.server.client import Connection
from latentbank.errors import BankUnavailable

OFF, ON, WANTED = 0, 1, 2
# The metadata of a layer that says how many contexts its graph was built for.
_GRAPH = "latentbank-graph"
# Seconds before the second look at a collection that is being indexed; doubles, at most the second number.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# Looks at which the condition must hold, because deleted vectors may count as indexed.
_ENOUGH = 2
# Looks after which a server is taken at its word that it has nothing to do, although contexts are not indexed.
_LOOKS = 30
# Bytes of a number of a stored vector (float16).
_NUMBER = 2


def defer_index(server: Connection, collection: str) -> None:
    """Switch indexing of a layer off while it is loaded, unless a job waits for it to be indexed."""
    if _threshold(_info(server, collection)) not in (OFF, WANTED):
        _set(server, collection, OFF)


def index_layer(server: Connection, collection: str, count: int) -> None:
    """Index a layer of `count` contexts, and wait until they are indexed.

    Raises:
        BankUnavailable: the server failed to index them.
    """
    graph = _new_graph(server, collection, count)
    built = {_GRAPH: {"contexts": count}} if graph is not None and graph.m else None
    _set(server, collection, WANTED, hnsw_config=graph, metadata=built)
    _wait_until_indexed(server, collection, count)
    _set(server, collection, ON)


def _new_graph(server: Connection, collection: str, count: int) -> models.HnswConfigDiff | None:
    """Return the settings of the graph that a layer of so many contexts gets now, if any; None: it keeps what it has.

    A server continues the graph that it has, unless that was built with another number of candidates. A filter that
    selects so much of what was added that it is not scanned then finds little of it or nothing (Qdrant 1.18.2,
    benchmarks/server_growing.py). So a graph that has outgrown its scans is built anew, with one candidate more, or one
    less. Until then a layer keeps its graph, as the server builds it anew for any other setting.
    """
    settings, info = server.settings, _info(server, collection)
    now, width = info.config.hnsw_config, _width(info)
    candidates = settings.hnsw_ef_construct
    if now.m:
        # Earlier versions did not say how many contexts a graph was built for.
        built = (info.config.metadata or {}).get(_GRAPH) or {"contexts": 0}
        added = max(count - built["contexts"], waiting(info))
        if kib(added, width) <= now.full_scan_threshold:
            return None
        candidates += now.ef_construct == candidates
    elif not has_graph((split_collection(collection) or ("", 0))[0], count, settings):
        return models.HnswConfigDiff(m=0, ef_construct=candidates)
    # A layer that was loaded has as many segments as it will have, or more; each shard has one more for new contexts.
    segments = max(1, info.segments_count - (info.config.params.shard_number or 1))
    scan = scan_for(count, segments, width)
    return models.HnswConfigDiff(m=settings.hnsw_m, ef_construct=candidates, full_scan_threshold=scan)


def waiting(info: models.CollectionInfo) -> int:
    """Return how many contexts the server has yet to index; those in segments below the threshold do not count."""
    unindexed = max(0, (info.points_count or 0) - (info.indexed_vectors_count or 0))
    small = ((_threshold(info) or ON) * 1024 - 1) // (_NUMBER * _width(info))
    return unindexed if unindexed > small * info.segments_count else 0


def _width(info: models.CollectionInfo) -> int:
    vectors = info.config.params.vectors
    assert isinstance(vectors, models.VectorParams)
    return vectors.size


def failure(info: models.CollectionInfo) -> str | None:
    """Return why the server failed to change or index a collection, which it then shows as red; None if all is well."""
    if info.status != models.CollectionStatus.RED:
        return None
    status = info.optimizer_status
    return status.error if isinstance(status, models.OptimizersStatusOneOf1) else "an operation failed"


def _wait_until_indexed(server: Connection, collection: str, count: int) -> None:
    """Wait until a layer's `count` contexts are indexed; others may add contexts meanwhile."""
    pause, held, idle = _FIRST_PAUSE, 0, 0
    while True:
        info = _info(server, collection)
        if (why := failure(info)) is not None:
            raise BankUnavailable(
                f"The server {server.url} failed to index {collection}: {why}; see its log."
            )
        if _threshold(info) == OFF or info.status == models.CollectionStatus.GREY:
            # Another job has begun to load, or the server was restarted and waits for a change before it goes on.
            _set(server, collection, WANTED)
        left, added = waiting(info), max(0, (info.points_count or 0) - count)
        green = info.status == models.CollectionStatus.GREEN
        held = held + 1 if _threshold(info) != OFF and left <= added and (green or added) else 0
        if held == _ENOUGH:
            return
        idle = idle + 1 if green and not held else 0
        if idle == _LOOKS:
            raise BankUnavailable(
                f"The server {server.url} says that {collection} is ready, but {left:,} of {info.points_count:,} "
                "contexts are not indexed; see its log, then run the command again."
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _info(server: Connection, collection: str) -> models.CollectionInfo:
    return server.call(partial(server.rest.get_collection, collection))


def _threshold(info: models.CollectionInfo) -> int:
    threshold = info.config.optimizer_config.indexing_threshold
    return ON if threshold is None else threshold


def _set(
    server: Connection,
    collection: str,
    threshold: int,
    hnsw_config: models.HnswConfigDiff | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    change = partial(
        server.rest.update_collection,
        collection,
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=threshold),
        hnsw_config=hnsw_config,
        metadata=metadata,
    )
    server.call(change)
