"""The server store: layer collections on a Qdrant server or cluster, shared by a team.

Bulk work goes over gRPC where the server answers there, everything else over REST. The manifest is
collection metadata of the bank's lowest layer: its head under one key, each corpus's ledger entry and each
record about a share of an ingestion under a key of its own, so that a change to one cannot overwrite
another's (the server merges metadata by key).
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import numpy as np
from qdrant_client import models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.points import INDEXED_FIELDS, Payload
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import (
    Floats,
    Hit,
    LayerInfo,
    NoSnapshot,
    Points,
    Stored,
    collection_name,
    share_key,
    share_path,
    split_collection,
)
from latentbank.bank.store.conditions import conditions, each_condition
from latentbank.bank.store.server.aliases import switch, version_in_use
from latentbank.bank.store.server.downloading import save_snapshot
from latentbank.bank.store.server.messages import point_messages
from latentbank.bank.store.server.retrying import call, exists_already, refused, too_often
from latentbank.bank.token import claims_of, only_reads
from latentbank.bank.versions import split_name
from latentbank.bank.where import Filter, Where
from latentbank.errors import BankNotFound, BankUnavailable

log = logging.getLogger("latentbank")
T = TypeVar("T")

_HEAD = "latentbank"
_ENTRY = "corpus/"
_SHARE = "share/"
_SCROLL = 1000
# The first Qdrant with everything that a layer collection asks for.
_OLDEST = (1, 18)
# Seconds before the second look at a collection that is being indexed; doubles, at most 1.
_FIRST_LOOK = 0.05
# gRPC's own limit of two minutes would outlast our retries after a server's restart.
_LONGEST_BACKOFF_MS = 5_000

_KINDS: dict[str, Any] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "grouping": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "integer": models.PayloadSchemaType.INTEGER,
}


def server_bank_names(settings: Settings) -> list[str]:
    """Give the stored names of all versions of all banks on the server that this key may see, sorted."""
    client = _connect(settings, prefer_grpc=False)
    try:
        banks = _bank_layers(client, settings)
        # What a killed creation or deletion left is no bank: its lowest layer carries no manifest.
        return sorted(
            bank
            for bank, layers in banks.items()
            if _HEAD in _metadata(client, settings, collection_name(bank, layers[0]))
        )
    finally:
        client.close()


def server_names_in_use(banks: Iterable[str], settings: Settings) -> dict[str, str]:
    """See `latentbank.bank.store.base.names_in_use`."""
    client = _connect(settings, prefer_grpc=False)
    try:
        return {bank: _version_in_use(client, settings, bank) for bank in banks}
    finally:
        client.close()


def switch_on_server(bank: str, stored: str, layers: Iterable[int], settings: Settings) -> None:
    """See `latentbank.bank.store.base.put_in_use`."""
    client = _connect(settings, prefer_grpc=False)
    try:
        switch(client, partial(_call, settings), bank, stored, layers)
    finally:
        client.close()


def require_server_writer(settings: Settings) -> None:
    """See `require_writer`. What is asked for changes nothing, but only who may manage may ask for it."""
    reader = BankUnavailable(
        f"The key for the server {settings.url} is a reader's: it may read banks, not make or change them; set "
        "LATENTBANK_API_KEY to a key that may write."
    )
    claims = claims_of(settings.key() or "")
    if claims is not None and only_reads(claims):
        raise reader
    client = _connect(settings, prefer_grpc=False)

    def ask() -> None:
        try:
            client.update_collection_aliases(change_aliases_operations=[])
        except UnexpectedResponse as error:
            # Else it is a token that has expired or was signed with another key.
            if error.status_code == 403 and b"access is required" in error.content:
                raise reader from None
            raise

    try:
        _call(settings, ask)
    finally:
        client.close()


def _version_in_use(client: QdrantRemote, settings: Settings, bank: str) -> str:
    by_token = claims_of(settings.key() or "") is not None
    return version_in_use(client, partial(_call, settings), bank, by_token=by_token)


def _bank_layers(client: QdrantRemote, settings: Settings) -> dict[str, list[int]]:
    """Give the layers, ascending, of everything on the server that is named like a layer collection."""
    found: dict[str, list[int]] = {}
    for collection in _call(settings, client.get_collections).collections:
        if parts := split_collection(collection.name):
            found.setdefault(parts[0], []).append(parts[1])
    return {bank: sorted(layers) for bank, layers in found.items()}


def _metadata(client: QdrantRemote, settings: Settings, collection: str) -> dict[str, Any]:
    return _call(settings, partial(client.get_collection, collection)).config.metadata or {}


def _beginning(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}


def _call(settings: Settings, request: Callable[[], T]) -> T:
    return call(request, settings.url, settings.retries, settings.retry_wait)


class ServerStore:
    """See `latentbank.bank.store.base.Store`."""

    shared = True

    def __init__(self, bank: str, settings: Settings) -> None:
        self._bank = bank
        self._settings = settings
        self._rest = _connect(settings, prefer_grpc=False)
        self._bulk: QdrantRemote | None = None
        self._guard = threading.Lock()
        self._checked = False

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
        return _version_in_use(self._rest, self._settings, split_name(self._bank)[0])

    # -- manifest ------------------------------------------------------------------------------

    def read_manifest(self) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]] | None:
        """See `Store`."""
        self._check_version()
        metadata = self._read_metadata()
        if _HEAD not in metadata:
            return None
        return metadata[_HEAD], _beginning(metadata, _ENTRY)

    def _read_metadata(self) -> dict[str, Any]:
        layers = self.layers()
        return _metadata(self._rest, self._settings, self._collection(layers[0])) if layers else {}

    def _check_version(self) -> None:
        """Refuse a server that would drop parts of what a bank is without a word; asked once."""
        if self._checked:
            return
        version = self._call(self._rest.info).version
        found = re.match(r"(\d+)\.(\d+)", version)
        if found and (int(found[1]), int(found[2])) < _OLDEST:
            raise BankUnavailable(
                f"The server {self._settings.url} runs Qdrant {version}; a bank needs "
                f"{'.'.join(map(str, _OLDEST))} or newer: update it."
            )
        self._checked = True

    def write_manifest(self, head: Mapping[str, Any]) -> None:
        """See `Store`."""
        self._merge_metadata({_HEAD: dict(head)})

    def write_entry(self, corpus: str, entry: Mapping[str, Any] | None) -> None:
        """See `Store`."""
        self.write_entries({corpus: entry})

    def write_entries(self, entries: Mapping[str, Mapping[str, Any] | None]) -> None:
        """See `Store`. One request, which the server applies whole."""
        self._merge_rows(_ENTRY, entries)

    def read_shares(self, corpus: str) -> Mapping[str, Mapping[str, Any]]:
        """See `Store`."""
        found = _beginning(self._read_metadata(), _SHARE)
        return {key: one for path, one in found.items() if (key := share_key(path, corpus)) is not None}

    def write_shares(self, corpus: str, records: Mapping[str, Mapping[str, Any] | None]) -> None:
        """See `Store`."""
        self._merge_rows(_SHARE, {share_path(corpus, key): one for key, one in records.items()})

    def _merge_rows(self, prefix: str, rows: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._merge_metadata({prefix + key: None if row is None else dict(row) for key, row in rows.items()})

    def _merge_metadata(self, change: dict[str, Any]) -> None:
        layers = self.layers()
        if not layers:
            raise BankNotFound(f"The server {self._settings.url} has no bank '{self._bank}'.")
        self._call(partial(self._rest.update_collection, self._collection(layers[0]), metadata=change))

    # -- layers --------------------------------------------------------------------------------

    def layers(self) -> list[int]:
        """See `Store`."""
        return _bank_layers(self._rest, self._settings).get(self._bank, [])

    def create(self, layer: int, hidden_size: int, quantization: str) -> None:
        """See `Store`."""
        name, settings = self._collection(layer), self._settings

        def make() -> bool:
            try:
                self._rest.create_collection(
                    name,
                    vectors_config=models.VectorParams(
                        size=hidden_size,
                        distance=models.Distance.COSINE,
                        datatype=models.Datatype.FLOAT16,
                        on_disk=True,
                    ),
                    quantization_config=_quantization(quantization),
                    hnsw_config=models.HnswConfigDiff(m=0, ef_construct=settings.hnsw_ef_construct),
                    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
                    on_disk_payload=True,
                    shard_number=settings.shard_number,
                    replication_factor=settings.replication_factor,
                    write_consistency_factor=settings.write_consistency_factor,
                )
            except Exception as error:
                if not exists_already(error):
                    raise
                return False
            return True

        # It is there if a first try's answer was lost, if another process makes the same bank at this moment, or if
        # a killed creation left it.
        if not self._call(make) and not self._is_made(name, hidden_size, quantization):
            self._call(partial(self._rest.delete_collection, name))
            self._call(make)
        for field, kind in INDEXED_FIELDS.items():
            self._create_index(layer, field, _KINDS[kind])

    def _is_made(self, collection: str, hidden_size: int, quantization: str) -> bool:
        """Tell whether a collection holds what a layer of this size and quantization does."""
        config = self._call(partial(self._rest.get_collection, collection)).config
        vectors = config.params.vectors
        wanted = _quantization(quantization)
        return (
            isinstance(vectors, models.VectorParams)
            and vectors.size == hidden_size
            and type(config.quantization_config) is type(wanted)
        )

    def _create_index(self, layer: int, field: str, schema: Any) -> None:
        collection = self._collection(layer)
        self._call(
            partial(self._rest.create_payload_index, collection, field, field_schema=schema, wait=True)
        )

    def defer_index(self, layer: int, expected: int) -> None:
        """See `Store`."""
        del expected  # the server itself divides a layer into segments
        never = models.OptimizersConfigDiff(indexing_threshold=0)
        self._update(layer, optimizers_config=never)

    def index(self, layer: int) -> None:
        """See `Store`."""
        text = models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.WORD,
            lowercase=True,
            phrase_matching=True,
            on_disk=True,
        )
        self._create_index(layer, "caption", text)
        settings = self._settings
        m = settings.hnsw_m if self.count(layer) >= settings.graph_from else 0
        self._update(
            layer,
            hnsw_config=models.HnswConfigDiff(m=m, ef_construct=settings.hnsw_ef_construct),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
        )
        self._wait_until_indexed(layer)

    def _wait_until_indexed(self, layer: int) -> None:
        """Wait for the server's optimizers: until it says green twice, for they start a moment after a change."""
        greens, pause = 0, _FIRST_LOOK
        while greens < 2:
            info = self._call(partial(self._rest.get_collection, self._collection(layer)))
            if info.status == models.CollectionStatus.RED:
                raise BankUnavailable(
                    f"The server {self._settings.url} failed to index {self._collection(layer)}: "
                    f"{info.optimizer_status}; see its log."
                )
            if info.status == models.CollectionStatus.GREY:
                # A server that was restarted waits for a change before it goes on.
                self._update(layer, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
            greens = greens + 1 if info.status == models.CollectionStatus.GREEN else 0
            if greens < 2:
                time.sleep(pause)
                pause = min(pause * 2, 1.0)

    def _update(self, layer: int, **change: Any) -> None:
        self._call(partial(self._rest.update_collection, self._collection(layer), **change))

    # -- points --------------------------------------------------------------------------------

    def upsert(self, layer: int, points: Points) -> None:
        """See `Store`. Each request is answered after it was written, so `commit` has nothing to do."""
        name, step, client = self._collection(layer), self._settings.upload_batch, self._fast()
        make = _point_structs if client is self._rest else point_messages
        for at in range(0, len(points.ids), step):
            part = slice(at, at + step)
            batch = make(Points(points.ids[part], points.vectors[part], points.payloads[part]))
            self._call(partial(client.upsert, name, batch, wait=True))

    def commit(self) -> None:
        """See `Store`."""

    def search(
        self,
        layer: int,
        queries: Floats,
        limit: int,
        where: Filter | Sequence[Filter | None] | None = None,
        exact: bool = False,
        payloads: bool = True,
        ef: int | None = None,
    ) -> list[list[Hit]]:
        """See `Store`."""
        params = models.SearchParams(
            hnsw_ef=max(ef or self._settings.ef, limit),
            exact=exact,
            quantization=models.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=self._settings.oversampling
            ),
        )
        rows = np.asarray(queries, dtype=np.float32).tolist()
        requests = [
            models.QueryRequest(
                query=models.NearestQuery(nearest=row),
                limit=limit,
                filter=condition,
                params=params,
                with_payload=payloads,
            )
            for row, condition in zip(
                rows, each_condition(where, len(rows), models, models.Range), strict=True
            )
        ]
        name = self._collection(layer)
        answers = self._call(partial(self._fast().query_batch_points, name, requests))
        return [
            [Hit(str(p.id), p.score, cast("Payload", p.payload) if payloads else None) for p in answer.points]
            for answer in answers
        ]

    def payloads(self, layer: int, ids: Sequence[str]) -> dict[str, Payload]:
        """See `Store`."""
        records = self._retrieve(layer, ids, payloads=True)
        return {str(record.id): cast("Payload", record.payload) for record in records}

    def count(self, layer: int, where: Filter | None = None) -> int:
        """See `Store`."""
        selected = conditions(where, models, models.Range)
        name = self._collection(layer)
        return self._call(partial(self._rest.count, name, count_filter=selected, exact=True)).count

    def facet(self, layer: int, field: str, where: Filter | None = None, limit: int = 100) -> dict[Any, int]:
        """See `Store`."""
        selected = conditions(where, models, models.Range)
        name = self._collection(layer)
        answer = self._call(
            partial(self._rest.facet, name, field, facet_filter=selected, limit=limit, exact=True)
        )
        # Values whose points are all deleted are still known to the index.
        return {hit.value: hit.count for hit in answer.hits if hit.count}

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """See `Store`."""
        return {str(record.id) for record in self._retrieve(layer, ids, payloads=False)}

    def _retrieve(self, layer: int, ids: Sequence[str], *, payloads: bool) -> Iterator[models.Record]:
        name = self._collection(layer)
        for at in range(0, len(ids), _SCROLL):
            part = list(ids[at : at + _SCROLL])
            yield from self._call(
                partial(self._fast().retrieve, name, part, with_payload=payloads, with_vectors=False)
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
        selected = conditions(where, models, models.Range)
        name = self._collection(layer)
        offset: Any = start
        while True:
            records, offset = self._call(
                partial(
                    self._fast().scroll,
                    name,
                    scroll_filter=selected,
                    limit=_SCROLL,
                    offset=offset,
                    with_payload=payloads,
                    with_vectors=vectors,
                )
            )
            for record in records:
                row = np.asarray(record.vector, dtype=np.float32) if vectors else None
                yield Stored(str(record.id), cast("Payload", record.payload) if payloads else None, row)
            if offset is None:
                return

    def delete_corpus(self, layer: int, corpus: str) -> None:
        """See `Store`."""
        selector = models.FilterSelector(filter=conditions(Where(corpus=corpus), models, models.Range))
        name = self._collection(layer)
        self._call(partial(self._rest.delete, name, selector, wait=True))

    def save_snapshot(self, layer: int, file: Path, told: Callable[[int], None]) -> None:
        """See `Store`."""
        save_snapshot(self._rest, self._settings, self._collection(layer), file, told)

    def load_snapshot(self, layer: int, save: Callable[[Path], None], expected: Mapping[str, int]) -> None:
        """See `Store`. The embedded engine makes no snapshots that a server could take."""
        del layer, save, expected
        raise NoSnapshot("only an embedded bank can be filled from snapshots")

    def info(self, layer: int) -> LayerInfo:
        """See `Store`."""
        name = self._collection(layer)
        state = self._call(partial(self._rest.get_collection, name))
        points = self.count(layer)
        return LayerInfo(points, min(state.indexed_vectors_count or 0, points), None)

    # -- the whole bank ------------------------------------------------------------------------

    def delete(self) -> None:
        """See `Store`."""
        # The lowest layer, which carries the manifest, goes first: an interrupted deletion leaves no bank.
        for layer in self.layers():
            self._call(partial(self._rest.delete_collection, self._collection(layer)))

    def close(self) -> None:
        """See `Store`."""
        self._rest.close()
        if self._bulk is not None and self._bulk is not self._rest:
            self._bulk.close()

    def _collection(self, layer: int) -> str:
        return collection_name(self._bank, layer)

    def _call(self, request: Callable[[], T]) -> T:
        return _call(self._settings, request)

    def _fast(self) -> QdrantRemote:
        """Give the client for bulk work: over gRPC, or REST where the server has no gRPC port for us."""
        with self._guard:
            if self._bulk is None:
                self._bulk = self._grpc() or self._rest
            return self._bulk

    def _grpc(self) -> QdrantRemote | None:
        if not self._settings.prefer_grpc:
            return None
        client = _connect(self._settings, prefer_grpc=True)
        try:
            client.collection_exists(self._collection(0))
        except (grpc.RpcError, QdrantException) as error:
            # A refused key is an answer too, and so is "too often". Anything else means that this port is closed,
            # filtered or not gRPC's, for the server itself is there: the manifest was read over REST.
            if not (refused(error) or too_often(error)):
                client.close()
                log.warning(
                    "%s: no gRPC on port %d, bulk work goes over REST (slower)",
                    self._settings.url,
                    self._settings.grpc_port,
                )
                return None
        return client


def _point_structs(points: Points) -> list[Any]:
    rows = zip(points.ids, points.vectors.tolist(), points.payloads, strict=True)
    return [models.PointStruct(id=id_, vector=row, payload=dict(payload)) for id_, row, payload in rows]


def _quantization(kind: str) -> Any:
    if kind == "int8":
        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        return models.ScalarQuantization(scalar=int8)
    if kind == "turbo":
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(always_ram=True))
    return None


