"""How the embedded engine keeps a layer: its settings, what is in memory and what stays on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qdrant_edge as edge

# In the page cache, not copied to this process's own memory: opening a bank takes a fifth of the time, searching it
# as long, and the system can take the memory back. Indexes are read where a filter needs them.
_CODES = _GRAPH = edge.Memory.Cached
_INDEXES = edge.Memory.Cold

# How the system and the engine say that there is no room: on the disk, in a quota, for one file, to optimize.
_NO_ROOM = ("No space left", "quota exceeded", "File too large", "Not enough space")

KINDS: dict[str, Any] = {
    "keyword": edge.KeywordIndexParams(memory=_INDEXES),
    # A "tenant" in the engine's words: contexts of one word are stored side by side. They are each other's nearest, so
    # that a search in the graph reads from fewer places.
    "grouping": edge.KeywordIndexParams(memory=_INDEXES, is_tenant=True),
    "integer": edge.IntegerIndexParams(memory=_INDEXES),
}
"""Payload indexes by the kinds that `latentbank.bank.points.INDEXED_FIELDS` names."""

CAPTION_INDEX = edge.TextIndexParams(
    tokenizer=edge.TokenizerType.Word, lowercase=True, phrase_matching=True, memory=_INDEXES
)


def layer_config(
    hidden_size: int,
    quantization: str,
    ef_construct: int,
    graph: int = 0,
    largest: int | None = None,
    segments: int | None = None,
) -> edge.EdgeConfig:
    """Give a layer's settings.

    Args:
        hidden_size: of its vectors, kept as float16.
        quantization: "int8", "turbo" or "none".
        ef_construct: candidates while the graph is built.
        graph: edges per node of the graph; 0: no graph, the codes are scanned.
        largest: contexts in a segment that comes from merging, at most; None: the engine's choice.
        segments: how many there may be before some are merged; None: the engine's choice.
    """
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            size=hidden_size,
            distance=edge.Distance.Cosine,
            datatype=edge.VectorStorageDatatype.Float16,
            memory=edge.Memory.Cold,
            quantization_config=_quantization(quantization),
        ),
        hnsw_config=edge.HnswIndexConfig(
            m=graph, ef_construct=ef_construct, full_scan_threshold=10_000, memory=_GRAPH
        ),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=1,
            # One more: the engine keeps a segment for new points.
            default_segment_number=None if segments is None else segments + 1,
            max_segment_size=None if largest is None else -(-largest * 2 * hidden_size // 1024),  # in KiB
        ),
        payload_memory=edge.Memory.Cold,
        wal_enabled=False,
    )


def _quantization(kind: str) -> Any:
    if kind == "int8":
        return edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, memory=_CODES)
    if kind == "turbo":
        return edge.TurboQuantQuantizationConfig(memory=_CODES)
    return None


def graph_of(path: Path) -> int:
    """Give the edges per node of the graph that a layer's folder says it has; 0: none."""
    return int(json.loads((path / "edge_config.json").read_text(encoding="utf-8"))["hnsw_config"]["m"])


def engine_failed(error: BaseException) -> bool:
    """Tell whether an error is the engine's: it raises plain Exception, or a panic that is none."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def no_room(text: str) -> bool:
    """Tell whether an error's text says that there is no room on the disk."""
    return any(sign in text for sign in _NO_ROOM)


def read_ahead(path: Path) -> None:
    """Bring what the engine is about to map into the page cache: left to itself it reads page by page.

    Not the originals and the payloads, of which a search needs a few, nor the payload indexes.
    """
    buffer = bytearray(1 << 18)  # fits into a processor's cache
    for file in path.rglob("*"):
        cold = file.name == "matrix.dat" or {"payload_storage", "payload_index"} & {
            *file.relative_to(path).parts
        }
        if not cold and file.is_file():
            with file.open("rb", buffering=0) as raw:
                while raw.readinto(buffer):
                    pass
