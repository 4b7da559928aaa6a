"""Layer collections on a server: how they and their payload indexes are created."""

from __future__ import annotations

from functools import partial
from typing import Any

from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from latentbank.bank.store.fields import holds_images, indexed_fields
from latentbank.bank.store.names import split_collection
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.indexing import OFF
from latentbank.bank.store.server.retrying import exists_already, refused
from latentbank.errors import BankUnavailable

# None of them adds links to the graph; see `graphs`.
_KEYWORD, _INTEGER = models.KeywordIndexType.KEYWORD, models.IntegerIndexType.INTEGER
_KINDS: dict[str, Any] = {
    "keyword": models.KeywordIndexParams(type=_KEYWORD, enable_hnsw=False),
    "grouping": models.KeywordIndexParams(type=_KEYWORD, is_tenant=True, enable_hnsw=False),
    "integer": models.IntegerIndexParams(type=_INTEGER, enable_hnsw=False),
}
_CAPTION = models.TextIndexParams(
    type=models.TextIndexType.TEXT,
    tokenizer=models.TokenizerType.MULTILINGUAL,
    lowercase=True,
    ascii_folding=True,
    phrase_matching=True,
    on_disk=True,
    enable_hnsw=False,
)


def create_layer(
    server: Connection,
    collection: str,
    hidden_size: int,
    quantization: str,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Create a layer collection with its payload indexes, replacing one of another size or quantization."""

    def create() -> bool:
        settings = server.settings
        try:
            server.rest.create_collection(
                collection,
                vectors_config=models.VectorParams(
                    size=hidden_size,
                    distance=models.Distance.COSINE,
                    datatype=models.Datatype.FLOAT16,
                    on_disk=True,
                ),
                quantization_config=_quantization(quantization),
                hnsw_config=models.HnswConfigDiff(m=0, ef_construct=settings.hnsw_ef_construct),
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=OFF),
                on_disk_payload=True,
                shard_number=settings.shard_number,
                replication_factor=settings.replication_factor,
                write_consistency_factor=settings.write_consistency_factor,
                metadata=metadata,
            )
        except Exception as error:
            if not exists_already(error):
                raise
            return False
        return True

    # It exists already if a first attempt's answer was lost, if another process creates the same bank at this moment,
    # or if a killed creation left it.
    if not server.call(create) and not _is_like(server, collection, hidden_size, quantization):
        server.call(partial(server.rest.delete_collection, collection))
        server.call(create)
    for field, kind in indexed_fields(_stored(collection)).items():
        _create_index(server, collection, field, _KINDS[kind])
    index_all_captions(server, collection)


def index_captions(server: Connection, collection: str) -> None:
    """Index a layer's captions unless they are; then they have the index of words that earlier versions made, or none.

    Without it, the server compares phrases with parts of captions, letter by letter.

    Raises:
        BankUnavailable: the API key may not do this.
    """
    info = server.call(partial(server.rest.get_collection, collection))
    right = _captions_of(info)
    # With fewer points than the collection has, another process is making the index; to request it again means to
    # wait for that, and changes nothing.
    if right is not None and info.payload_schema["caption"].points >= (info.points_count or 0):
        return

    def create() -> None:
        try:
            server.rest.create_payload_index(collection, "caption", field_schema=right or _CAPTION, wait=True)
        except UnexpectedResponse as error:
            if not refused(error):
                raise
            if right is None:
                raise BankUnavailable(
                    f"The captions of {collection} are indexed by an earlier version, or not yet, and this key only "
                    "reads; filter by caption_contains once with a key that may write."
                ) from None

    server.call(create)


def index_all_captions(server: Connection, collection: str) -> None:
    """Index a layer's captions, whatever its index is now; nothing if they are indexed as they should be.

    Visual tokens have no captions.
    """
    if not holds_images(_stored(collection)):
        info = server.call(partial(server.rest.get_collection, collection))
        _create_index(server, collection, "caption", _captions_of(info) or _CAPTION)


def _captions_of(info: models.CollectionInfo) -> models.TextIndexParams | None:
    """Return a layer's index of captions if it answers as `_CAPTION` does; None if there is none or another.

    One that earlier versions made adds links to the graph. To ask for it without them would delete it first.
    """
    index = (info.payload_schema or {}).get("caption")
    params = index.params if index is not None else None
    if not isinstance(params, models.TextIndexParams):
        return None
    right = params.tokenizer == _CAPTION.tokenizer and params.ascii_folding is True
    return params if right else None


def _stored(collection: str) -> str:
    """Return the name that a layer's collection is stored under."""
    parts = split_collection(collection)
    return parts[0] if parts else collection


def _is_like(server: Connection, collection: str, hidden_size: int, quantization: str) -> bool:
    """Return whether a collection has the parameters of a layer of this size and quantization."""
    config = server.call(partial(server.rest.get_collection, collection)).config
    vectors = config.params.vectors
    expected = _quantization(quantization)
    return (
        isinstance(vectors, models.VectorParams)
        and vectors.size == hidden_size
        and type(config.quantization_config) is type(expected)
    )


def _create_index(server: Connection, collection: str, field: str, schema: Any) -> None:
    create = server.rest.create_payload_index
    server.call(partial(create, collection, field, field_schema=schema, wait=True))


def _quantization(kind: str) -> Any:
    if kind == "int8":
        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        return models.ScalarQuantization(scalar=int8)
    if kind == "turbo":
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(always_ram=True))
    return None
