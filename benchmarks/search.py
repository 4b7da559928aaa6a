"""Search, side by side: the reference library's exact scan against an embedded bank of the same contexts.

    python -m benchmarks.search --states DIR --contexts 150000 --layers 4,8,12,16 --json search.json

Both sides hold the same hidden states of real sentences and answer the same queries, each in a process of its own with
a warm page cache. The states are encoded once and kept in DIR (see states.py). Queries are hidden states of tokens of
held-out sentences, spread over the layers. Noise is added to every second query, a Gaussian vector of 0.5 to 1.5 times
its length, because visual tokens are farther from text tokens than these are from each other. Our side searches as it
plans itself, and again through the graph, exactly, and as planned.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    MIB,
    PeakMemory,
    Row,
    answer_child,
    folder_bytes,
    in_child,
    machine,
    memory,
    mib,
    parser_of,
    show,
    warm,
    write_json,
)
from benchmarks.indexes import BANK, build_indexes, make_queries, search_states
from benchmarks.limits import best, measure_limits
from benchmarks.products import picture_limits
from benchmarks.truth import STORAGE, TIE, judge
from latentbank.text import layer_numbers

_REPEATS = 3
WAYS = ("graph", "exact", "auto")


def main() -> None:
    """Measure both sides and print the table."""
    arguments = _parser().parse_args()
    layers = layer_numbers(arguments.layers)
    states = search_states(arguments, layers, arguments.queries, make=arguments.states_only)
    if arguments.states_only:
        return
    count = arguments.contexts or states.about["contexts"]
    queries = make_queries(states, layers, arguments.queries)
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        built = build_indexes(states, work, count, layers)
        np.save(work / "queries.npy", queries)
        given = {"work": work, "layers": layers, "top_k": arguments.top_k}
        settings = {name: getattr(arguments, name) for name in ("ef", "oversampling")}
        warm(work / "reference")
        theirs = in_child("benchmarks.search", "ask-reference", **given)
        warm(work / "banks")
        ours = in_child("benchmarks.search", "ask-latentbank", **given, settings=settings)
        ours["width"] = queries.shape[1]
        judged = judge(states, count, layers, queries, arguments.top_k, theirs, ours)
        disk = {"reference": folder_bytes(work / "reference"), "latentbank": folder_bytes(work / "banks")}
    found = {"reference": theirs, "latentbank": ours}
    limits = measure_limits()
    rows = _rows(arguments, count, layers, found, judged, disk)
    products = limits.product_seconds(len(queries), count * len(layers), queries.shape[1])
    share, limit = products / min(ours["search_seconds"]), "the speed of a product with all contexts"
    rows[0] = replace(rows[0], share=share, limit=limit)
    sizes = {
        "contexts a layer": count,
        "layers": arguments.layers,
        "queries": arguments.queries,
        "top-k": arguments.top_k,
        "model": states.about["model"],
        "sentences": states.about["used_sentences"],
        "contexts per token": states.about["contexts_per_token"],
    }
    measured = {
        side: {key: value for key, value in of.items() if key not in ("neighbors", "exact", "ways")}
        for side, of in found.items()
    }
    where = machine()
    show("Search", sizes, rows, where)
    write_json(
        arguments.json,
        sizes,
        rows,
        measured | {"judged": judged, "disk": disk, "built": built, "limits": limits.to_dict()},
        where,
    )


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.search", __doc__)
    add = parser.add_argument
    add("--states", type=Path, required=True, help="folder that keeps the encoded contexts and queries")
    add("--states-only", action="store_true", help="encode what is missing in --states, then stop")
    add("--model", help="the LLM, when states have to be made: a directory or GGUF (the wheel's GGUF)")
    add("--contexts", type=int, help="contexts a layer (all those in --states)")
    add("--contexts-per-token", type=int, default=50, help="of the states, when they have to be made")
    add("--layers", default="4,8,12,16")
    add("--queries", type=int, default=576)
    add("--top-k", type=int, default=5)
    add("--ef", type=int, help="latentbank's setting instead of its default")
    add("--oversampling", type=float, help="latentbank's setting instead of its default")
    add("--work", type=Path, help="folder that keeps both indexes, reused if they fit (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


# -- searching---------------------------------------------------------------------------------


def ask_reference(work: str, layers: Sequence[int], top_k: int) -> dict[str, Any]:
    """Open the reference's index and search it."""
    began = time.monotonic()
    import torch
    from latentlens import ContextualIndex

    queries = torch.from_numpy(np.load(Path(work) / "queries.npy"))
    imported = time.monotonic()
    return _measure(
        imported - began,
        lambda: ContextualIndex.from_directory(Path(work) / "reference", layers=layers),
        lambda index, some: index.search(queries[:some], top_k=top_k, layers=layers),
        len(queries),
        lambda n: (n.contextual_layer, n.caption, n.position, n.similarity),
    )


