"""What filtered searches need of a graph, and what it costs to build: links by payload, ACORN, or a longer scan.

    python -m benchmarks.filters --states DIR --contexts 150000 --json filters.json

One layer is built in several ways from the same contexts (see `states.py`), and searched with filters that select 50 to
0.05 % of them: by corpus (drawn at random), by position, by tokens and by words. Recall is that of the 5 nearest,
against exact cosines. Times are processor seconds, which other programs on the machine change little.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import qdrant_edge as edge

from benchmarks.common import answer_child, folder_bytes, in_child, machine, mib, parser_of, place
from benchmarks.states import open_states
from benchmarks.truth import Floats, unit
from latentbank.bank.points import INDEXED_FIELDS
from latentbank.bank.rotation import ROTATION_SEED, rotate, rotated_units
from latentbank.bank.sizing import segments_of
from latentbank.bank.store.conditions import conditions
from latentbank.bank.store.embedded.engine import ACORN, layer_config
from latentbank.bank.store.embedded.indexing import FEWEST, LARGE
from latentbank.bank.store.embedded.points import engine_points, row_views
from latentbank.bank.store.embedded.store import DIALECT
from latentbank.bank.where import Where

TOP = 5
FRACTIONS = (0.5, 0.2, 0.05, 0.005, 0.0005)
QUERIES = 96
RUNS = 2
_BATCH = 256


@dataclass(frozen=True)
class Way:
    """A way to build a layer.

    Attributes:
        fields: payload fields with an index.
        links: payload fields whose index adds links to the graph.
        scans: times the usual number of contexts, up to which those that a filter selects are scanned.
    """

    fields: tuple[str, ...]
    links: tuple[str, ...]
    scans: int = 1


_ALL = tuple(INDEXED_FIELDS)
WAYS = {
    "no payload indexes": Way((), ()),
    "links of all fields": Way(_ALL, _ALL),
    "links of corpus and word": Way(_ALL, ("corpus", "word")),
    "no links": Way(_ALL, ()),
    "no links, longer scan": Way(_ALL, (), 10),
}


def fill(states: str, work: str, layer: int, count: int) -> dict[str, Any]:
    """Store the first contexts of the states in a layer without any index."""
    source, path = open_states(Path(states)), Path(work) / "base"
    path.mkdir(parents=True)
    hidden = source.hidden(layer)
    corpora = drawn_corpora(count)
    shard = edge.EdgeShard.create(str(path), layer_config(hidden.shape[1], "int8", 100))
    contexts = source.contexts()
    for at in range(0, count, _BATCH):
        stop = min(at + _BATCH, count)
        pairs = [next(contexts) for _ in range(at, stop)]
        payloads: Any = [payload | {"corpus": corpora[at + i]} for i, (_, payload) in enumerate(pairs)]
        vectors = rotated_units(hidden[at:stop], ROTATION_SEED)
        shard.update(
            edge.UpdateOperation.upsert_points(
                engine_points([id_ for id_, _ in pairs], row_views(vectors), payloads)
            )
        )
    shard.flush()
    shard.close()
    return {"path": str(path), "hidden": hidden.shape[1]}


def build(work: str, base: str, hidden: int, name: str, scan: int) -> dict[str, Any]:
    """Build a layer in one way from the contexts in `base`; return seconds and bytes."""
    way, path = WAYS[name], Path(work) / name.replace(" ", "-").replace(",", "")
    shutil.copytree(base, path)
    shard = edge.EdgeShard.load(str(path), None)
    contexts = shard.info().points_count
    for field in way.fields:
        shard.update(edge.UpdateOperation.create_field_index(field, _index(field, links=field in way.links)))
    shard.flush()
    shard.close()
    shard = edge.EdgeShard.load(str(path), _config(hidden, way, scan, contexts))
    began, used = time.monotonic(), time.process_time()
    shard.optimize()
    built = {"seconds": time.monotonic() - began, "processor_seconds": time.process_time() - used}
    shard.flush()
    shard.close()
    return built | {"bytes": folder_bytes(path), "path": str(path)}


def _config(hidden: int, way: Way, scan: int, contexts: int) -> edge.EdgeConfig:
    """Return the settings of a layer with a graph; ways with a longer scan multiply `scan`."""
    segments = segments_of(contexts)
    usual = layer_config(hidden, "int8", 100, 16, -(-contexts // segments) + contexts // 10, segments)
    return edge.EdgeConfig(
        vectors=usual.vectors,
        hnsw_config=edge.HnswIndexConfig(
            m=16, ef_construct=100, full_scan_threshold=scan * way.scans, memory=edge.Memory.Cached
        ),
        optimizers=usual.optimizers,
        payload_memory=edge.Memory.Cold,
        wal_enabled=False,
    )


def _index(field: str, *, links: bool) -> Any:
    kind = INDEXED_FIELDS[field]
    if kind == "integer":
        return edge.IntegerIndexParams(memory=edge.Memory.Cold, enable_hnsw=links)
    return edge.KeywordIndexParams(memory=edge.Memory.Cold, is_tenant=kind == "grouping", enable_hnsw=links)


def drawn_corpora(count: int) -> list[str]:
    """Return a corpus for each context, drawn at random; corpus "0.05" has that share of them."""
    names = [f"{fraction:g}" for fraction in FRACTIONS]
    drawn = np.random.default_rng(3).choice([*names, "rest"], count, p=[*FRACTIONS, 1 - sum(FRACTIONS)])
    return [str(name) for name in drawn]


@dataclass(frozen=True)
class Selection:
    """A filter of the comparison.

    Attributes:
        name: the fraction that it selects, and by which field; what it is called in the results.
        where: the filter; None selects everything.
        selected: the contexts it selects, bool `[contexts]`.
    """

    name: str
    where: Where | None
    selected: npt.NDArray[np.bool_]


def selections(payloads: Sequence[Mapping[str, Any]]) -> list[Selection]:
    """Return all filters of the comparison; the first selects everything."""
    everything = Selection("none all", None, np.ones(len(payloads), bool))
    return [everything, *(one for fraction in FRACTIONS for one in _by_field(payloads, fraction))]


def _by_field(payloads: Sequence[Mapping[str, Any]], fraction: float) -> Iterator[Selection]:
    """Yield filters by field that select about a fraction of the contexts."""
    random = np.random.default_rng(5)
    for field in INDEXED_FIELDS:
        values = np.array([payload[field] for payload in payloads])
        if field == "corpus":
            chosen = np.array([f"{fraction:g}"])
        else:
            kinds, counts = np.unique(values, return_counts=True)
            # Positions side by side, from one that is as far from the mean as possible; tokens and words at random.
            order = np.arange(len(kinds))[::-1] if field == "position" else random.permutation(len(kinds))
            total = np.cumsum(counts[order])
            chosen = kinds[order[: int(np.argmin(np.abs(total - fraction * len(values)))) + 1]]
        where = (
            Where(position_min=int(chosen.min()))
            if field == "position"
            else Where(**{field: chosen.tolist()})
        )
        yield Selection(f"{fraction:g} {field}", where, np.isin(values, chosen))


def search(states: str, path: str, layer: int, count: int, acorn: bool) -> dict[str, Any]:
    """Search a built layer with all filters; return recall and milliseconds of processor time a query."""
    source = open_states(Path(states))
    contexts = source.contexts()
    pairs = [next(contexts) for _ in range(count)]
    corpora = drawn_corpora(count)
    payloads = [payload | {"corpus": corpus} for (_, payload), corpus in zip(pairs, corpora, strict=True)]
    ids = [id_ for id_, _ in pairs]
    queries = unit(source.held_out(layer)[:QUERIES])
    cosines = queries @ unit(source.hidden(layer)[:count]).T
    rotated = rotate(queries, ROTATION_SEED)
    shard = edge.EdgeShard.load(path, None)
    segments = segments_of(count)
    ef = max(FEWEST, int(np.ceil(160 * np.cbrt(count / segments / LARGE))))
    found: dict[str, Any] = {}
    for one in selections(payloads):
        answers, milliseconds = _timed(shard, rotated, conditions(one.where, DIALECT), ef, acorn)
        found[one.name] = {
            "selected": int(one.selected.sum()),
            "recall": recall(answers, cosines, one.selected, ids),
            "milliseconds": milliseconds,
        }
    shard.close()
    return found


def _timed(
    shard: edge.EdgeShard, queries: Floats, condition: Any, ef: int, acorn: bool
) -> tuple[list[list[str]], float]:
    params = edge.SearchParams(
        hnsw_ef=ef,
        quantization=edge.QuantizationSearchParams(ignore=False, rescore=True, oversampling=6.0),
        acorn=ACORN if acorn else None,
    )
    requests = [
        edge.QueryRequest(limit=TOP, query=edge.Query.Nearest(row), filter=condition, params=params)
        for row in queries.tolist()
    ]
    times = []
    for _ in range(RUNS):
        used = time.process_time()
        answers = shard.query_batch(edge.QueryBatchRequest(requests))
        times.append(time.process_time() - used)
    return [[str(point.id) for point in answer] for answer in answers], min(times) / len(queries) * 1e3


def recall(
    answers: Sequence[Sequence[str]], cosines: Floats, selected: npt.NDArray[np.bool_], ids: Sequence[str]
) -> float:
    """Return the share of each query's nearest selected contexts that were found.

    Args:
        answers: ids that each query found.
        cosines: of queries and contexts, `[queries, contexts]`.
        selected: the contexts that may be found, bool `[contexts]`.
        ids: those of the contexts.
    """
    places = {id_: i for i, id_ in enumerate(ids)}
    right = 0
    masked = np.where(selected, cosines, -2)
    limit = min(TOP, int(selected.sum()))
    ends = np.partition(masked, -limit, axis=1)[:, -limit] - 2e-3  # float16 storage may swap what is nearer
    for answer, row, end in zip(answers, masked, ends, strict=True):
        right += sum(row[places[id_]] >= end for id_ in answer)
    return right / (limit * len(answers))


def main() -> None:
    """Build and search in all ways, and print."""
    parser = parser_of("benchmarks.filters", __doc__)
    add = parser.add_argument
    add("--states", type=Path, required=True, help="folder of `benchmarks.states`")
    add("--layer", type=int, default=8)
    add("--contexts", type=int, default=150_000)
    add(
        "--scan",
        type=int,
        default=10_000,
        help="KiB of vectors that are scanned rather than searched in a graph; with a quarter of it a layer behaves "
        "like one of four times the contexts",
    )
    add(
        "--ways",
        default=",".join(WAYS),
        help="the ways to build, separated by commas; underscores stand for commas",
    )
    add("--work", type=Path, help="folder for the layers (a temporary one)")
    add("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    where, results = machine(), {}
    print(f"{place(where)}, {where['date'][:10]}; {arguments.contexts:,} contexts of layer {arguments.layer}")
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        module, given = "benchmarks.filters", {"layer": arguments.layer, "count": arguments.contexts}
        states = str(arguments.states.resolve())
        base = in_child(module, "fill", states=states, work=work, **given)
        for name in arguments.ways.split(","):
            name = name.replace("_", ",")
            built = in_child(
                module,
                "build",
                work=work,
                base=base["path"],
                hidden=base["hidden"],
                name=name,
                scan=arguments.scan,
            )
            results[name] = {"built": built}
            print(
                f"{name}: built in {built['processor_seconds']:.0f} processor seconds ({built['seconds']:.0f} s), "
                f"{mib(built['bytes'])}",
                flush=True,
            )
            for acorn in (False, True) if name != "no payload indexes" else ():
                searched = in_child(module, "search", states=states, path=built["path"], acorn=acorn, **given)
                results[name]["acorn" if acorn else "plain"] = searched
                _print("ACORN" if acorn else "plain", searched)
            shutil.rmtree(built["path"])
    if arguments.json:
        text = json.dumps(
            {"machine": where, "sizes": vars(arguments), "results": results}, indent=1, default=str
        )
        arguments.json.write_text(text + "\n", encoding="utf-8")


def _print(how: str, searched: Mapping[str, Mapping[str, float]]) -> None:
    for what, one in searched.items():
        print(
            f"  {how}, {what} ({one['selected']:,}): recall {one['recall']:.3f}, {one['milliseconds']:.2f} ms",
            flush=True,
        )


_TASKS = {"fill": fill, "build": build, "search": search}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
