"""The original vectors of an embedded layer, read from the engine's own files.

The engine (0.9.0, which is pinned) keeps a layer in segments. A segment that is indexed has its vectors in one file,
`vector_storage/matrix.dat`: four bytes, then rows of float16. Its contexts' ids are in `id_tracker.mappings`, and
`id_tracker.deleted` has a bit for each row. A segment that takes new contexts has its vectors in chunks, and a log of
ids that were added and deleted. After a flush these files hold what the engine answers with. What does not look like
this, or does not have as many contexts as the engine counts, is not read: the engine then searches alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Halves = npt.NDArray[np.float16]
Ids = npt.NDArray[np.bytes_]

_MATRIX_HEADER, _MAPPINGS_HEADER = 4, 8
# A row of `id_tracker.mappings`: 1 for a UUID, the UUID, and the number of its vector.
_MAPPING = np.dtype([("kind", "u1"), ("id", "S16"), ("row", "<u4")])
# Entries of the log of ids: the first byte says which it is.
_ADDED, _DELETED = 2, 4


class UnknownLayout(Exception):
    """The engine's files are not as they are expected to be."""


@dataclass(frozen=True, eq=False)
class Part:
    """Vectors that lie together.

    Attributes:
        vectors: float16 `[rows, hidden]`, mapped from a file.
        ids: each row's id, 16 bytes.
        alive: whether a row is a context that the layer holds; the others are deleted.
    """

    vectors: Halves
    ids: Ids
    alive: npt.NDArray[np.bool_]


def read_parts(layer: Path, hidden_size: int) -> list[Part]:
    """Return the vectors of the layer in a folder, in which nothing is written at the same time.

    Raises:
        UnknownLayout: the files are not those of the engine that this module knows.
    """
    try:
        return [
            part
            for segment in sorted((layer / "segments").iterdir())
            if (segment / "segment.json").exists()
            for part in _parts_of(segment, hidden_size)
            if len(part.ids)
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UnknownLayout(str(error)) from error


def text_ids(ids: Ids) -> list[str]:
    """Return ids of 16 bytes as the engine writes them, as UUIDs."""
    digits = np.ascontiguousarray(ids).tobytes().hex()
    each = (digits[at : at + 32] for at in range(0, len(digits), 32))
    return [f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}" for id_ in each]


def byte_ids(ids: list[str]) -> Ids:
    """Return UUIDs as ids of 16 bytes."""
    return np.array([bytes.fromhex(id_.replace("-", "")) for id_ in ids], "S16")


def _parts_of(segment: Path, hidden_size: int) -> list[Part]:
    config = json.loads((segment / "segment.json").read_text(encoding="utf-8"))["config"]
    (vectors,) = config["vector_data"].values()
    if vectors["datatype"] != "float16" or vectors["size"] != hidden_size:
        raise UnknownLayout("vectors of another size or type")
    if vectors["storage_type"] == "Mmap":
        return [_indexed(segment, hidden_size)]
    if vectors["storage_type"] == "ChunkedMmap":
        return _growing(segment, hidden_size)
    raise UnknownLayout(f"a storage of type {vectors['storage_type']}")


def _indexed(segment: Path, hidden_size: int) -> Part:
    mappings = segment / "id_tracker.mappings"
    count = int.from_bytes(_start(mappings, _MAPPINGS_HEADER), "little")
    if mappings.stat().st_size != _MAPPINGS_HEADER + count * _MAPPING.itemsize:
        raise UnknownLayout("ids of another length")
    entries = _mapped(mappings, _MAPPING, _MAPPINGS_HEADER, (count,))
    if not (entries["kind"] == 1).all() or not np.array_equal(entries["row"], np.arange(count)):
        raise UnknownLayout("ids in another order")
    matrix = segment / "vector_storage" / "matrix.dat"
    if _start(matrix, _MATRIX_HEADER) != b"data":
        raise UnknownLayout("vectors with another header")
    deleted = np.fromfile(segment / "id_tracker.deleted", np.uint8)
    alive = np.unpackbits(deleted, count=count, bitorder="little") == 0
    return Part(_mapped(matrix, np.dtype("<f2"), _MATRIX_HEADER, (count, hidden_size)), entries["id"], alive)


def _growing(segment: Path, hidden_size: int) -> list[Part]:
    folder = segment / "vector_storage" / "vectors"
    rows = _log(segment / "mutable_id_tracker.mappings")
    if not rows:
        return []
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config["chunk_size_vectors"]
    count = int.from_bytes(_start(folder / "status.dat", 8), "little")
    if config["dim"] != hidden_size or max(rows.values()) >= count:
        raise UnknownLayout("chunks of another size")
    ids, alive = np.zeros(count, "S16"), np.zeros(count, np.bool_)
    at = list(rows.values())
    ids[at], alive[at] = list(rows), True
    parts = []
    for number, start in enumerate(range(0, count, size)):
        some = slice(start, min(start + size, count))
        shape = (some.stop - some.start, hidden_size)
        vectors = _mapped(folder / f"chunk_{number}.mmap", np.dtype("<f2"), 0, shape)
        parts.append(Part(vectors, ids[some], alive[some]))
    return parts


def _log(file: Path) -> dict[bytes, int]:
    """Return the rows of the ids that a log adds and does not delete."""
    rows: dict[bytes, int] = {}
    if not file.exists():
        return rows
    log, at = file.read_bytes(), 0
    while at < len(log):
        kind, id_ = log[at], log[at + 1 : at + 17]
        if kind == _ADDED and at + 21 <= len(log):
            rows[id_] = int.from_bytes(log[at + 17 : at + 21], "little")
            at += 21
        elif kind == _DELETED and at + 17 <= len(log):
            rows.pop(id_, None)
            at += 17
        else:
            raise UnknownLayout("an unknown entry among the ids")
    return rows


def _start(file: Path, length: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(length)


def _mapped(file: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Map a file; its bytes are read when they are needed, and the system can reclaim the memory."""
    return np.asarray(np.memmap(file, dtype, mode="c", offset=offset, shape=shape))
