"""One collection of the double: an embedded shard on disk, and what the server reports about it."""

import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as m

from tests.wire import translate
from tests.wire.archive import Snapshot
from tests.wire.config import initial_config, updated_config, without_metadata
from tests.wire.errors import Refusal, WireError, not_spoken, wrong
from tests.wire.graph import Graph
from tests.wire.groups import query_groups
from tests.wire.optimizers import Optimizers

# Bytes of a stored number, by which the size of segments is measured.
_BYTES = {None: 4, m.Datatype.FLOAT32: 4, m.Datatype.FLOAT16: 2, m.Datatype.UINT8: 1}


@dataclass(frozen=True)
class Upsert:
    """Points to store as (id, vector, payload) triples, from either transport.

    A vector is a list [size] of numbers, or an empty dict for collections without vectors.
    """

    points: Sequence[tuple[Any, Any, dict[str, Any] | None]]
    update_filter: m.Filter | None = None
    update_mode: m.UpdateMode | None = None


def dense(vector: Any) -> Any:
    """The vector itself, if it is one plain list of numbers, or there is none ({})."""
    if vector == {}:
        return {}
    if not isinstance(vector, list) or (vector and isinstance(vector[0], list)):
        raise not_spoken("vectors that are not plain lists of numbers")
    return vector


