"""A layer on a Qdrant server that grows: filters by the corpus that was added, in a continued graph and as latentbank.

    python -m benchmarks.server_growing http://127.0.0.1:6333 --model .demo/SmolLM2-135M-Instruct --json growing.json

A layer of technical prose is indexed, grows by lines of Python's standard library, and is indexed again:
once as a server does it by itself, which continues its graph, and once as latentbank asks for. Queries are contexts of
either corpus with noise, a Gaussian vector of half their length; recall is that of the engine's exact search. The key,
if the server wants one, is LATENTBANK_API_KEY. The banks have a name of their own and are deleted at the end.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import latentbank as lb
from benchmarks.common import Row, machine, parser_of, show, write_json
from benchmarks.server import LAYER, new_bank
from benchmarks.technical_prose import sentences
from latentbank.bank.bank import Bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.base import Points
from latentbank.bank.store.server import indexing
from latentbank.bank.where import Where

WAYS = ("continued", "as latentbank")
FIRST, ADDED = "prose", "python"
QUERIES, TOP, GRAPH_FROM = 100, 5, 10_000
_SLICE = 1000


def main() -> None:
    """Measure both ways with each number of added contexts, and print the table."""
    arguments = _parser().parse_args()
    server = load_settings(
        url=arguments.url, grpc_port=arguments.grpc_port, timeout=600, graph_from=GRAPH_FROM
    )
    model = lb.load_language_model(str(arguments.model))
    portions = [int(size) for size in arguments.added.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        corpora = dict(_encoded(model, Path(folder), arguments.contexts, max(portions)))
    width = model.hidden_size
    found = {added: {way: _grown(server, corpora, added, width, way) for way in WAYS} for added in portions}
    sizes = {"contexts": arguments.contexts, "dimensions": width, "queries": QUERIES, "ef": server.ef}
    where, rows = machine(), list(_rows(found))
    show("A layer that grows on a server", sizes, rows, where, WAYS)
    write_json(arguments.json, sizes, rows, {str(added): ways for added, ways in found.items()}, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.server_growing", __doc__)
    add = parser.add_argument
    add("url", help="the server's address")
    add("--grpc-port", type=int, help="its gRPC port (6334)")
    add("--model", type=Path, required=True, help="folder of the LLM")
    add("--contexts", type=int, default=24_000, help="contexts before the layer grows")
    add("--added", default="10000,18000", help="contexts that are added; each number is measured")
    add("--json", type=Path, help="file for the results")
    return parser


def _encoded(model: Any, folder: Path, first: int, added: int) -> Iterator[tuple[str, Points]]:
    """Yield the contexts of both corpora as a bank stores them."""
    texts = {FIRST: list(sentences()), ADDED: _lines_of_python()}
    with lb.create_bank("growing", model, layers=[LAYER], data_dir=folder, url="") as bank:
        for name, count in ((FIRST, first), (ADDED, added)):
            file = folder / f"{name}.txt"
            random.Random(0).shuffle(texts[name])
            file.write_text("\n".join(texts[name][:count]), encoding="utf-8")
            lb.fill(bank, file, model, name=name)
            stored = bank.store.scroll(LAYER, Where(corpus=name), vectors=True, payloads=True)
            points = list(itertools.islice(stored, count))
            if len(points) < count:
                raise SystemExit(f"{name} has only {len(points):,} contexts.")
            ids, vectors, payloads = zip(*((p.id, p.vector, p.payload) for p in points), strict=True)
            yield name, Points(list(ids), np.stack(vectors), list(payloads))


def _lines_of_python() -> list[str]:
    """Return the lines of the standard library that are as long as sentences."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    lines = (line.strip() for file in files for line in file.read_text("utf-8", errors="ignore").splitlines())
    return sorted({line for line in lines if 40 < len(line) < 160})


def _grown(
    server: Settings, corpora: dict[str, Points], added: int, width: int, way: str
) -> dict[str, float]:
    """Let a layer grow in one way; return the recall of each search, and the seconds of indexing again."""
    with new_bank(server, width) as bank:
        _store(bank, corpora[FIRST], len(corpora[FIRST].ids))
        bank.store.index(LAYER)
        _store(bank, corpora[ADDED], added)
        usual = indexing.kib
        if way == "continued":
            indexing.kib = lambda *_: 0  # nothing is ever too much for the graph that there is
        try:
            began = time.monotonic()
            bank.store.index(LAYER)
            found = {"seconds": time.monotonic() - began}
        finally:
            indexing.kib = usual
        for name, points in corpora.items():
            rows = points.vectors[np.random.default_rng(1).integers(0, added, QUERIES)]
            noise = np.random.default_rng(2).standard_normal(rows.shape, dtype=np.float32)
            noise *= 0.5 / np.linalg.norm(noise, axis=1, keepdims=True)
            queries = (rows + noise) / np.linalg.norm(rows + noise, axis=1, keepdims=True)
            for corpus in (None, FIRST, ADDED):
                where = None if corpus is None else Where(corpus=corpus)
                found[f"queries like {name}, {corpus or 'no filter'}"] = _recall(
                    lambda exact, given=queries, where=where: bank.store.search(  # type: ignore[misc]
                        LAYER, given, TOP, where, exact, payloads=False
                    )
                )
    return found


def _store(bank: Bank, points: Points, count: int) -> None:
    bank.store.defer_index(LAYER, bank.store.count(LAYER) + count)
    for at in range(0, count, _SLICE):
        part = slice(at, min(at + _SLICE, count))
        bank.store.upsert(LAYER, Points(points.ids[part], points.vectors[part], points.payloads[part]))
    bank.commit()


def _recall(search: Callable[[bool], Any]) -> float:
    """Return the share of what the exact search finds that the other finds, too."""
    pairs = zip(search(True), search(False), strict=True)
    return float(np.mean([len({h.id for h in a} & {h.id for h in b}) / len(a) for a, b in pairs]))


def _rows(found: dict[int, dict[str, dict[str, float]]]) -> Iterator[Row]:
    for added, ways in found.items():
        for what in ways[WAYS[0]]:
            digits = ".1f" if what == "seconds" else ".3f"
            sides = [format(ways[way][what], digits) for way in WAYS]
            text = "indexing again, s" if what == "seconds" else f"recall@{TOP}: {what}"
            yield Row(f"{added:,} added; {text}", *sides, None)


if __name__ == "__main__":
    main()
