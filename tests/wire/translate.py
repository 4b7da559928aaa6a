"""Turns the client's REST models into the embedded engine's objects, for both transports."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as m

from tests.wire.errors import not_spoken, wrong

_DISTANCES = {
    m.Distance.COSINE: edge.Distance.Cosine,
    m.Distance.EUCLID: edge.Distance.Euclid,
    m.Distance.DOT: edge.Distance.Dot,
    m.Distance.MANHATTAN: edge.Distance.Manhattan,
}
_DATATYPES = {
    m.Datatype.FLOAT32: edge.VectorStorageDatatype.Float32,
    m.Datatype.FLOAT16: edge.VectorStorageDatatype.Float16,
    m.Datatype.UINT8: edge.VectorStorageDatatype.Uint8,
}
_MEMORY = {
    m.Memory.COLD: edge.Memory.Cold,
    m.Memory.CACHED: edge.Memory.Cached,
    m.Memory.PINNED: edge.Memory.Pinned,
}
_BITS = {
    m.TurboQuantBitSize.BITS1: edge.TurboQuantBitSize.Bits1,
    m.TurboQuantBitSize.BITS1_5: edge.TurboQuantBitSize.Bits1_5,
    m.TurboQuantBitSize.BITS2: edge.TurboQuantBitSize.Bits2,
    m.TurboQuantBitSize.BITS4: edge.TurboQuantBitSize.Bits4,
    m.TurboQuantBitSize.BITS8: edge.TurboQuantBitSize.Bits8,
}
_TOKENIZERS = {
    m.TokenizerType.PREFIX: edge.TokenizerType.Prefix,
    m.TokenizerType.WHITESPACE: edge.TokenizerType.Whitespace,
    m.TokenizerType.WORD: edge.TokenizerType.Word,
    m.TokenizerType.MULTILINGUAL: edge.TokenizerType.Multilingual,
}
_SCHEMA_TYPES = {
    m.PayloadSchemaType.KEYWORD: edge.PayloadSchemaType.Keyword,
    m.PayloadSchemaType.INTEGER: edge.PayloadSchemaType.Integer,
    m.PayloadSchemaType.FLOAT: edge.PayloadSchemaType.Float,
    m.PayloadSchemaType.GEO: edge.PayloadSchemaType.Geo,
    m.PayloadSchemaType.TEXT: edge.PayloadSchemaType.Text,
    m.PayloadSchemaType.BOOL: edge.PayloadSchemaType.Bool,
    m.PayloadSchemaType.DATETIME: edge.PayloadSchemaType.Datetime,
    m.PayloadSchemaType.UUID: edge.PayloadSchemaType.Uuid,
}
_INDEX_PARAMS = {
    m.KeywordIndexParams: edge.KeywordIndexParams,
    m.IntegerIndexParams: edge.IntegerIndexParams,
    m.FloatIndexParams: edge.FloatIndexParams,
    m.BoolIndexParams: edge.BoolIndexParams,
    m.UuidIndexParams: edge.UuidIndexParams,
    m.DatetimeIndexParams: edge.DatetimeIndexParams,
    m.TextIndexParams: edge.TextIndexParams,
}
_UPDATE_MODES = {
    m.UpdateMode.UPSERT: edge.UpdateMode.Upsert,
    m.UpdateMode.INSERT_ONLY: edge.UpdateMode.InsertOnly,
    m.UpdateMode.UPDATE_ONLY: edge.UpdateMode.UpdateOnly,
}


# Ids


def point_id(given: Any) -> int | uuid.UUID:
    """Return a point's id for the engine: a number from 0 on, or a UUID."""
    if isinstance(given, uuid.UUID):
        return given
    if isinstance(given, int):
        if given < 0:
            raise wrong(f"value {given} is not a valid point ID")
        return given
    try:
        return uuid.UUID(given)
    except ValueError:
        raise wrong(f"Unable to parse UUID: {given}") from None