class Collection:
    """A collection in its own directory. Every method may be called from any thread."""

    def __init__(self, directory: Path, given: m.CreateCollection) -> None:
        """Create the collection on disk; raises WireError for settings that the engine or the double refuses."""
        self.config = initial_config(given)
        self._directory = directory
        self._lock = threading.RLock()
        self._schemas: dict[str, Any] = {}
        self._indexes: dict[str, edge.UpdateOperation] = {}
        self._built: set[str] = set()
        self.optimizers = Optimizers()
        self._graph = Graph()
        directory.mkdir(parents=True)
        with _engine_errors():
            self._shard = edge.EdgeShard.create(str(directory), translate.to_config(self.config))
        self._open = True

    # Lifecycle

    def close(self) -> None:
        """Close the shard, as a server does when it stops."""
        with self._lock:
            if self._open:
                self._shard.close()
                self._open = False

    def open(self) -> None:
        """Load the shard from disk again."""
        with self._lock:
            if not self._open:
                self._shard = edge.EdgeShard.load(str(self._directory))
                self._open = True
                self.optimizers.restarted()

    def remove(self) -> None:
        """Close the shard and remove its files."""
        self.close()
        shutil.rmtree(self._directory)

    # What the server reports

    @property
    def size(self) -> int | None:
        """The length of its vectors, or None if it holds payload alone."""
        vectors = self.config.params.vectors
        return vectors.size if isinstance(vectors, m.VectorParams) else None

    def points(self) -> int:
        """The number of its points."""
        with self._lock, self._shard_in_use() as shard:
            return int(shard.info().points_count)

    def info(self) -> m.CollectionInfo:
        """Return state and configuration; a look at it lets its optimizers work (see `tests.wire.optimizers`)."""
        with self._lock, self._shard_in_use() as shard:
            status = self.optimizers.look(partial(self._optimize, shard))
            info = shard.info()
            return m.CollectionInfo(
                status=status,
                optimizer_status=self.optimizers.status,
                points_count=info.points_count,
                indexed_vectors_count=info.indexed_vectors_count,
                segments_count=info.segments_count,
                config=self.config,
                payload_schema={
                    field: m.PayloadIndexInfo(**schema, points=self._indexed_points(shard, info, field))
                    for field, schema in self._schemas.items()
                },
                update_queue=m.UpdateQueueInfo(length=0),
            )

    def snapshot(self, shard_id: int) -> Snapshot:
        """Return a snapshot of its shard, to be written while it is sent; nothing changes meanwhile."""
        if shard_id != 0:
            raise WireError(Refusal.NOT_FOUND, f"Not found: Shard {shard_id} not found")

        def segments() -> dict[str, Any]:
            with self._shard_in_use() as shard:
                self._build_indexes(shard, self._schemas.keys() - self._texts)
                shard.flush()
                return dict(shard.snapshot_manifest())

        return Snapshot(self._directory, segments, self._lock)

    # Changes

    def update(self, given: m.UpdateCollection) -> None:
        """Change the configuration; the shard is loaded again with it."""
        for name in ("sparse_vectors", "strict_mode_config"):
            if getattr(given, name) is not None:
                raise not_spoken(f"updating {name}")
        with self._lock:
            before, self.config = self.config, updated_config(self.config, given)
            if without_metadata(before) == without_metadata(self.config):
                if given.optimizers_config is not None:
                    self._note_stale()  # optimizers begin anew whatever the change was
                return
            try:
                config = translate.to_config(self.config)
            except WireError:
                self.config = before
                raise
            with self._shard_in_use() as shard:
                self._drop_indexes(shard)
                shard.close()
                self._shard = edge.EdgeShard.load(str(self._directory), config)
            indexes = ("quantization_config", "hnsw_config")
            self._note_stale(
                rebuilt=any(getattr(before, name) != getattr(self.config, name) for name in indexes)
            )

    def create_index(self, given: m.CreateFieldIndex) -> None:
        """Index a payload field.

        The engine builds the index when an answer depends on it. That is cheap: whenever the shard is loaded, an index
        takes 4 MB and 5 ms, one of words 32 MB and 30 ms, however few points there are.
        """
        operation = translate.to_index(given)
        schema = given.field_schema
        assert schema is not None
        with self._lock:
            self._indexes[given.field_name] = operation
            self._built.discard(given.field_name)
            self._schemas[given.field_name] = (
                {"data_type": schema}
                if isinstance(schema, m.PayloadSchemaType)
                else {"data_type": m.PayloadSchemaType(schema.type.value), "params": schema}
            )

    def upsert(self, given: Upsert) -> None:
        """Store points; all of them or, when a vector has the wrong size, none."""
        for _, vector, _ in given.points:
            if self.size is None:
                if vector != {}:
                    raise wrong("Not existing vector name error: ")
            elif vector == {}:
                raise not_spoken("a point without its vector")
            elif len(vector) != self.size:
                raise wrong(f"Vector dimension error: expected dim: {self.size}, got {len(vector)}")
        with _engine_errors():
            chosen = self._filter(given.update_filter)
            operation = translate.to_upsert(given.points, chosen, given.update_mode)
        with self._lock, self._shard_in_use() as shard:
            shard.update(operation)
            self._note_stale()

    def delete(self, given: m.PointsSelector) -> None:
        """Delete points by id or by filter."""
        match given:
            case m.PointIdsList():
                operation = edge.UpdateOperation.delete_points(translate.point_ids(given.points))
            case m.FilterSelector():
                chosen = self._filter(given.filter)
                assert chosen is not None
                operation = edge.UpdateOperation.delete_points_by_filter(chosen)
        with self._lock, self._shard_in_use() as shard:
            shard.update(operation)

    # Reads

    def retrieve(self, given: m.PointRequest) -> list[m.Record]:
        """Return the points with these ids that exist, in the order of the request."""
        ids = translate.point_ids(given.ids)
        payload = translate.payload_selector(given.with_payload, default=True)
        with self._lock, self._shard_in_use() as shard:
            found = shard.retrieve(ids, payload, given.with_vector or False)
        return [_record(item) for item in found]

    def scroll(self, given: m.ScrollRequest) -> m.ScrollResult:
        """Return a page of points by ascending id, and the id that the next page starts with."""
        if given.order_by is not None:
            raise not_spoken("scroll with order_by")
        request = edge.ScrollRequest(
            offset=None if given.offset is None else translate.point_id(given.offset),
            limit=10 if given.limit is None else given.limit,
            filter=self._filter(given.filter),
            with_payload=translate.payload_selector(given.with_payload, default=True),
            with_vector=given.with_vector or False,
        )
        with self._lock, self._shard_in_use() as shard:
            found, following = shard.scroll(request)
        return m.ScrollResult.model_construct(
            points=[_record(item) for item in found],
            next_page_offset=None if following is None else translate.plain_id(following),
        )

    def count(self, given: m.CountRequest) -> m.CountResult:
        """Return how many points match."""
        request = edge.CountRequest(exact=given.exact is not False, filter=self._filter(given.filter))
        with self._lock, self._shard_in_use() as shard:
            return m.CountResult(count=shard.count(request))

    def facet(self, given: m.FacetRequest) -> m.FacetResponse:
        """Return the most frequent values of an indexed field."""
        request = edge.FacetRequest(
            given.key,
            limit=10 if given.limit is None else given.limit,
            exact=bool(given.exact),
            filter=self._filter(given.filter),
        )
        with self._lock, self._shard_in_use() as shard:
            self._build_indexes(shard, {given.key})
            hits = shard.facet(request).hits
        return m.FacetResponse(hits=[m.FacetValueHit(value=hit.value, count=hit.count) for hit in hits])

    def query(self, given: list[m.QueryRequest]) -> list[m.QueryResponse]:
        """Return the results of several searches, in order."""
        with _engine_errors():
            filters = [self._filter(item.filter) for item in given]
        with self._lock, self._shard_in_use() as shard:
            asked = [
                translate.to_query(item, self._found_by(shard, item, chosen))
                for item, chosen in zip(given, filters, strict=True)
            ]
            found = shard.query_batch(edge.QueryBatchRequest(asked))
        return [m.QueryResponse.model_construct(points=[_scored(item) for item in some]) for some in found]

    def query_groups(self, given: m.QueryGroupsRequest) -> m.GroupsResult:
        """Return the groups whose best points are nearest."""
        return query_groups(given, lambda request: self.query([request])[0].points)

    # Inside

    def _optimize(self, shard: edge.EdgeShard) -> None:
        shard.optimize()
        self._graph.optimized(shard, self.config.hnsw_config)

    def _found_by(
        self, shard: edge.EdgeShard, asked: m.QueryRequest, chosen: edge.Filter | None
    ) -> edge.Filter | None:
        """Return what a search finds of what its filter selects; see `tests.wire.graph`."""
        if asked.params is not None and asked.params.exact:
            return chosen
        scanned = self.config.hnsw_config.full_scan_threshold * 1024
        return self._graph.seen(shard, chosen, scanned // (2 * (self.size or 1)))

    @property
    def _texts(self) -> set[str]:
        """The fields with a text index."""
        text = m.PayloadSchemaType.TEXT
        return {field for field, schema in self._schemas.items() if schema["data_type"] == text}

    def _build_indexes(self, shard: edge.EdgeShard, fields: Iterable[str]) -> None:
        for field in self._indexes.keys() & set(fields) - self._built:
            shard.update(self._indexes[field])
            self._built.add(field)

    def _drop_indexes(self, shard: edge.EdgeShard) -> None:
        while self._built:
            shard.update(edge.UpdateOperation.delete_field_index(self._built.pop()))

    def _indexed_points(self, shard: edge.EdgeShard, info: Any, field: str) -> int:
        if field in info.payload_schema:
            return int(info.payload_schema[field].points)
        without = edge.Filter(must_not=[edge.IsEmptyCondition(field)])
        return int(shard.count(edge.CountRequest(exact=True, filter=without)))

    def _filter(self, given: m.Filter | None) -> edge.Filter | None:
        if translate.reads_words(given):  # the engine finds other words with an index of them than without
            with self._lock, self._shard_in_use() as shard:
                self._build_indexes(shard, self._texts)
        return translate.to_filter(given, self._texts)

    @contextmanager
    def _shard_in_use(self) -> Iterator[edge.EdgeShard]:
        with _engine_errors():
            yield self._shard

    def _note_stale(self, rebuilt: bool = False) -> None:
        """Tell the optimizers whether they have work: enough vectors outside the index, or storage to rebuild."""
        vectors = self.config.params.vectors
        if not isinstance(vectors, m.VectorParams):
            return
        info = self._shard.info()
        threshold = self.config.optimizer_config.indexing_threshold or 0
        waiting = (info.points_count - info.indexed_vectors_count) * vectors.size * _BYTES[vectors.datatype]
        unindexed = threshold > 0 and waiting >= threshold * 1024
        self.optimizers.changed(due=unindexed or (rebuilt and info.indexed_vectors_count > 0))


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Translate the engine's errors: it raises plain Exception and ValueError for its own faults and the request's."""
    try:
        yield
    except WireError:
        raise
    except (AssertionError, AttributeError, LookupError, TypeError):
        # These are mistakes in the double itself.
        raise
    except Exception as error:
        own_fault, _, what = str(error).partition("Service runtime error: ")
        if what and not own_fault:
            raise WireError(Refusal.INTERNAL, what) from error
        raise wrong(str(error)) from error


def _record(found: edge.Record) -> m.Record:
    # Built without validation: the engine's own data need none, and vectors are long.
    return m.Record.model_construct(
        id=translate.plain_id(found.id), payload=found.payload, vector=found.vector
    )


def _scored(found: edge.ScoredPoint) -> m.ScoredPoint:
    return m.ScoredPoint.model_construct(
        id=translate.plain_id(found.id),
        version=found.version,
        score=found.score,
        payload=found.payload,
        vector=found.vector,
    )
