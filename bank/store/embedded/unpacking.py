"""Layers from snapshots of a server's shards: unpacked by the engine, and checked before they are used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as edge

from latentbank.bank.store.base import MOST_CORPORA, NoSnapshot
from latentbank.bank.store.embedded.engine import engine_failed, layer_config, no_room
from latentbank.files import move, sync
from latentbank.text import first_line

# A file in a layer's folder that says that its segments are as a server indexed them.
_MARK = "from-snapshot"


def is_from_snapshot(path: Path) -> bool:
    """Return whether a layer's folder was unpacked from a snapshot and still has its segments."""
    return (path / _MARK).exists()


def forget_origin(path: Path) -> None:
    """Record that a layer's segments are about to be rewritten, so they are no longer the snapshot's."""
    (path / _MARK).unlink(missing_ok=True)


@contextmanager
def received(path: Path, save: Callable[[Path], None]) -> Iterator[tuple[Path, Path]]:
    """Save a snapshot beside a layer's folder; yield its file and a folder to unpack it to. Both are removed."""
    file, fresh = path.with_suffix(".snapshot"), path.with_suffix(".new")
    try:
        save(file)
        shutil.rmtree(fresh, ignore_errors=True)
        yield file, fresh
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)


def unpack(
    file: Path, folder: Path, hidden_size: int, quantization: str, expected: Mapping[str, int]
) -> None:
    """Create a layer's folder from a snapshot, with the server's vectors, codes, graphs and payload indexes.

    Args:
        file: a snapshot of a shard, the tar file that a server sends.
        folder: the folder to create.
        hidden_size: size of the bank's vectors.
        quantization: how the bank's vectors are compressed.
        expected: number of contexts by the name their corpus is stored under.

    Raises:
        NoSnapshot: the engine cannot read it, or it holds other contexts.
    """
    try:
        unpacked = _unpack(file, folder, hidden_size, quantization)
    except BaseException as error:
        if not engine_failed(error) or no_room(str(error)):
            raise
        raise NoSnapshot(
            f"the engine cannot read the server's snapshot ({first_line(error).rstrip('.')})"
        ) from None
    if unpacked != dict(expected):
        raise NoSnapshot("the snapshot holds other contexts than the ledger says")
    (folder / _MARK).touch()
    for path in (folder, *folder.rglob("*")):
        sync(path)


def _unpack(file: Path, folder: Path, hidden_size: int, quantization: str) -> dict[str, int]:
    """Unpack a snapshot, and return how many contexts of each corpus it holds."""
    whole = folder / "whole"
    folder.mkdir()
    edge.EdgeShard.unpack_snapshot(str(file), str(whole))
    # The rest serves only the server: its write-ahead log, which is empty, and the state of replicas.
    move(whole / "segments", folder / "segments")
    shutil.rmtree(whole)
    config = layer_config(hidden_size, quantization, *_graph(folder))
    shard = edge.EdgeShard.load(str(folder), config)
    try:
        hits = shard.facet(edge.FacetRequest("corpus", MOST_CORPORA, True)).hits
        shard.flush()
    finally:
        shard.close()
    return {str(hit.value): hit.count for hit in hits if hit.count}


def _graph(folder: Path) -> tuple[int, int]:
    """Return the candidates that a layer's largest graph was built with, and its edges per node (0: no graph).

    Raises:
        NoSnapshot: a segment describes itself in an unknown way.
    """
    found = [(100, 0)]
    for file in folder.glob("segments/*/segment.json"):
        try:
            for vectors in json.loads(file.read_text(encoding="utf-8"))["config"]["vector_data"].values():
                index = vectors["index"]
                if index["type"] == "hnsw":
                    found.append((index["options"]["ef_construct"], index["options"]["m"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NoSnapshot("the server's snapshot describes its segments in an unknown way") from None
    return max(found, key=lambda graph: graph[1])