def point_ids(given: Sequence[Any]) -> list[int | uuid.UUID | str]:
    """Return several points' ids for the engine."""
    return [point_id(item) for item in given]


def plain_id(stored: Any) -> int | str:
    """An engine's id as both transports send it: a number, or a UUID as text."""
    return stored if isinstance(stored, int) else str(stored)


# Filters


def to_filter(given: m.Filter | None, texts: Collection[str]) -> edge.Filter | None:
    """A filter, with its nested filters; `texts` are the fields with a text index."""
    if given is None:
        return None
    enough = given.min_should
    return edge.Filter(
        must=_conditions(given.must, texts),
        should=_conditions(given.should, texts),
        must_not=_conditions(given.must_not, texts),
        min_should=edge.MinShould(_conditions(enough.conditions, texts) or [], enough.min_count)
        if enough
        else None,
    )


def reads_words(given: m.Filter | None) -> bool:
    """Return whether a filter, or one inside it, asks for words of a text."""
    if given is None:
        return False
    enough = given.min_should.conditions if given.min_should else None
    for some in (given.must, given.should, given.must_not, enough):
        for item in some if isinstance(some, list) else [some]:
            match item:
                case m.FieldCondition(match=m.MatchText() | m.MatchTextAny() | m.MatchPhrase()):
                    return True
                case m.Filter() if reads_words(item):
                    return True
    return False


def _conditions(given: Any, texts: Collection[str]) -> list[Any] | None:
    if given is None:
        return None
    some = given if isinstance(given, list) else [given]
    return [_condition(item, texts) for item in some] or None


def _condition(given: Any, texts: Collection[str]) -> Any:
    match given:
        case m.Filter():
            return to_filter(given, texts)
        case m.FieldCondition(match=m.MatchText() | m.MatchTextAny() | m.MatchPhrase()) if (
            given.key not in texts
        ):
            return _substrings(given.key, given.match)
        case m.FieldCondition():
            return _field_condition(given)
        case m.IsEmptyCondition():
            return edge.IsEmptyCondition(given.is_empty.key)
        case m.IsNullCondition():
            return edge.IsNullCondition(given.is_null.key)
        case m.HasIdCondition():
            return edge.HasIdCondition({point_id(item) for item in given.has_id})
        case _:
            raise not_spoken(f"filter by {type(given).__name__}")


def _substrings(key: str, match: Any) -> Any:
    """What a text condition is on a field without a text index: exact substrings, where the engine splits words."""
    parts = {
        m.MatchText: lambda: [match.text],
        m.MatchPhrase: lambda: [match.phrase],
        m.MatchTextAny: lambda: match.text_any.split(),
    }[type(match)]()
    return edge.Filter(should=[edge.FieldCondition(key, match=edge.MatchSubstring(part)) for part in parts])


def _field_condition(given: m.FieldCondition) -> edge.FieldCondition:
    for name in ("geo_bounding_box", "geo_radius", "geo_polygon", "values_count"):
        if getattr(given, name) is not None:
            raise not_spoken(f"filter by {name}")
    return edge.FieldCondition(
        given.key,
        match=_match(given.match),
        range=_range(given.range),
        is_empty=given.is_empty,
        is_null=given.is_null,
    )


def _match(given: Any) -> Any:
    match given:
        case None:
            return None
        case m.MatchValue(value=bool()):
            # The engine's Python binding takes True for the number 1, which matches nothing.
            raise not_spoken("match by a bool")
        case m.MatchValue():
            return edge.MatchValue(given.value)
        case m.MatchAny():
            return edge.MatchAny(given.any)
        case m.MatchExcept():
            return edge.MatchExcept(given.except_)
        case m.MatchText():
            return edge.MatchText(given.text)
        case m.MatchTextAny():
            return edge.MatchTextAny(given.text_any)
        case m.MatchPhrase():
            return edge.MatchPhrase(given.phrase)
        case m.MatchPrefix():
            return edge.MatchPrefix(given.prefix)
        case _:
            raise not_spoken(f"match by {type(given).__name__}")


