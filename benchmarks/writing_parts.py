"""What writing a context to an embedded layer consists of, in processor time, by the number of dimensions.

    python -m benchmarks.writing_parts --json writing-parts.json

Random states are scaled and rotated, given to the engine as a bank's writer gives them, stored in new layers without
and with payload indexes, and quantized. All of it happens in this process and on one core; what a writer's processes
say to each other is left out. A part's figure is the least of several turns.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import qdrant_edge as edge

from benchmarks.common import Row, machine, parser_of, show, write_json
from benchmarks.writing import LAYERS, batches
from latentbank.bank.rotation import ROTATION_SEED, rotated_units
from latentbank.bank.store.embedded.engine import KINDS, layer_config
from latentbank.bank.store.embedded.points import engine_points, row_views
from latentbank.bank.store.fields import indexed_fields

_UPSERT = 64  # points in one operation, as a bank's writer passes them


def main() -> None:
    """Measure all sizes and print the table."""
    parser = parser_of("benchmarks.writing_parts", __doc__)
    add = parser.add_argument
    add("--dimensions", default="576,4096")
    add("--contexts", type=int, default=20_000, help="contexts of a layer")
    add("--turns", type=int, default=3, help="how often each part is timed")
    add("--work", type=Path, help="folder for the layers (a temporary one)")
    add("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    widths = [int(size) for size in arguments.dimensions.split(",")]
    found = {
        width: _least([_parts(width, arguments.contexts, arguments.work) for _ in range(arguments.turns)])
        for width in widths
    }
    rows = [
        Row(f"{width:,} dimensions: {part}", "", f"{seconds * 1e6:,.1f} µs", None)
        for width in widths
        for part, seconds in found[width].items()
    ]
    sizes, where = {"contexts": arguments.contexts, "turns": arguments.turns}, machine()
    show("Processor time of writing a context", sizes, rows, where, ("", "a context"))
    write_json(arguments.json, sizes, rows, {str(width): parts for width, parts in found.items()}, where)


def _least(turns: list[dict[str, float]]) -> dict[str, float]:
    return {part: min(turn[part] for turn in turns) for part in turns[0]}


def _parts(width: int, contexts: int, work: Path | None) -> dict[str, float]:
    """Return the processor seconds of each part, for one context."""
    seconds = dict.fromkeys(("rotated", "numbers", "points", "plain", "indexed", "quantized"), 0.0)

    def timed(part: str, do: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = do()
        seconds[part] += time.process_time() - began
        return result

    with tempfile.TemporaryDirectory(dir=work) as folder:
        layers = {name: Path(folder, name) for name in ("plain", "indexed")}
        shards = {name: _new_layer(path, width, indexed=name == "indexed") for name, path in layers.items()}
        for encoded in batches(width, contexts):
            rows = timed("rotated", lambda given=encoded: _rotated(given.states[LAYERS[0]]))
            for at in range(0, len(rows), _UPSERT):
                part = slice(at, at + _UPSERT)
                ids, some, payloads = encoded.ids[part], rows[part], encoded.payloads[part]
                timed("numbers", lambda given=(ids, some): _vectors(*given))
                points = timed("points", lambda given=(ids, some, payloads): engine_points(*given))
                for name, shard in shards.items():
                    upsert = edge.UpdateOperation.upsert_points(points)
                    timed(name, lambda given=(shard, upsert): given[0].update(given[1]))
        for name, shard in shards.items():
            timed(name, shard.flush)
            shard.close()
        timed("quantized", lambda: _optimize(layers["plain"], width))
    each = {part: spent / contexts for part, spent in seconds.items()}
    return {
        "scaling and rotating": each["rotated"],
        "the engine reads the numbers": each["numbers"],
        "... and the payload": each["points"] - each["numbers"],
        "storing": each["plain"],
        "storing with payload indexes": each["indexed"],
        "quantizing": each["quantized"],
    }


def _new_layer(path: Path, width: int, *, indexed: bool) -> edge.EdgeShard:
    path.mkdir()
    shard = edge.EdgeShard.create(str(path), layer_config(width, "int8", ef_construct=100))
    if indexed:
        for field, kind in indexed_fields("parts").items():
            shard.update(edge.UpdateOperation.create_field_index(field, KINDS[kind]))
    return shard


def _rotated(states: np.ndarray[Any, Any]) -> list[memoryview]:
    return list(row_views(rotated_units(states, ROTATION_SEED)))


def _vectors(ids: list[str], rows: list[memoryview]) -> list[edge.PointVectors]:
    return [edge.PointVectors(id_, cast("Any", row)) for id_, row in zip(ids, rows, strict=True)]


def _optimize(path: Path, width: int) -> None:
    """Quantize what a layer holds, as a bank does once for every piece of a layer that is being loaded."""
    shard = edge.EdgeShard.load(str(path), layer_config(width, "int8", ef_construct=100))
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main()