def ask_latentbank(work: str, layers: Sequence[int], top_k: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Open the bank and search it."""
    began = time.monotonic()
    import torch  # noqa: F401 (as where the queries come from an LLM; the reference imports it, too)

    import latentbank.bank.opening
    import latentbank.bank.store.embedded.store  # otherwise imported on opening; the reference imports torch above, too

    queries = np.load(Path(work) / "queries.npy")
    imported = time.monotonic()
    return _measure(
        imported - began,
        lambda: latentbank.bank.opening.open_bank(BANK, data_dir=Path(work) / "banks", **settings),
        lambda opened, some: opened.search(queries[:some], layers, top_k),
        len(queries),
        lambda n: (n.bank_layer, n.caption, n.position, n.cosine),
        exact=lambda opened: opened.search(queries, layers, top_k, exact=True),
        ways=lambda opened, way: (
            opened.search(queries, layers, top_k, search=way),
            ", ".join(sorted(set(opened.searched.values()))),
        ),
        engine=lambda opened: _engine_seconds(opened, queries, layers, top_k),
    )


def _engine_seconds(bank: Any, queries: Any, layers: Sequence[int], top_k: int) -> float:
    """Return the least seconds in which the engine finds ids and scores through the graph, layer by layer.

    It holds Python's lock meanwhile, so that layers are never searched side by side.
    """
    from latentbank.bank.search import prepared

    asked = prepared(bank.manifest, queries, "queries", None)

    def ask() -> None:
        for layer in layers:
            bank.store.search(layer, asked, top_k, payloads=False)

    return best(ask, _REPEATS + 1)


def _measure(
    import_seconds: float,
    open_index: Callable[[], Any],
    search: Callable[[Any, int], list[list[Any]]],
    count: int,
    plain: Callable[[Any], tuple[Any, ...]],
    exact: Callable[[Any], list[list[Any]]] | None = None,
    ways: Callable[[Any, str], tuple[list[list[Any]], str]] | None = None,
    engine: Callable[[Any], float] | None = None,
) -> dict[str, Any]:
    """Return times of opening, of the first query and of all queries, and memory.

    `plain` turns a neighbor into JSON-ready data.
    """
    before = memory()
    began = time.monotonic()
    index = open_index()
    opened = time.monotonic()
    search(index, 1)
    first = time.monotonic()
    answers = search(index, count)
    seconds = []
    for _ in range(_REPEATS):
        start = time.monotonic()
        search(index, count)
        seconds.append(time.monotonic() - start)
    after = memory()
    with PeakMemory() as sampled:
        search(index, count)
    result = {
        "import_seconds": import_seconds,
        "open_seconds": opened - began,
        "first_query_seconds": first - opened,
        "search_seconds": seconds,
        "imports": vars(before),
        "after": vars(after),
        "peak_anonymous": sampled.anonymous,
        "neighbors": [[plain(neighbor) for neighbor in row] for row in answers],
    }
    if exact is not None:
        start = time.monotonic()
        found = exact(index)
        result["exact_seconds"] = time.monotonic() - start
        result["exact"] = [[plain(neighbor) for neighbor in row] for row in found]
    result["ways"] = {}
    for way in WAYS if ways is not None else ():
        seconds = []
        for _ in range(_REPEATS + 1):
            start = time.monotonic()
            found, taken = ways(index, way)
            seconds.append(time.monotonic() - start)
        near = [[plain(neighbor) for neighbor in row] for row in found]
        result["ways"][way] = {"seconds": min(seconds), "taken": taken, "neighbors": near}
    if engine is not None:
        result["engine_seconds"] = engine(index)
    return result


# -- the table ---------------------------------------------------------------------------------


def _rows(
    arguments: argparse.Namespace,
    count: int,
    layers: Sequence[int],
    found: dict[str, dict[str, Any]],
    judged: dict[str, Any],
    disk: dict[str, int],
) -> list[Row]:
    """Return the table; `found` has what each side answered and measured, by its name."""
    size = f"{arguments.queries} queries × {len(layers)} layers × {count:,} contexts"
    least = {(4, 150_000): 4.0, (1, 600_000): 15.0}.get((len(layers), count))
    rate = {side: arguments.queries / min(of["search_seconds"]) for side, of in found.items()}
    theirs, ours = judged["reference"], judged["latentbank"]
    k = arguments.top_k
    return [
        Row(
            f"search, {size} (queries/s)",
            f"{rate['reference']:.1f}",
            f"{rate['latentbank']:.1f}",
            rate["latentbank"] / rate["reference"],
            least=least,
        ),
        Row(
            f"recall@{k} (ties within {TIE:g} count)",
            f"{theirs['recall']:.4f}",
            f"{ours['recall']:.4f}",
            ours["recall"],
            "",
            least=0.99,
        ),
        *_way_rows(arguments, layers, count, found, judged),
        Row("top-1", f"{theirs['top_1']:.4f}", f"{ours['top_1']:.4f}", ours["top_1"], ""),
        *_opening_rows(found),
        *_memory_rows(found),
        *_exact_rows(judged, arguments.queries),
        Row(
            "disk",
            mib(disk["reference"]),
            mib(disk["latentbank"]),
            disk["latentbank"] / disk["reference"],
        ),
    ]


def _way_rows(
    arguments: argparse.Namespace,
    layers: Sequence[int],
    count: int,
    found: dict[str, dict[str, Any]],
    judged: dict[str, Any],
) -> Iterator[Row]:
    """Yield the rates of each way, and the share of the machine's own limit."""
    theirs = min(found["reference"]["search_seconds"])
    limits = picture_limits(count, found["latentbank"]["width"], arguments.queries, len(layers))
    for way, of_way in found["latentbank"]["ways"].items():
        dtype = "bfloat16" if "bfloat16" in of_way["taken"] else "float32"
        yield Row(
            f"{way} ({of_way['taken']}): queries/s; recall@{arguments.top_k} {judged['ways'][way]['recall']:.4f}",
            f"{arguments.queries / theirs:.1f}",
            f"{arguments.queries / of_way['seconds']:.1f}",
            theirs / of_way["seconds"],
            share=limits[dtype] / of_way["seconds"],
            limit=f"conversion, products and top-k in {dtype}",
        )
    engine = found["latentbank"]["engine_seconds"]
    rate = arguments.queries / engine
    yield Row("the engine alone, layer by layer: queries/s", "", f"{rate:.1f}", theirs / engine)


def _opening_rows(found: dict[str, dict[str, Any]]) -> list[Row]:
    def row(what: str, parts: Sequence[str], least: float | None = None) -> Row:
        theirs, ours = (
            sum(found[side][f"{part}_seconds"] for part in parts) for side in ("reference", "latentbank")
        )
        return Row(what, f"{theirs:.2f} s", f"{ours:.2f} s", theirs / ours, least=least)

    return [
        row("open and first query, warm page cache", ("open", "first_query"), least=3.0),
        row("… with imports", ("import", "open", "first_query")),
    ]


def _memory_rows(found: dict[str, dict[str, Any]]) -> list[Row]:
    def beyond_imports(side: str, used: int) -> int:
        return max(used - int(found[side]["imports"]["anonymous"]), 0)

    def row(what: str, used: dict[str, int], most: float | None = None) -> Row:
        theirs, ours = used["reference"], used["latentbank"]
        return Row(what, mib(theirs), mib(ours), ours / max(theirs, MIB), most=most)

    after = {side: beyond_imports(side, of["after"]["anonymous"]) for side, of in found.items()}
    peak = {side: beyond_imports(side, of["peak_anonymous"]) for side, of in found.items()}
    resident = {side: int(of["after"]["resident"]) for side, of in found.items()}
    return [
        row("anonymous memory beyond imports, after the queries", after, most=0.5),
        row("… its peak during a search", peak),
        row("resident memory after the queries, imports and mapped files too", resident),
    ]


def _exact_rows(judged: dict[str, Any], queries: int) -> list[Row]:
    right = judged["exact_same"] + judged["exact_ties"]
    return [
        Row(
            f"exact=True: queries with the reference's contexts ({judged['exact_ties']} after ties)",
            f"{queries}",
            f"{right}",
            right / queries,
            "",
            least=1.0,
        ),
        Row("… greatest difference of cosines", "", "", judged["cosine_apart"], "", most=STORAGE),
    ]


_TASKS = {
    "ask-reference": ask_reference,
    "ask-latentbank": ask_latentbank,
}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
