"""Quantizations side by side: int8, turbo (4 bits) and none, embedded, on the same real contexts and queries.

    python -m benchmarks.quantization --states DIR --contexts 150000 --layers 8,16 --json quantization.json

Each bank is made from the states (see search.py, whose queries are used) and searched in a process of its own, with a
warm page cache. Recall is relative to exact float32 cosines; ties count as right. Every search rescores its candidates
with the float16 originals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, folder_bytes, in_child, machine, mib, parser_of, show, warm, write_json
from benchmarks.growth import parts_of
from benchmarks.indexes import make_queries
from benchmarks.states import States, open_states, subset
from benchmarks.truth import Truth
from latentbank.text import layer_numbers

KINDS = ("int8", "turbo", "none")


def main() -> None:
    """Measure each quantization and print the table."""
    arguments = _parser().parse_args()
    layers = layer_numbers(arguments.layers)
    kinds = arguments.kinds.split(",")
    states = open_states(arguments.states)
    count = arguments.contexts or states.about["contexts"]
    queries = make_queries(states, layers, arguments.queries)
    truth = Truth(states, count, layers, queries, arguments.top_k)
    found = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            work = Path(folder).resolve()
            np.save(work / "queries.npy", queries)
            built = in_child(
                "benchmarks.indexes",
                "build-latentbank",
                states=arguments.states.resolve(),
                work=work,
                count=count,
                layers=layers,
                quantization=kind,
            )
            warm(work / "banks")
            searched = in_child(
                "benchmarks.search",
                "ask-latentbank",
                work=work,
                layers=layers,
                top_k=arguments.top_k,
                settings={"oversampling": arguments.oversampling, "ef": arguments.ef},
            )
            score = truth.score(searched["neighbors"])
            del searched["neighbors"], searched["exact"]
            disk = {"disk": folder_bytes(work / "banks"), "parts": parts_of(work / "banks")}
            found[kind] = built | searched | score | disk
    sizes = {
        "contexts a layer": count,
        "layers": arguments.layers,
        "hidden size": queries.shape[1],
        "caption bytes": _caption_bytes(states, count),
        "queries": len(queries),
        "top-k": arguments.top_k,
        "model": states.about["model"],
    }
    rows, where = _rows(found, count * len(layers), len(queries), arguments.top_k), machine()
    show("Quantization", sizes, rows, where, ("quantization", "measured"))
    write_json(arguments.json, sizes, rows, found, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.quantization", __doc__)
    add = parser.add_argument
    add("--states", type=Path, required=True, help="folder of encoded contexts (see benchmarks/search.py)")
    add("--contexts", type=int, help="contexts a layer (all those in --states)")
    add("--layers", default="8,16")
    add("--kinds", default=",".join(KINDS), help="of int8, turbo and none")
    add("--queries", type=int, default=576)
    add("--top-k", type=int, default=5)
    add("--ef", type=int, help="latentbank's setting instead of its default")
    add("--oversampling", type=float, help="latentbank's setting instead of its default")
    add("--work", type=Path, help="folder where the banks are made (the system's temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


def _caption_bytes(states: States, count: int) -> float:
    chosen = set(subset(states, count).tolist())
    captions = (payload["caption"] for i, (_, payload) in enumerate(states.contexts()) if i in chosen)
    return sum(len(caption.encode()) for caption in captions) / count


def _rows(found: dict[str, Any], vectors: int, queries: int, top_k: int) -> list[Row]:
    rows: list[Row] = []

    def add(what: str, kind: str, text: str, result: float | None, unit: str = "") -> None:
        rows.append(Row(what, kind, text, result, unit))

    for kind, measured in found.items():
        add(f"recall@{top_k}", kind, f"top-1 {measured['top_1']:.4f}", measured["recall"])
    for kind, measured in found.items():
        add("queries/s", kind, "", queries / min(measured["search_seconds"]))
    for kind, measured in found.items():
        add("codes", kind, mib(measured["parts"]["codes"]), measured["parts"]["codes"] / vectors, " B/vector")
    for kind, measured in found.items():
        add("disk", kind, mib(measured["disk"]), measured["disk"] / vectors, " B/vector")
    for kind, measured in found.items():
        add("resident memory after the queries", kind, mib(measured["after"]["resident"]), None)
    for kind, measured in found.items():
        add(
            "loading and indexing",
            kind,
            f"{measured['load_seconds'] + measured['index_seconds']:,.0f} s",
            None,
        )
    return rows


if __name__ == "__main__":
    main()
