"""Readings of images that were written to Parquet files, read back one at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentbank.bank.points import Neighbor
from latentbank.errors import QueryError

_NEIGHBOR = (
    *("word", "token", "cosine", "caption", "start", "end", "bank_layer"),
    *("corpus", "sentence", "position", "token_id", "probability", "corrected"),
)
_PLACE = ("index", "tile", "row", "column", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class Cell:
    """A visual token in the grid of an image.

    Attributes:
        index: the token's position in the reading.
        box: left, top, right and bottom in pixels of the image.
    """

    index: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class StoredReading:
    """The reading of one image, as `ReadingFolder` has written it.

    Attributes:
        path: the file.
        head: the reading without its tokens, as `Reading.to_dict` gives it.
        table: a row for each neighbor, and one without a rank for each silent token.
    """

    path: Path
    head: Mapping[str, Any]
    table: pa.Table

    @property
    def source(self) -> str:
        """The image's name: its path as given, or DATASET/SPLIT/NUMBER."""
        return str(self.head["source"])

    @property
    def model(self) -> str:
        """The name of the VLM."""
        return str(self.head["model"])

    def grid(self) -> dict[tuple[int, int], Cell]:
        """Return the tokens of the first tile by row and column; that tile is the whole image if the model sees it."""
        columns = {
            name: pc.fill_null(self.table[name], -1).to_numpy() for name in ("index", "tile", "row", "column")
        }
        boxes = np.stack([self.table[name].to_numpy() for name in ("left", "top", "right", "bottom")], axis=1)
        inside = (columns["row"] >= 0) & np.isfinite(boxes.astype(np.float64)).all(axis=1)
        if not inside.any():
            return {}
        inside &= columns["tile"] == columns["tile"][inside].min()
        _, first = np.unique(columns["index"][inside], return_index=True)
        rows = np.flatnonzero(inside)[first]
        return {
            (int(columns["row"][at]), int(columns["column"][at])): Cell(
                int(columns["index"][at]), tuple(boxes[at].astype(float).tolist())
            )
            for at in rows
        }

    def neighbors(self, index: int) -> dict[tuple[str, int], tuple[Neighbor, ...]]:
        """Return the neighbors of one token, best first, by lens and layer; none where it is silent."""
        found: dict[tuple[str, int], list[Neighbor]] = {}
        own = self.table.filter(pc.equal(self.table["index"], index)).sort_by("rank")
        for row in own.to_pylist():
            of = found.setdefault((row["lens"], row["layer"]), [])
            if row["rank"] is None:
                continue
            given = {name: row[name] for name in _NEIGHBOR if name in row} | {"id": row["neighbor_id"]}
            given["cosine"] = math.nan if row["cosine"] is None else row["cosine"]
            of.append(Neighbor(**given))
        return {key: tuple(neighbors) for key, neighbors in found.items()}


def stored_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a folder of readings, sorted by name.

    Raises:
        QueryError: there is no such folder, or it holds no reading.
    """
    path = Path(folder).expanduser()
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if not files:
        raise QueryError(f"{folder} holds no readings: name a folder of Parquet files, one for each image.")
    return files


def read_head(path: Path) -> Mapping[str, Any]:
    """Return the head of a reading in a file of `stored_files`: its `source`, `model`, `lenses`, `layers` and so on.

    Raises:
        QueryError: it holds no reading of an image.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        head = json.loads(metadata[b"reading"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        head = {}
    if not head.get("size") or head.get("duration") is not None:
        raise QueryError(f"{path} holds no reading of an image.")
    found: Mapping[str, Any] = head
    return found


def open_stored(path: Path, lenses: Sequence[str] | None = None) -> StoredReading:
    """Return the reading in a file of `stored_files`.

    Args:
        path: the file.
        lenses: the lenses that are kept; None: all.

    Raises:
        QueryError: it holds no reading of an image.
    """
    head = read_head(path)
    chosen = None if lenses is None else [("lens", "in", list(lenses))]
    known = set(pq.read_schema(path).names)  # files of earlier versions lack some columns
    columns = [
        name for name in (*_PLACE, "layer", "lens", "rank", *_NEIGHBOR, "neighbor_id") if name in known
    ]
    return StoredReading(path, head, pq.read_table(path, columns=columns, filters=chosen, partitioning=None))
