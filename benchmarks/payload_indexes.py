"""What payload indexes cost and bring in a small embedded layer, which has none below `engine.INDEXES_FROM` contexts.

python -m benchmarks.payload_indexes
"""

from __future__ import annotations

import argparse
import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from benchmarks.common import folder_bytes, machine, mib, place
from benchmarks.limits import best
from latentbank.bank.points import INDEXED_FIELDS
from latentbank.bank.store.embedded.engine import INDEXES_FROM, KINDS, layer_config

RUNS = 7
HIDDEN = 576
# The visual tokens of a picture of 21 by 21 patches.
QUERIES = 441
CONTEXTS = (512, INDEXES_FROM, 4 * INDEXES_FROM)
FILTERS = {"corpus": "a", "word": "w7", "position": 7}


def milliseconds(run: Callable[[], object]) -> float:
    """Return the shortest of several runs, in milliseconds."""
    return best(run, RUNS) * 1000


def create(folder: Path, *, indexed: bool) -> edge.EdgeShard:
    """Create an empty layer in a folder."""
    folder.mkdir()
    shard = edge.EdgeShard.create(str(folder), layer_config(HIDDEN, "int8", 100))
    if indexed:
        for field, kind in INDEXED_FIELDS.items():
            shard.update(edge.UpdateOperation.create_field_index(field, KINDS[kind]))
    shard.flush()
    return shard


def fill(shard: edge.EdgeShard, contexts: int) -> None:
    """Store contexts of two corpora, 500 words and 20 positions, with random vectors."""
    rows = np.random.default_rng(0).normal(size=(contexts, HIDDEN))
    points = [
        edge.Point(
            str(uuid.UUID(int=number)),
            row,
            {
                "corpus": "a" if number % 3 else "b",
                "word": f"w{number % 500}",
                "token_id": number % 1000,
                "position": number % 20,
                "caption": f"a dog runs through the park towards tree number {number}",
            },
        )
        for number, row in enumerate(rows.tolist())
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()


def search(shard: edge.EdgeShard, queries: Sequence[Any], condition: edge.Filter | None) -> object:
    """Search with all queries at once, as a reading does."""
    requests = [
        edge.QueryRequest(limit=10, query=edge.Query.Nearest(row), filter=condition, with_payload=True)
        for row in queries
    ]
    return shard.query_batch(edge.QueryBatchRequest(requests))


def measure(folder: Path, *, indexed: bool) -> dict[str, Any]:
    """Measure layers with or without payload indexes."""
    empty = folder / "empty"
    create(empty, indexed=indexed).close()
    queries = np.random.default_rng(1).normal(size=(QUERIES, HIDDEN)).tolist()
    found: dict[str, Any] = {
        "empty_bytes": folder_bytes(empty),
        "load_ms": milliseconds(lambda: edge.EdgeShard.load(str(empty), None).close()),
        "search_ms": {},
    }
    for contexts in CONTEXTS:
        shard = create(folder / str(contexts), indexed=indexed)
        fill(shard, contexts)
        times = {"none": milliseconds(partial(search, shard, queries, None))}
        for field, value in FILTERS.items():
            condition = edge.Filter(must=[edge.FieldCondition(key=field, match=edge.MatchValue(value))])
            times[field] = milliseconds(partial(search, shard, queries, condition))
        found["search_ms"][contexts] = {name: round(value, 1) for name, value in times.items()}
        shard.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    where, figures = machine(), {}
    print(
        f"{place(where)}, {where['date'][:10]}; {HIDDEN} dimensions, {QUERIES} queries at once, best of {RUNS}"
    )
    for indexed in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            figures["indexed" if indexed else "plain"] = found = measure(Path(folder), indexed=indexed)
        print(
            f"{'with' if indexed else 'without'} payload indexes: an empty layer takes {mib(found['empty_bytes'])} "
            f"and {found['load_ms']:.1f} ms to load"
        )
        for contexts, times in found["search_ms"].items():
            each = ", ".join(f"{name} {value:.0f} ms" for name, value in times.items())
            print(f"  {contexts:,} contexts, filter by {each}")
    if arguments.json:
        text = json.dumps({"figures": figures, "machine": where}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
