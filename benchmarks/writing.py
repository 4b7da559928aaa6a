"""How fast contexts are written to an embedded bank, by their number of dimensions and the number of cores.

    python -m benchmarks.writing --json writing.json

The LLM is replaced by a source of random states: the job's own writer stores them in four layers, as in an ingestion.
Each measurement is a process of its own, which may use so many cores. The machine's share says how many of the seconds
of its cores the writing took: one of the job and of the processes that write for it. A copy in memory of what is
stored, measured in the same process, is the bound.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    PeakMemory,
    Row,
    answer_child,
    in_child,
    machine,
    mib,
    parser_of,
    processor_seconds,
    show,
    write_json,
)

LAYERS = (1, 2, 3, 4)
BATCH = 512
CORPUS = "random"
# Random states that are used again and again: drawing them would take longer than storing them.
_DRAWN = 2048


def write(work: str, hidden: int, contexts: int, cores: int) -> dict[str, Any]:
    """Store contexts in each of the layers with so many cores; return seconds, processor seconds and memory."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from latentbank.bank.opening import create_bank
    from latentbank.ingest.writer import Writer
    from latentbank.memory import collect_rarely, keep_memory
    from latentbank.progress import Silent

    collect_rarely()  # as the command does
    keep_memory()
    source = list(batches(hidden, contexts))
    copied = _copy_seconds(hidden)
    with create_bank(
        f"writing-{hidden}-{cores}",
        data_dir=work,
        model="random",
        fingerprint="f00d",
        layers=LAYERS,
        num_layers=max(LAYERS),
        hidden_size=hidden,
        graph_from=10**9,
    ) as bank:
        for layer in LAYERS:
            bank.store.defer_index(layer, contexts)
        with PeakMemory(every=0.5) as peak:
            used, began = processor_seconds(), time.monotonic()
            with Writer(bank, contexts, Silent()) as writer:
                for encoded in source:
                    writer.put(encoded, 0)
            seconds = time.monotonic() - began
        found = {layer: bank.store.count(layer) for layer in LAYERS}
        if set(found.values()) != {contexts}:
            raise SystemExit(f"{found} contexts are stored instead of {contexts:,}.")
    points = contexts * len(LAYERS)
    return {
        "points": points,
        "seconds": seconds,
        "processor_seconds": processor_seconds() - used,
        "points_per_second": points / seconds,
        "copy_points_per_second": 1 / copied,
        "anonymous": peak.anonymous,
    }


def batches(hidden: int, contexts: int) -> Iterator[Any]:
    """Yield contexts as an LLM's forward passes give them, with random states."""
    from latentbank.bank.points import Payload
    from latentbank.ingest.encode import Encoded

    random = np.random.default_rng(0)
    states = {layer: random.standard_normal((_DRAWN, hidden), dtype=np.float32) for layer in LAYERS}
    words = [f" word{i}" for i in range(5000)]
    for first in range(0, contexts, BATCH):
        count = min(BATCH, contexts - first)
        payloads = []
        for number in range(first, first + count):
            sentence, position = divmod(number, 12)
            word = words[number * 7919 % len(words)]
            payloads.append(
                Payload(
                    corpus=CORPUS,
                    sentence=sentence,
                    position=position,
                    token_id=number * 7919 % len(words),
                    token=word,
                    word=word[1:],
                    caption=f"a sentence of about sixty characters, which has the number {sentence}",
                    start=5,
                    end=10,
                )
            )
        ids = [str(uuid.UUID(bytes=random.bytes(16))) for _ in range(count)]
        at = first % (_DRAWN - BATCH + 1)
        yield Encoded(ids, payloads, {layer: rows[at : at + count] for layer, rows in states.items()}, count)


def _copy_seconds(hidden: int) -> float:
    """Return the seconds in which this machine copies a context's float32 numbers, once, beyond its caches."""
    rows = np.ones(((64 << 20) // (4 * hidden), hidden), dtype=np.float32)
    target = np.empty_like(rows)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, rows)
        times.append(time.perf_counter() - began)
    return min(times) / len(rows)


def main() -> None:
    """Measure all sizes and print the table."""
    parser = parser_of("benchmarks.writing", __doc__)
    add = parser.add_argument
    add("--dimensions", default="576,4096")
    add("--cores", default="", help="numbers of cores; by default one, two, and as many as there are")
    add("--contexts", type=int, default=24_000, help="contexts in each layer; each 20,000 are quantized once")
    add("--work", type=Path, help="folder for the banks (a temporary one)")
    add("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    there = len(os.sched_getaffinity(0))
    counts = [int(count) for count in (arguments.cores or f"1,2,{there}").split(",")]
    counts = sorted({count for count in counts if count <= there})
    rows, measured = [], {}
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    for hidden in (int(size) for size in arguments.dimensions.split(",")):
        for cores in counts:
            with tempfile.TemporaryDirectory(dir=arguments.work) as work:
                measured[f"{hidden}/{cores}"] = in_child(
                    "benchmarks.writing",
                    "write",
                    work=work,
                    hidden=hidden,
                    contexts=arguments.contexts,
                    cores=cores,
                )
        rows += _rows(hidden, {cores: measured[f"{hidden}/{cores}"] for cores in counts})
    sizes = {"layers": len(LAYERS), "contexts in each": arguments.contexts, "in a batch": BATCH}
    where = machine()
    show("Writing to an embedded bank", sizes, rows, where, ("one core", "more cores"))
    write_json(arguments.json, sizes, rows, measured, where)


def _rows(hidden: int, found: dict[int, dict[str, Any]]) -> list[Row]:
    one = found.get(1)
    rows = []
    for cores, run in found.items():
        what = f"{hidden:,} dimensions, {cores} cores" if cores > 1 else f"{hidden:,} dimensions, one core"
        first = f"{one['points_per_second']:,.0f}" if one else ""
        speed = f"{run['points_per_second']:,.0f}"
        if cores == 1:
            least = 4000 if hidden == 4096 else None
            rows.append(Row(f"{what}: points/s", speed, "", run["points_per_second"], "", least=least))
        else:
            ratio = run["points_per_second"] / one["points_per_second"] if one else None
            rows.append(Row(f"{what}: points/s", first, speed, ratio, least=1.7 if cores == 2 else None))
        used = f"{run['processor_seconds'] / run['points'] * 1e6:,.0f} µs"
        rows.append(Row("… processor time of a point", *_side(cores, used), None))
        share = f"{run['points_per_second'] / run['copy_points_per_second']:.4f}"
        rows.append(Row("… share of copying its numbers once", *_side(cores, share), None))
        rows.append(Row("… peak anonymous memory", *_side(cores, mib(run["anonymous"])), None))
    return rows


def _side(cores: int, text: str) -> tuple[str, str]:
    return (text, "") if cores == 1 else ("", text)


_TASKS = {"write": write}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
