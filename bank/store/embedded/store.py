"""The embedded store: the Qdrant engine inside this process, one folder a bank, one process at a time.

Layout: `{data_dir}/{bank}/` holds `manifest.json`, `lock`, and one engine shard per layer in `L{layer:02d}/`.

The engine's write-ahead log is switched off: it keeps a second copy of everything just written (64 MB a layer) and
takes a fifth of the writing time. `commit` makes writes durable by flushing every shard; a process killed between two
commits loses at most what was written since the last one.

A large layer is indexed by the engine in another process, started from here (see `optimizing`).

A bank that this process may not write to can be read, by many processes at a time (see `scratch`).
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import qdrant_edge as edge

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
from latentbank.bank.store.conditions import Dialect, conditions, each_condition
from latentbank.bank.store.embedded.access import Access
from latentbank.bank.store.embedded.engine import ACORN, add_payload_indexes, engine_errors
from latentbank.bank.store.embedded.indexing import Indexing
from latentbank.bank.store.embedded.layers import Layers
from latentbank.bank.store.embedded.manifest_file import ManifestFile
from latentbank.bank.store.embedded.pointer import read_pointer
from latentbank.bank.store.embedded.points import engine_points, row_views
from latentbank.bank.store.embedded.queries import EngineQueries
from latentbank.bank.store.embedded.scanning import Scanner
from latentbank.bank.store.embedded.unpacking import received, unpack
from latentbank.bank.store.embedded.writers import writers_for
from latentbank.bank.store.grouping import Groups, grouped
from latentbank.bank.versions import split_name
from latentbank.bank.where import Filter, Where

DIALECT = Dialect(edge, edge.RangeFloat, lambda ids: edge.HasIdCondition(set(ids)))
"""How the engine takes filters."""

_SCROLL = 4096
# Points passed to the engine at once. It holds Python's lock meanwhile, so that a thread that runs the LLM cannot start
# its next operation; a millisecond does not matter, because operations take longer.
_UPSERT = 16
# Seconds of pause after that during searches: a search is many short steps, and each would wait for the lock.
_PAUSE = 1e-3


class EmbeddedStore:
    """See `latentbank.bank.store.base.Store`."""

    shared = False

    def __init__(self, bank: str, settings: Settings, *, create: bool = False) -> None:
        """Open a version's folder, and clean up what a killed process left there; see `Backend.open`."""
        self._bank = bank
        self._settings = settings
        self._folder = settings.data_dir / bank
        self._dirty: set[int] = set()
        self._access = access = Access(bank, self._folder, create=create)
        self._manifest = ManifestFile(bank, self._folder)
        writable, writers = access.lock is not None, writers_for(access.lock)
        self._layers = Layers(bank, self._folder, there=access.there, writable=writable, writers=writers)
        self._indexing = Indexing(bank, settings, self._layers, self._manifest, access.lock)
        self._queries = EngineQueries()
        self._captions = CaptionFilters(self._read_captions, shared=False)
        self._scanner = Scanner(self._layers, self._selected_ids, lambda layer: layer not in self._dirty)
        try:
            if access.lock is not None:
                self._finish_deletion()
                self._layers.clean()
                self._manifest.clean()
        except BaseException:
            self.close()
            raise

    @property
    def bank(self) -> str:
        """See `Store`."""
        return self._bank

    @property
    def settings(self) -> Settings:
        """See `Store`."""
        return self._settings

    @property
    def side_by_side(self) -> bool:
        """See `Store`."""
        return any(map(self._indexing.gets_many, self.layers()))

    def in_use(self) -> str:
        """See `Store`."""
        self._access.require_open()
        return read_pointer(split_name(self._bank)[0], self._settings)

    # -- manifest ------------------------------------------------------------------------------

    def read_manifest(self) -> StoredManifest | None:
        """See `Store`."""
        self._access.require_open()
        return self._manifest.read()

    def change_head(self, change: Change) -> Record | None:
        """See `Store`."""
        self._access.require_writable()
        return self._manifest.change_head(change)

    def change_entry(self, corpus: str, change: Change, instead_of: str | None = None) -> Record | None:
        """See `Store`."""
        self._access.require_writable()
        return self._manifest.change_entry(corpus, change, instead_of)

    def read_shares(self, corpus: str) -> Mapping[str, Record]:
        """See `Store`."""
        self._access.require_open()
        return self._manifest.read_shares(corpus)

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """See `Store`."""
        self._access.require_writable()
        self._manifest.write_shares(corpus, records)

    # -- layers --------------------------------------------------------------------------------

    def layers(self) -> list[int]:
        """See `Store`."""
        self._access.require_open()
        return self._layers.numbers()

    def create(self, layer: int, hidden_size: int, quantization: str) -> None:
        """See `Store`."""
        self._access.require_writable()
        with self._captions.changing():
            self._layers.create(layer, hidden_size, quantization, self._settings.hnsw_ef_construct)
        self._dirty.discard(layer)

    def defer_index(self, layer: int, expected: int) -> None:
        """See `Store`; the embedded engine never builds an index unasked."""
        self._access.require_writable()
        self._indexing.defer(layer, expected)

    def upsert(self, layer: int, points: Points) -> None:
        """See `Store`."""
        self._access.require_writable()
        self._layers.require_room(points.vectors.nbytes)
        if self._indexing.gets_many(layer):
            with self._captions.changing():
                self._dirty.add(layer)
                self._layers.store_elsewhere(layer, points)
                self._dirty.add(layer)  # a commit by another thread may have come too early
            return
        with self._captions.changing(), self._layers.writing, self._layers.use(layer, write=True) as shard:
            self._dirty.add(layer)
            for at in range(0, len(points.ids), _UPSERT):
                part = slice(at, at + _UPSERT)
                built = engine_points(
                    points.ids[part], row_views(points.vectors[part]), points.payloads[part]
                )
                self._layers.require_room(0)  # another program may be filling the disk
                shard.update(edge.UpdateOperation.upsert_points(built))
                if self._indexing.is_read():
                    time.sleep(_PAUSE)
            if not self._indexing.is_loading(layer):
                add_payload_indexes(shard, self._bank)

    def commit(self) -> None:
        """See `Store`."""
        self._access.require_writable()
        with self._layers.writing:
            dirty = sorted(self._dirty)
            self._dirty.clear()  # first: what other threads write meanwhile is left to the next commit
            try:
                states = {layer: self._layers.flush(layer) for layer in dirty}
            except BaseException:
                self._dirty.update(dirty)
                raise
            due = [layer for layer, state in states.items() if self._indexing.is_due(layer, state)]
        for layer in due:
            self._indexing.index_piece(layer)

    def index(self, *layers: int) -> None:
        """See `Store`."""
        self._access.require_writable()
        self._indexing.index({layer: self.count(layer) for layer in layers})

    def index_together(self, layers: Sequence[int]) -> list[list[int]]:
        """See `Store`."""
        return self._indexing.together({layer: self.count(layer) for layer in layers})

    # -- points --------------------------------------------------------------------------------

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
        self._indexing.note_search()
        self._indexing.index_captions(layer, where)
        where = self._captions.each_exact(layer, where)
        params = edge.SearchParams(
            hnsw_ef=max(limit, self._indexing.candidates(layer, ef or self._settings.ef)),
            exact=exact,
            quantization=edge.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=oversampling or self._settings.oversampling
            ),
            acorn=ACORN,
        )
        filters = each_condition(where, len(queries), DIALECT)
        requests = [
            edge.QueryRequest(
                limit=limit, query=query, filter=condition, params=params, with_payload=payloads
            )
            for query, condition in zip(self._queries.of(queries), filters, strict=True)
        ]
        with self._layers.use(layer) as shard:
            answers = shard.query_batch(edge.QueryBatchRequest(requests))
        return [
            [Hit(str(p.id), p.score, cast("Payload", p.payload) if payloads else None) for p in answer]
            for answer in answers
        ]

    def groups(
        self, layer: int, query: Floats, wanted: Groups, exact: bool = False, ef: int | None = None
    ) -> list[list[Hit]]:
        """See `Store`; the engine has no groups."""
        return grouped(self, layer, query, wanted, exact, ef)

    def work(self, layer: int, ef: int | None, hidden_size: int, where: Filter | None = None) -> Work | None:
        """See `Store`."""
        originals = self._scanner.originals(layer, hidden_size)
        if originals is None:
            return None
        selected = None if where is None else originals.counted(where, lambda: self.count(layer, where))
        return self._indexing.work(layer, ef or self._settings.ef, hidden_size, selected)

    def scan(
        self, layer: int, queries: Floats, limit: int, where: Filter | None, how: Scan
    ) -> list[list[Hit]] | None:
        """See `Store`."""
        self._indexing.note_search()
        return self._scanner.scan(layer, np.asarray(queries, np.float32), limit, where, how)

    def payloads(self, layer: int, ids: Sequence[str]) -> dict[str, Payload]:
        """See `Store`."""
        with self._layers.use(layer) as shard:
            found = shard.retrieve(list(ids), with_payload=True, with_vector=False)
        return {str(record.id): cast("Payload", record.payload) for record in found}

    def count(self, layer: int, where: Filter | None = None) -> int:
        """See `Store`."""
        request = edge.CountRequest(filter=self._selected(layer, where))
        with self._layers.use(layer) as shard:
            return shard.count(request)

    def facet(self, layer: int, field: str, where: Filter | None = None, limit: int = 100) -> dict[Any, int]:
        """See `Store`."""
        selected = self._selected(layer, where)
        if field not in self._layers.state(layer).payload_schema:  # the layer is small
            only = edge.PayloadSelector.Include([field])
            values = Counter((record.payload or {})[field] for record in self._scroll(layer, selected, only))
            return dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))[:limit])
        with self._layers.use(layer) as shard:
            answer = shard.facet(edge.FacetRequest(field, limit, True, selected))
        # The index still knows values whose points are all deleted.
        return {hit.value: hit.count for hit in answer.hits if hit.count}

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """See `Store`."""
        return self._layers.present(layer, ids)

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

    def _selected(self, layer: int, where: Filter | None) -> Any:
        """Return a filter as the engine's conditions, with which it finds exactly what the filter selects."""
        self._indexing.index_captions(layer, where)
        return conditions(self._captions.exact(layer, where), DIALECT)

    def _selected_ids(self, layer: int, where: Filter) -> Iterator[str]:
        return (str(record.id) for record in self._scroll(layer, self._selected(layer, where), False))

    def _read_captions(self, layer: int, where: Filter | None) -> Iterator[tuple[str, str]]:
        selected, only = conditions(where, DIALECT), edge.PayloadSelector.Include(["caption"])
        for record in self._scroll(layer, selected, only):
            yield str(record.id), (record.payload or {}).get("caption", "")

    def _scroll(
        self, layer: int, selected: Any, payloads: Any, vectors: bool = False, start: str | None = None
    ) -> Iterator[edge.Record]:
        offset: Any = start
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=_SCROLL, filter=selected, with_payload=payloads, with_vector=vectors
            )
            with self._layers.use(layer) as shard:
                records, offset = shard.scroll(request)
            yield from records
            if offset is None:
                return

    def delete_corpus(self, layer: int, corpus: str) -> None:
        """See `Store`."""
        self.delete_points(layer, Where(corpus=corpus))

    def delete_points(self, layer: int, where: Filter) -> None:
        """See `Store`."""
        self._access.require_writable()
        selected = conditions(where, DIALECT)
        with self._captions.changing(), self._layers.writing, self._layers.use(layer, write=True) as shard:
            shard.update(edge.UpdateOperation.delete_points_by_filter(selected))
            shard.flush()

    def save_snapshot(self, layer: int, file: Path, report: Callable[[int], None]) -> None:
        """See `Store`. The engine reads snapshots but does not make any."""
        del layer, file, report
        raise NoSnapshot("an embedded bank makes no snapshots")

    def load_snapshot(self, layer: int, save: Callable[[Path], None], expected: Mapping[str, int]) -> None:
        """See `Store`."""
        self._access.require_writable()
        head = (self.read_manifest() or ({}, {}))[0]
        self._layers.require_room(0)
        with received(self._layers.path(layer), save) as (file, fresh):
            self._layers.require_room(file.stat().st_size)
            with engine_errors(self._bank):
                unpack(file, fresh, head["hidden_size"], head["quantization"], expected)
            with self._captions.changing():
                self._layers.replace(layer, fresh)
            self._dirty.discard(layer)

    def info(self, layer: int) -> LayerInfo:
        """See `Store`."""
        state = self._layers.state(layer)
        points = self.count(layer)
        indexed = min(state.indexed_vectors_count, points)
        waiting = points - indexed if points - indexed > FEW else 0
        return LayerInfo(points, indexed, self._layers.bytes_on_disk(layer), waiting)

    # -- the whole bank ------------------------------------------------------------------------

    def delete(self) -> None:
        """See `Store`."""
        self._access.require_writable()
        self._layers.close_shards()
        if self._folder.is_dir():
            with engine_errors(self._bank):
                self._manifest.begin_deletion()
                self._finish_deletion()
                shutil.rmtree(self._folder)
        self.close()

    def _finish_deletion(self) -> None:
        if self._manifest.deleting:
            with engine_errors(self._bank):
                self._layers.delete()
                self._manifest.finish_deletion()

    def close(self) -> None:
        """See `Store`."""
        with self._layers.writing, self._layers.changing:
            self._layers.close()
            self._access.close()
