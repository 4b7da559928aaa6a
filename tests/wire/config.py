"""A collection's settings: the server's defaults, and how requests change them."""

from typing import Any

from pydantic import BaseModel
from qdrant_client.http import models as m

from tests.wire.errors import not_spoken, wrong

_HNSW = m.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10000, max_indexing_threads=0, on_disk=False)
_OPTIMIZERS = m.OptimizersConfig(
    deleted_threshold=0.2,
    vacuum_min_vector_number=1000,
    default_segment_number=0,
    indexing_threshold=10000,
    flush_interval_sec=5,
)
_WAL = m.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0, wal_retain_closed=1)


def initial_config(given: m.CreateCollection) -> m.CollectionConfig:
    """Return the settings of a new collection."""
    for name in ("sparse_vectors", "strict_mode_config", "sharding_method"):
        if getattr(given, name) is not None:
            raise not_spoken(f"creating a collection with {name}")
    return m.CollectionConfig(
        params=m.CollectionParams(
            vectors=given.vectors or {},
            shard_number=given.shard_number or 1,
            replication_factor=given.replication_factor or 1,
            write_consistency_factor=given.write_consistency_factor or 1,
            on_disk_payload=True if given.on_disk_payload is None else given.on_disk_payload,
            payload=given.payload,
            id_tracker=given.id_tracker,
        ),
        hnsw_config=_merged(_HNSW, given.hnsw_config),
        optimizer_config=_merged(_OPTIMIZERS, given.optimizers_config),
        wal_config=_merged(_WAL, given.wal_config),
        quantization_config=given.quantization_config,
        metadata=_metadata(None, given.metadata),
    )


def updated_config(config: m.CollectionConfig, given: m.UpdateCollection) -> m.CollectionConfig:
    """Return settings with the changes of a request."""
    changes: dict[str, Any] = {
        "hnsw_config": _merged(config.hnsw_config, given.hnsw_config),
        "optimizer_config": _merged(config.optimizer_config, given.optimizers_config),
        "params": _merged(config.params, given.params),
        "metadata": _metadata(config.metadata, given.metadata),
    }
    if given.quantization_config is not None:
        changes["quantization_config"] = _enabled(given.quantization_config)
    if given.vectors is not None:
        changes["params"] = changes["params"].model_copy(
            update={"vectors": _updated_vectors(config.params.vectors, given.vectors)}
        )
    return config.model_copy(update=changes)


def _updated_vectors(vectors: Any, given: dict[str, m.VectorParamsDiff]) -> m.VectorParams:
    if set(given) != {""}:
        raise wrong(f"Not existing vector name error: {', '.join(given)}")
    changes = {name: value for name, value in given[""] if value is not None}
    if "quantization_config" in changes:
        changes["quantization_config"] = _enabled(changes["quantization_config"])
    updated: m.VectorParams = vectors.model_copy(update=changes)
    return updated


def without_metadata(config: m.CollectionConfig) -> m.CollectionConfig:
    """Return what concerns the engine."""
    return config.model_copy(update={"metadata": None})


def _enabled(given: Any) -> Any:
    return None if given == m.Disabled.DISABLED else given


def _merged(base: Any, diff: BaseModel | None) -> Any:
    """Return `base` with the fields that `diff` sets."""
    changes = {name: value for name, value in diff if value is not None} if diff else {}
    if changes.get("max_optimization_threads") == m.MaxOptimizationThreadsSetting.AUTO:
        changes["max_optimization_threads"] = None
    return base.model_copy(update=changes)


def _metadata(base: dict[str, Any] | None, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return metadata merged key by key, in the server's order: null removes a key, and the last moves into its place.

    The first metadata of a collection is kept as it was given.
    """
    if base is None or given is None:
        return given if base is None else base
    merged = dict(base)
    for key, value in given.items():
        if value is not None:
            merged[key] = value
        elif key in merged:
            last, moved = merged.popitem()
            if last != key:
                merged = {
                    last if name == key else name: moved if name == key else old
                    for name, old in merged.items()
                }
    return merged
