"""Settings of the embedded engine for a layer: what stays in memory, what on the disk; and its errors.

Each process that indexes a layer imports this first: it is done sooner without numpy and the settings' library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from latentbank.bank.store.fields import indexed_fields
from latentbank.bank.store.graphs import LEAST_SCAN, MOST_BY_ACORN, kib
from latentbank.errors import BankUnavailable
from latentbank.text import first_line

# In the page cache, not copied to this process's own memory: a bank then opens in a fifth of the time, is searched as
# fast, and the system can reclaim the memory. Payload indexes are read when a filter needs them.
_CODES = _GRAPH = edge.Memory.Cached
_INDEXES = edge.Memory.Cold

# Messages of the system and the engine when there is no room: on the disk, in a quota, for one file, to optimize.
_NO_ROOM = ("No space left", "quota exceeded", "File too large", "Not enough space")

# None of them adds links to the graph; see `graphs`.
KINDS: dict[str, Any] = {
    "keyword": edge.KeywordIndexParams(memory=_INDEXES, enable_hnsw=False),
    # A "tenant" in the engine's words: contexts of one word are stored side by side. They are each other's nearest
    # neighbors, so a search in the graph reads from fewer places.
    "grouping": edge.KeywordIndexParams(memory=_INDEXES, is_tenant=True, enable_hnsw=False),
    "integer": edge.IntegerIndexParams(memory=_INDEXES, enable_hnsw=False),
}
"""Payload indexes by the kinds that `latentbank.bank.store.fields.indexed_fields` names."""

ACORN = edge.AcornSearchParams(enable=True, max_selectivity=MOST_BY_ACORN)
"""How a graph is searched with a filter that selects too much for a scan."""

INDEXES_FROM = 4096
"""Contexts from which a layer has payload indexes. With them even an empty layer takes 35 ms to load, instead of 2 ms,
and fewer contexts are filtered about as fast without them (benchmarks/payload_indexes.py, AMD EPYC, 2026-11-28)."""

CAPTION_INDEX = edge.TextIndexParams(
    tokenizer=edge.TokenizerType.Multilingual,
    lowercase=True,
    ascii_folding=True,
    phrase_matching=True,
    memory=_INDEXES,
    enable_hnsw=False,
)
"""The payload index for filters by caption."""


def add_payload_indexes(shard: edge.EdgeShard, bank: str) -> None:
    """Index the payload fields that filters name, once a layer of `bank` is large enough to gain from it."""
    state = shard.info()
    if state.points_count >= INDEXES_FROM:
        for field, kind in indexed_fields(bank).items():
            if field not in state.payload_schema:
                shard.update(edge.UpdateOperation.create_field_index(field, KINDS[kind]))


def has_caption_index(state: edge.ShardInfo) -> bool:
    """Return whether a layer has `CAPTION_INDEX`, and not the index of words that earlier versions made."""
    index = state.payload_schema.get("caption")
    params = index.params if index is not None else None
    return (
        isinstance(params, edge.TextIndexParams)
        and params.tokenizer == CAPTION_INDEX.tokenizer
        and params.ascii_folding is True
    )


def layer_config(
    hidden_size: int,
    quantization: str,
    ef_construct: int,
    graph: int = 0,
    largest: int | None = None,
    segments: int | None = None,
    scan: int = LEAST_SCAN,
) -> edge.EdgeConfig:
    """Return a layer's settings.

    Args:
        hidden_size: size of its vectors, which are kept as float16.
        quantization: "int8", "turbo" or "none".
        ef_construct: candidates examined while the graph is built.
        graph: edges per node of the graph; 0: no graph, the quantized vectors are scanned.
        largest: most contexts in a segment that results from merging; None: the engine's choice.
        segments: how many segments there may be before some are merged; None: the engine's choice.
        scan: see `scan_for`; another one than a layer has makes the engine build it anew. The default is a server's.
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
            m=graph, ef_construct=ef_construct, full_scan_threshold=scan, memory=_GRAPH
        ),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=1,
            # One more: the engine keeps a segment for new points.
            default_segment_number=None if segments is None else segments + 1,
            max_segment_size=None if largest is None else kib(largest, hidden_size),
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


@dataclass(frozen=True)
class GraphSettings:
    """Settings of a layer's graph, with which it was built.

    Attributes:
        edges: per node; 0: there is no graph.
        ef_construct: candidates examined while it was built.
        scan: KiB of vectors in a segment up to which it is scanned; see `scan_for`.
    """

    edges: int
    ef_construct: int
    scan: int


def graph_of(path: Path) -> GraphSettings:
    """Return the settings of the graph of the layer in a folder."""
    found = json.loads((path / "edge_config.json").read_text(encoding="utf-8"))["hnsw_config"]
    return GraphSettings(int(found["m"]), int(found["ef_construct"]), int(found["full_scan_threshold"]))


def engine_failed(error: BaseException) -> bool:
    """Return whether an error is the engine's, which raises plain Exception, or a panic not derived from it."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def no_room(text: str) -> bool:
    """Return whether an error's text says that there is no room on the disk."""
    return any(sign in text for sign in _NO_ROOM)


def unusable(bank: str, text: str) -> BankUnavailable:
    """Return the error for a bank whose files the engine or the system failed to use, with their message `text`."""
    if no_room(text):
        return BankUnavailable(
            f"The disk of bank '{bank}' is full or its quota used up; make room and run the command again, "
            "it continues where it stopped."
        )
    return BankUnavailable(f"The bank '{bank}' cannot be used: {text.rstrip('.')}.")


@contextmanager
def engine_errors(bank: str) -> Iterator[None]:
    """Turn errors of the engine and of the system in the block into BankUnavailable with one sentence."""
    try:
        yield
    except BaseException as error:
        if not engine_failed(error) and not isinstance(error, OSError):
            raise
        raise unusable(bank, first_line(error)) from error


def read_ahead(path: Path) -> None:
    """Read the files that the engine is about to map into the page cache; by itself it would read page by page.

    Original vectors, payloads and payload indexes are left out: a search needs few of them.
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
