"""The server store: layer collections on a Qdrant server or cluster, shared by a team.

Bulk work goes over gRPC if the server answers there, everything else over REST.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from qdrant_client import models
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.planning import Work
from latentbank.bank.points import Hit, Payload, Stored
from latentbank.bank.scan import Scan
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import (
    FEW,
    Change,
    Floats,
    LayerInfo,
    NoSnapshot,
    Points,
    Record,
    StoredManifest,
)
from latentbank.bank.store.captions import CaptionFilters
from latentbank.bank.store.conditions import Dialect, conditions, count_ids, each_condition, reads_captions
from latentbank.bank.store.graphs import MOST_BY_ACORN
from latentbank.bank.store.grouping import Groups
from latentbank.bank.store.names import collection_name
from latentbank.bank.store.server.aliases import version_in_use
from latentbank.bank.store.server.client import OLDEST, Connection, is_too_old
from latentbank.bank.store.server.downloading import save_snapshot
from latentbank.bank.store.server.grouping import query_groups
from latentbank.bank.store.server.indexing import defer_index, failure, index_layer, waiting
from latentbank.bank.store.server.layers import create_layer, index_all_captions, index_captions
from latentbank.bank.store.server.manifest import ServerManifest
from latentbank.bank.store.server.messages import point_messages, query_messages
from latentbank.bank.store.server.uploading import Uploader
from latentbank.bank.versions import split_name
from latentbank.bank.where import Filter, Where
from latentbank.errors import BankUnavailable

DIALECT = Dialect(models, models.Range, lambda ids: models.HasIdCondition(has_id=list(ids)))
"""How a server takes filters."""

_SCROLL = 1000
# Most ids in the filters of one request, about 4 MB of them.
_MOST_IDS = 100_000
# Seconds after which a job that loads a layer switches indexing off again, if another job has switched it on.
_DEFER_AGAIN = 30.0


class ServerStore:
    """See `latentbank.bank.store.base.Store`."""

    shared = True
    side_by_side = True

    def __init__(self, bank: str, settings: Settings) -> None:
        """Name the version and its server; nothing is sent yet."""
        self._bank = bank
        self._settings = settings
        self._server = Connection(settings, bank)
        self._manifest = ServerManifest(self._server, bank)
        self._uploader = Uploader(self._server)
        self._checked = False
        self._captions = CaptionFilters(self._read_captions, shared=True)
        self._captions_indexed: set[int] = set()
        # By layer that is being loaded: when to see to it again that it is not indexed.
        self._loading: dict[int, float] = {}

    @property
    def bank(self) -> str:
        """See `Store`."""
        return self._bank

    @property
    def settings(self) -> Settings:
        """See `Store`."""
        return self._settings

    def in_use(self) -> str:
        """See `Store`."""
        return version_in_use(self._server, split_name(self._bank)[0])

    # -- manifest ------------------------------------------------------------------------------

    def read_manifest(self) -> StoredManifest | None:
        """See `Store`."""
        self._check_version()
        return self._manifest.read()

    def _check_version(self) -> None:
        """Refuse a server that would silently drop parts of what a bank is; asked once."""
        if self._checked:
            return
        version = self._server.call(self._server.rest.info).version
        if is_too_old(version):
            raise BankUnavailable(
                f"The server {self._server.url} runs Qdrant {version}; a bank needs {OLDEST} or newer: update it."
            )
        self._checked = True

    def change_head(self, change: Change) -> Record | None:
        """See `Store`."""
        return self._manifest.change_head(change)

    def change_entry(self, corpus: str, change: Change, instead_of: str | None = None) -> Record | None:
        """See `Store`."""
        return self._manifest.change_entry(corpus, change, instead_of)

    def read_shares(self, corpus: str) -> Mapping[str, Record]:
        """See `Store`."""
        return self._manifest.read_shares(corpus)

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """See `Store`."""
        self._manifest.write_shares(corpus, records)

    # -- layers --------------------------------------------------------------------------------

    def layers(self) -> list[int]:
        """See `Store`."""
        return self._manifest.layers()

    def create(self, layer: int, hidden_size: int, quantization: str) -> None:
        """See `Store`."""
        with self._captions.changing():
            create_layer(
                self._server,
                self._collection(layer),
                hidden_size,
                quantization,
                metadata=self._manifest.layer_metadata,
            )

    def defer_index(self, layer: int, expected: int) -> None:
        """See `Store`."""
        del expected  # the server itself divides a layer into segments
        defer_index(self._server, self._collection(layer))
        self._loading[layer] = time.monotonic() + _DEFER_AGAIN

    def index(self, *layers: int) -> None:
        """See `Store`."""
        for layer in layers:
            self._loading.pop(layer, None)
            index_all_captions(self._server, self._collection(layer))
            index_layer(self._server, self._collection(layer), self.count(layer))

    def index_together(self, layers: Sequence[int]) -> list[list[int]]:
        """See `Store`; the server divides the work itself."""
        return [[layer] for layer in layers]

    # -- points --------------------------------------------------------------------------------

    def upsert(self, layer: int, points: Points) -> None:
        """See `Store`. The server answers a request after it has written it, so `commit` has nothing to do."""
        if time.monotonic() >= self._loading.get(layer, math.inf):
            self.defer_index(layer, 0)  # a job that has finished meanwhile has switched indexing on
        name, step = self._collection(layer), self._settings.upload_batch

        def put(at: int, client: QdrantRemote) -> None:
            part = slice(at, at + step)
            make = _point_structs if client is self._server.rest else point_messages
            batch = make(Points(points.ids[part], points.vectors[part], points.payloads[part]))
            with self._captions.changing():
                client.upsert(name, batch, wait=True)

        self._uploader.send(name, [partial(put, at) for at in range(0, len(points.ids), step)])

    def commit(self) -> None:
        """See `Store`."""
        self._server.require_open()

    def search(
        self,
        layer: int,
        queries: Floats,
        limit: int,
        where: Filter | Sequence[Filter | None] | None = None,
        exact: bool = False,
        payloads: bool = True,
        ef: int | None = None,
        oversampling: float | None = None,
    ) -> list[list[Hit]]:
        """See `Store`."""
        self._index_captions(layer, where)
        params = self._params(limit, exact, ef, oversampling)
        where = self._captions.each_exact(layer, where)
        filters = each_condition(where, len(queries), DIALECT)
        asked = models.QueryRequest(limit=limit, params=params, with_payload=payloads)
        name, bulk = self._collection(layer), self._bulk()
        requests: list[Any] = (
            _query_requests(queries, filters, asked)
            if bulk is self._server.rest
            else query_messages(name, queries, filters, asked)
        )
        step = max(1, _MOST_IDS // max(1, count_ids(where)))
        answers = []
        for at in range(0, len(requests), step):
            part = requests[at : at + step]
            answers += self._server.call(partial(bulk.query_batch_points, name, part))
        return [
            [Hit(str(p.id), p.score, cast("Payload", p.payload) if payloads else None) for p in answer.points]
            for answer in answers
        ]

    def groups(
        self, layer: int, query: Floats, wanted: Groups, exact: bool = False, ef: int | None = None
    ) -> list[list[Hit]]:
        """See `Store`."""
        params = self._params(wanted.count * wanted.size, exact, ef, None)
        name, selected = self._collection(layer), partial(self._selected, layer)
        return query_groups(self._server, name, query, wanted, params, selected)

    def _params(
        self, limit: int, exact: bool, ef: int | None, oversampling: float | None
    ) -> models.SearchParams:
        return models.SearchParams(
            hnsw_ef=max(ef or self._settings.ef, limit),
            exact=exact,
            quantization=models.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=oversampling or self._settings.oversampling
            ),
            acorn=models.AcornSearchParams(enable=True, max_selectivity=MOST_BY_ACORN),
        )

    def work(self, layer: int, ef: int | None, hidden_size: int, where: Filter | None = None) -> Work | None:
        """See `Store`; a server multiplies no matrices for us."""
        del layer, ef, hidden_size, where
        return None

    def scan(
        self, layer: int, queries: Floats, limit: int, where: Filter | None, how: Scan
    ) -> list[list[Hit]] | None:
        """See `Store`; a server multiplies no matrices for us."""
        del layer, queries, limit, where, how
        return None

    def payloads(self, layer: int, ids: Sequence[str]) -> dict[str, Payload]:
        """See `Store`."""
        records = self._retrieve(layer, ids, payloads=True)
        return {str(record.id): cast("Payload", record.payload) for record in records}

    def count(self, layer: int, where: Filter | None = None) -> int:
        """See `Store`."""
        selected = self._selected(layer, where)
        count, name = self._server.rest.count, self._collection(layer)
        return self._server.call(partial(count, name, count_filter=selected, exact=True)).count

    def facet(self, layer: int, field: str, where: Filter | None = None, limit: int = 100) -> dict[Any, int]:
        """See `Store`."""
        selected = self._selected(layer, where)
        facet, name = self._server.rest.facet, self._collection(layer)
        answer = self._server.call(
            partial(facet, name, field, facet_filter=selected, limit=limit, exact=True)
        )
        # The index still knows values whose points are all deleted.
        return {hit.value: hit.count for hit in answer.hits if hit.count}

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """See `Store`."""
        return {str(record.id) for record in self._retrieve(layer, ids, payloads=False)}

    def _retrieve(self, layer: int, ids: Sequence[str], *, payloads: bool) -> Iterator[models.Record]:
        name = self._collection(layer)
        for at in range(0, len(ids), _SCROLL):
            part = list(ids[at : at + _SCROLL])
            yield from self._server.call(
                partial(self._bulk().retrieve, name, part, with_payload=payloads, with_vectors=False)
            )

    def scroll(
        self,
        layer: int,
        where: Filter | None = None,
        vectors: bool = False,
        payloads: bool = False,
        start: str | None = None,
    ) -> Iterator[Stored]:
        """See `Store`."""
        for record in self._scroll(layer, self._selected(layer, where), payloads, vectors, start):
            row = np.asarray(record.vector, dtype=np.float32) if vectors else None
            yield Stored(str(record.id), cast("Payload", record.payload) if payloads else None, row)

    def _index_captions(self, layer: int, where: Filter | Sequence[Filter | None] | None) -> None:
        if layer not in self._captions_indexed and reads_captions(where):
            index_captions(self._server, self._collection(layer))
            self._captions_indexed.add(layer)

    def _selected(self, layer: int, where: Filter | None) -> models.Filter | None:
        """Return a filter as the server's conditions, with which it finds exactly what the filter selects."""
        self._index_captions(layer, where)
        selected: models.Filter | None = conditions(self._captions.exact(layer, where), DIALECT)
        return selected

    def _read_captions(self, layer: int, where: Filter | None) -> Iterator[tuple[str, str]]:
        for record in self._scroll(layer, conditions(where, DIALECT), ["caption"]):
            yield str(record.id), (record.payload or {}).get("caption", "")

    def _scroll(
        self, layer: int, selected: Any, payloads: Any, vectors: bool = False, start: str | None = None
    ) -> Iterator[models.Record]:
        name = self._collection(layer)
        offset: Any = start
        while True:
            records, offset = self._server.call(
                partial(
                    self._bulk().scroll,
                    name,
                    scroll_filter=selected,
                    limit=_SCROLL,
                    offset=offset,
                    with_payload=payloads,
                    with_vectors=vectors,
                )
            )
            yield from records
            if offset is None:
                return

    def delete_corpus(self, layer: int, corpus: str) -> None:
        """See `Store`."""
        self.delete_points(layer, Where(corpus=corpus))

    def delete_points(self, layer: int, where: Filter) -> None:
        """See `Store`."""
        selector = models.FilterSelector(filter=conditions(where, DIALECT))
        name = self._collection(layer)
        with self._captions.changing():
            self._server.call(partial(self._server.rest.delete, name, selector, wait=True))

    def save_snapshot(self, layer: int, file: Path, report: Callable[[int], None]) -> None:
        """See `Store`."""
        save_snapshot(self._server, self._collection(layer), file, report)

    def load_snapshot(self, layer: int, save: Callable[[Path], None], expected: Mapping[str, int]) -> None:
        """See `Store`. The embedded engine makes no snapshots that a server could read."""
        del layer, save, expected
        raise NoSnapshot("only an embedded bank can be filled from snapshots")

    def info(self, layer: int) -> LayerInfo:
        """See `Store`."""
        name = self._collection(layer)
        state = self._server.call(partial(self._server.rest.get_collection, name))
        points = self.count(layer)
        indexed = min(state.indexed_vectors_count or 0, points)
        left = waiting(state)
        return LayerInfo(points, indexed, None, left if left > FEW else 0, failure(state))

    # -- the whole bank ------------------------------------------------------------------------

    def delete(self) -> None:
        """See `Store`."""
        # First what carries the manifest, the ledger or the lowest layer: an interrupted deletion leaves no bank.
        self._manifest.delete_ledger()
        for layer in self.layers():
            self._server.call(partial(self._server.rest.delete_collection, self._collection(layer)))

    def close(self) -> None:
        """See `Store`."""
        self._uploader.close()
        self._server.close()

    def _collection(self, layer: int) -> str:
        return collection_name(self._bank, layer)

    def _bulk(self) -> QdrantRemote:
        return self._server.bulk(self._collection(0))


def _point_structs(points: Points) -> list[Any]:
    rows = zip(points.ids, points.vectors.tolist(), points.payloads, strict=True)
    return [models.PointStruct(id=id_, vector=row, payload=dict(payload)) for id_, row, payload in rows]


def _query_requests(queries: Floats, filters: Sequence[Any], asked: models.QueryRequest) -> list[Any]:
    rows = np.asarray(queries, dtype=np.float32).tolist()
    return [
        asked.model_copy(update={"query": models.NearestQuery(nearest=row), "filter": condition})
        for row, condition in zip(rows, filters, strict=True)
    ]