def _range(given: Any) -> Any:
    if given is None:
        return None
    limits = {name: getattr(given, name) for name in ("lt", "lte", "gt", "gte")}
    if isinstance(given, m.Range):
        return edge.RangeFloat(**limits)
    return edge.RangeDateTime(**{name: item.isoformat() if item else None for name, item in limits.items()})


# Searches


def to_query(given: m.QueryRequest, chosen: edge.Filter | None) -> edge.QueryRequest:
    """A search for the nearest points to a dense vector, or for any points without one, among those `chosen`."""
    for name in ("prefetch", "using", "lookup_from", "shard_key"):
        if getattr(given, name) is not None:
            raise not_spoken(f"query with {name}")
    return edge.QueryRequest(
        limit=10 if given.limit is None else given.limit,
        offset=given.offset,
        query=_nearest(given.query),
        filter=chosen,
        score_threshold=given.score_threshold,
        params=_search_params(given.params),
        with_vector=given.with_vector,
        with_payload=payload_selector(given.with_payload, default=False),
    )


def _nearest(given: Any) -> Any:
    if given is None:
        return None
    vector = given
    if isinstance(given, m.NearestQuery):
        if given.mmr is not None:
            raise not_spoken("query with mmr")
        vector = given.nearest
    if not isinstance(vector, list) or (vector and isinstance(vector[0], list)):
        raise not_spoken(f"query by {type(vector).__name__}")
    return edge.Query.Nearest(vector)


def _search_params(given: m.SearchParams | None) -> edge.SearchParams | None:
    if given is None:
        return None
    if given.idf is not None:
        raise not_spoken("query with idf")
    quantization, acorn = given.quantization, given.acorn
    return edge.SearchParams(
        hnsw_ef=given.hnsw_ef,
        exact=bool(given.exact),
        indexed_only=bool(given.indexed_only),
        quantization=edge.QuantizationSearchParams(
            ignore=bool(quantization.ignore),
            rescore=quantization.rescore,
            oversampling=quantization.oversampling,
        )
        if quantization
        else None,
        acorn=edge.AcornSearchParams(enable=bool(acorn.enable), max_selectivity=acorn.max_selectivity)
        if acorn
        else None,
    )


def payload_selector(given: Any, default: bool) -> Any:
    """Return which payload fields to send back: all, none, or some by name."""
    match given:
        case None:
            return default
        case m.PayloadSelectorInclude():
            return edge.PayloadSelector.Include(given.include)
        case m.PayloadSelectorExclude():
            return edge.PayloadSelector.Exclude(given.exclude)
        case list():
            return edge.PayloadSelector.Include(given)
        case _:
            return given


# Points


def to_upsert(
    points: Sequence[tuple[Any, Any, dict[str, Any] | None]],
    update_filter: edge.Filter | None,
    update_mode: m.UpdateMode | None,
) -> edge.UpdateOperation:
    """An upsert of (id, vector, payload) triples."""
    return edge.UpdateOperation.upsert_points(
        [edge.Point(point_id(item), vector, payload or {}) for item, vector, payload in points],
        update_filter,
        _UPDATE_MODES[update_mode] if update_mode else None,
    )


def to_index(given: m.CreateFieldIndex) -> edge.UpdateOperation:
    """A payload index on one field."""
    schema = given.field_schema
    if schema is None:
        raise not_spoken("an index without a field schema")
    if isinstance(schema, m.PayloadSchemaType):
        return edge.UpdateOperation.create_field_index(given.field_name, _SCHEMA_TYPES[schema])
    if type(schema) not in _INDEX_PARAMS:
        raise not_spoken(f"an index with {type(schema).__name__}")
    settings = {name: value for name, value in schema if name != "type" and value is not None}
    for name in ("stopwords", "stemmer", "scoring"):
        if name in settings:
            raise not_spoken(f"a text index with {name}")
    if "memory" in settings:
        settings["memory"] = _MEMORY[settings["memory"]]
    if "tokenizer" in settings:
        settings["tokenizer"] = _TOKENIZERS[settings["tokenizer"]]
    return edge.UpdateOperation.create_field_index(given.field_name, _INDEX_PARAMS[type(schema)](**settings))


