"""Filters on a Qdrant server: graphs with links of payload indexes beside graphs without them, in one run.

    python -m benchmarks.server_filters http://127.0.0.1:6333 --states DIR --pid 4711 --json server_filters.json

A layer of the same contexts (see `states.py`) is made twice, and searched with filters that select 50 to 0.05 % of them
(see `filters.py`): once as latentbank makes and asks it, without links and with ACORN, and once as Qdrant does by
itself, with links, scanning what a filter selects up to 10,000 KiB of vectors. Once more it is only indexed, without
payload indexes. The key, if the server wants one, is LATENTBANK_API_KEY. The banks have a name of their own and are
deleted at the end. Times are seconds and milliseconds of the clock, and of the server's processor if `--pid` names its
process, on this machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qdrant_client import models

from benchmarks.common import Row, machine, parser_of, processor_seconds_of, show, write_json
from benchmarks.filters import QUERIES, RUNS, TOP, drawn_corpora, recall, selections
from benchmarks.server import new_bank
from benchmarks.states import open_states
from benchmarks.truth import Floats, unit
from latentbank.bank.bank import Bank
from latentbank.bank.points import INDEXED_FIELDS
from latentbank.bank.search import prepared
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.conditions import conditions
from latentbank.bank.store.graphs import LEAST_SCAN, MOST_BY_ACORN
from latentbank.bank.store.server import indexing
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.store import DIALECT, ServerStore
from latentbank.bank.where import Where

WAYS = ("no payload indexes", "links", "as latentbank")
_SLICE = 1000
_SCHEMAS = {
    "keyword": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "grouping": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "integer": models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER),
}


def main() -> None:
    """Measure both layers, print the table and write it where it is wanted."""
    arguments = _parser().parse_args()
    server = load_settings(url=arguments.url, grpc_port=arguments.grpc_port, timeout=600)
    pid = arguments.pid
    spent = (lambda: 0.0) if pid is None else partial(processor_seconds_of, pid)
    found = {way: _measured(arguments, server, spent, way) for way in WAYS}
    sizes = {"contexts": arguments.contexts, "layer": arguments.layer, "queries": QUERIES, "ef": server.ef}
    where, rows = machine(), _rows(found)
    show("Filters on a server", sizes, rows, where, ("with links", "without"))
    write_json(arguments.json, sizes, rows, found, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.server_filters", __doc__)
    add = parser.add_argument
    add("url", help="the server's address")
    add("--grpc-port", type=int, help="its gRPC port (6334)")
    add("--pid", type=int, help="the number of its process, if it runs on this machine")
    add("--states", type=Path, required=True, help="folder of `benchmarks.states`")
    add("--layer", type=int, default=8)
    add("--contexts", type=int, default=150_000)
    add("--json", type=Path, help="file for the results")
    return parser


def _measured(
    arguments: argparse.Namespace, server: Settings, spent: Callable[[], float], way: str
) -> dict[str, Any]:
    """Make the layer in one way and search it with all filters."""
    source, layer, count = open_states(arguments.states), arguments.layer, arguments.contexts
    hidden, corpora, contexts = source.hidden(layer), drawn_corpora(count), source.contexts()
    pairs = [next(contexts) for _ in range(count)]
    ids = [id_ for id_, _ in pairs]
    payloads: list[Any] = [
        payload | {"corpus": corpus} for (_, payload), corpus in zip(pairs, corpora, strict=True)
    ]
    queries = source.held_out(layer)[:QUERIES]
    cosines = unit(queries) @ unit(hidden[:count]).T
    with new_bank(server, hidden.shape[1], layer) as bank:
        bank.store.defer_index(layer, count)
        for at in range(0, count, _SLICE):
            part = slice(at, at + _SLICE)
            bank.add(layer, ids[part], hidden[part], payloads[part])
        found: dict[str, Any] = {"index": _indexed(bank, layer, spent, way)}
        if way == "no payload indexes":
            return found
        rotated = prepared(bank.manifest, queries, "queries", None)
        for one in selections(payloads):
            answers, milliseconds, used = _asked(bank, layer, rotated, one.where, spent, acorn=way != "links")
            found[one.name] = {
                "selected": int(one.selected.sum()),
                "recall": recall(answers, cosines, one.selected, ids),
                "milliseconds": milliseconds,
                "processor_milliseconds": used,
            }
    return found


def _indexed(bank: Bank, layer: int, spent: Callable[[], float], way: str) -> dict[str, float]:
    """Index the layer; return the seconds it takes, and those of the server's processor."""
    server, collection = _place(bank, layer)
    client, usual = server.rest, indexing.scan_for
    if way == "links":
        for field, kind in INDEXED_FIELDS.items():
            client.create_payload_index(collection, field, _SCHEMAS[kind], wait=True)
        indexing.scan_for = lambda *_: LEAST_SCAN
    elif way == "no payload indexes":
        for field in (*INDEXED_FIELDS, "caption"):
            client.delete_payload_index(collection, field, wait=True)
    used, began = spent(), time.monotonic()
    try:
        indexing.index_layer(server, collection, bank.store.count(layer))
    finally:
        indexing.scan_for = usual
    return {"seconds": time.monotonic() - began, "processor_seconds": spent() - used}


def _place(bank: Bank, layer: int) -> tuple[Connection, str]:
    """Return the connection to a bank's server and the name of the layer's collection."""
    store = bank.store
    assert isinstance(store, ServerStore)
    return store._server, store._collection(layer)


def _asked(
    bank: Bank,
    layer: int,
    rotated: Floats,
    where: Where | None,
    spent: Callable[[], float],
    *,
    acorn: bool,
) -> tuple[list[list[str]], float, float]:
    """Return the ids that each query finds, and milliseconds a query of the clock and of the server's processor."""
    server, collection = _place(bank, layer)
    settings = bank.settings
    params = models.SearchParams(
        hnsw_ef=settings.ef,
        quantization=models.QuantizationSearchParams(rescore=True, oversampling=settings.oversampling),
        acorn=models.AcornSearchParams(enable=True, max_selectivity=MOST_BY_ACORN) if acorn else None,
    )
    condition = conditions(where, DIALECT)
    requests = [
        models.QueryRequest(query=row, filter=condition, params=params, limit=TOP) for row in rotated.tolist()
    ]
    times, used = [], []
    for _ in range(RUNS):
        before, began = spent(), time.monotonic()
        answers: Sequence[Any] = server.rest.query_batch_points(collection, requests)
        times.append(time.monotonic() - began)
        used.append(spent() - before)
    each = 1e3 / len(requests)
    return [[str(p.id) for p in answer.points] for answer in answers], min(times) * each, min(used) * each


def _rows(found: dict[str, dict[str, Any]]) -> list[Row]:
    bare, links, now = (found[way] for way in WAYS)
    rows = []
    for what, key in (("s", "seconds"), ("processor s", "processor_seconds")):
        sides = [side["index"][key] for side in (links, now)]
        least = bare["index"][key]
        rows.append(
            Row(
                f"index, {what}; {least:.1f} without payload indexes",
                *(f"{side:.1f}" for side in sides),
                sides[1] / least if least else None,
                most=1.2,
            )
        )
    for name in list(now)[1:]:
        sides = [
            f"{side[name]['recall']:.3f}; {side[name]['milliseconds']:.1f} ({side[name]['processor_milliseconds']:.1f})"
            for side in (links, now)
        ]
        what = f"{name} ({now[name]['selected']:,}): recall@{TOP}; ms a query (processor)"
        rows.append(Row(what, *sides, now[name]["recall"], "", least=0.99))
    return rows


if __name__ == "__main__":
    main()