@lru_cache
def warn_unencrypted(url: str) -> None:
    """Say that the key can be read on its way to a server: once in a process, which connects several times."""
    log.warning("%s: the API key is sent unencrypted; use https:// outside a trusted network", url)


def _connect(settings: Settings, *, prefer_grpc: bool) -> QdrantRemote:
    key, secure = settings.key(), settings.url.startswith("https://")
    options: dict[str, Any] = {"grpc.max_reconnect_backoff_ms": _LONGEST_BACKOFF_MS}
    # Where there are no certificates to check, reading those of all public authorities only costs time.
    verify: Any = secure
    if secure and settings.tls_ca is not None:
        try:
            options["root_certificates"] = settings.tls_ca.read_bytes()
            verify = ssl.create_default_context(cafile=settings.tls_ca)
        except OSError as error:
            raise BankUnavailable(
                f"The certificate file {settings.tls_ca} cannot be read ({error.strerror}); correct "
                "LATENTBANK_TLS_CA."
            ) from None
    if key is not None and not secure:
        warn_unencrypted(settings.url)
    # Not QdrantRemote's wrapper QdrantClient: it looks for texts to embed in every request, and for that copies
    # each query number by number, which takes longer than the search.
    with warnings.catch_warnings():
        # The client says the same in its own words, with a line of our source.
        warnings.simplefilter("ignore")
        return QdrantRemote(
            url=settings.url,
            port=6333,
            grpc_port=settings.grpc_port,
            prefer_grpc=prefer_grpc,
            api_key=key,
            timeout=settings.timeout,
            grpc_options=options,
            check_compatibility=False,
            verify=verify,
        )