# Configuration


def to_config(config: m.CollectionConfig) -> edge.EdgeConfig:
    """Return a collection's configuration, as the server reports it, as the engine's own.

    Vectors and payloads stay in their files, wherever a server would keep them, and changes are not logged: as it is
    loaded, even an empty shard would otherwise read files of 32 MB.
    """
    params, optimizers = config.params, config.optimizer_config
    vectors = params.vectors
    if vectors and not isinstance(vectors, m.VectorParams):
        raise not_spoken("named vectors")
    return edge.EdgeConfig(
        vectors=_vector_params(vectors, config.hnsw_config) if isinstance(vectors, m.VectorParams) else None,
        # The engine, unlike the server, wants vectors of some kind: nothing is ever stored under this name.
        sparse_vectors=None if vectors else {"none": edge.EdgeSparseVectorParams()},
        payload_memory=edge.Memory.Cold,
        id_tracker_memory=_memory(params.id_tracker.memory if params.id_tracker else None),
        hnsw_config=_hnsw(config.hnsw_config),
        quantization_config=_quantization(config.quantization_config),
        optimizers=edge.EdgeOptimizersConfig(
            deleted_threshold=optimizers.deleted_threshold,
            vacuum_min_vector_number=optimizers.vacuum_min_vector_number,
            default_segment_number=optimizers.default_segment_number or None,
            max_segment_size=optimizers.max_segment_size,
            indexing_threshold=optimizers.indexing_threshold,
            prevent_unoptimized=optimizers.prevent_unoptimized,
        ),
        wal_enabled=False,
        max_search_threads=1,
    )


def _vector_params(given: m.VectorParams, hnsw: m.HnswConfig) -> edge.EdgeVectorParams:
    if given.multivector_config is not None:
        raise not_spoken("multivectors")
    if given.datatype is not None and given.datatype not in _DATATYPES:
        raise not_spoken(f"vectors of {given.datatype.value}")
    own = given.hnsw_config.model_dump(exclude_none=True) if given.hnsw_config else None
    return edge.EdgeVectorParams(
        size=given.size,
        distance=_DISTANCES[given.distance],
        memory=edge.Memory.Cold,
        datatype=_DATATYPES[given.datatype] if given.datatype else None,
        quantization_config=_quantization(given.quantization_config),
        hnsw_config=_hnsw(hnsw.model_copy(update=own)) if own else None,
    )


def _memory(given: m.Memory | None) -> edge.Memory | None:
    return None if given is None else _MEMORY[given]


def _hnsw(given: m.HnswConfig) -> edge.HnswIndexConfig:
    return edge.HnswIndexConfig(
        m=given.m,
        ef_construct=given.ef_construct,
        full_scan_threshold=given.full_scan_threshold,
        max_indexing_threads=given.max_indexing_threads or 0,
        on_disk=given.on_disk,
        payload_m=given.payload_m,
        inline_storage=given.inline_storage,
        memory=_memory(given.memory),
    )


def _quantization(given: Any) -> Any:
    match given:
        case None:
            return None
        case m.ScalarQuantization():
            scalar = given.scalar
            return edge.ScalarQuantizationConfig(
                edge.ScalarType.Int8,
                quantile=scalar.quantile,
                always_ram=scalar.always_ram,
                memory=_memory(scalar.memory),
            )
        case m.TurboQuantization():
            turbo = given.turbo
            return edge.TurboQuantQuantizationConfig(
                always_ram=turbo.always_ram,
                bits=_BITS[turbo.bits] if turbo.bits else None,
                memory=_memory(turbo.memory),
            )
        case _:
            raise not_spoken(f"quantization by {type(given).__name__}")
