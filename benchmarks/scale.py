"""Scale: banks of one layer up to millions of contexts, filled from synthetic states; each step is measured once.

    python -m benchmarks.scale --width 576 --contexts 125000,250000,500000,1000000,2000000 --work DIR --json scale.json
    python -m benchmarks.scale --width 4096 --contexts 12500,25000,50000,100000,200000 --work DIR --json scale.json

For each size, in a process of its own for each: fill the bank, index it, find the true neighbors by float32 products,
open it, and search it: plainly, with filters of four sizes, and with queries like visual tokens'. A result is written
to the JSON file at once, and a step that is in the file is not run again: killed, the same command continues. A bank is
deleted after its last step. All layers get a graph (`--graph-from`), so that growth can be fitted from small ones.

Seconds of the clock depend on what else the machine does, seconds of the processor hardly; the load of the machine
when a step began and ended stands beside them. The machine's own limits are measured before each step's result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import (
    PeakMemory,
    answer_child,
    folder_bytes,
    in_child,
    machine,
    memory,
    parser_of,
    processor_seconds,
    warm,
)
from benchmarks.growth import parts_of
from benchmarks.limits import measure_limits
from benchmarks.synthetic import BLOCK, SHARES, Synthetic
from benchmarks.truth import TIE, Floats, unit
from latentbank.bank.where import Where
from latentbank.files import write_whole

LAYER = 8
STEPS = ("fill", "index", "truth", "open", "search")
"""Steps of a size, in their order; each has one entry in the results."""
_MODULE, _BANK = "benchmarks.scale", "scale"
_PIECE = 5 * BLOCK  # contexts between two commits
_QUERIES, _SINGLE, _TOP_K, _REPEATS = 441, 50, 5, 2
_EVERY = 0.5  # seconds between two looks at the memory


def main() -> None:
    """Run the steps that are missing in the file of results."""
    arguments = _parser().parse_args()
    found = read(arguments.json)
    for count in sorted({int(size) for size in arguments.contexts.split(",")}):
        done = found.setdefault(f"{arguments.width} x {count}", {"width": arguments.width, "contexts": count})
        folder = arguments.work / f"scale-{arguments.width}-{count}"
        given = {"work": folder, "width": arguments.width, "count": count, "graph_from": arguments.graph_from}
        for step in STEPS:
            if step in done:
                continue
            print(f"{time.strftime('%H:%M:%S')} {arguments.width} x {count:,}: {step}", flush=True)
            before = os.getloadavg()[0]
            result = in_child(_MODULE, step, **given)
            where = machine()
            done[step] = result | {"load_before": before, "load_after": where["load"], "date": where["date"]}
            done["machine"] = where
            text = json.dumps(found, indent=1) + "\n"
            write_whole(arguments.json, text.encode())
        shutil.rmtree(folder, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add("--width", type=int, default=576, help="dimensions")
    add("--contexts", default="125000,250000,500000,1000000,2000000", help="sizes of the layer")
    add("--graph-from", type=int, default=10_000, help="contexts from which a layer gets a graph")
    add(
        "--work",
        type=Path,
        required=True,
        help="folder for the banks; 5 kB of it a context at 576 dimensions",
    )
    add("--json", type=Path, required=True, help="file of results; steps that it holds are not run again")
    return parser


def read(file: Path) -> dict[str, Any]:
    """Return the results in a file, by width and size; none if there is no file."""
    if not file.exists():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# -- the steps, each in a process of its own -----------------------------------------------------


def fill(work: str, width: int, count: int, graph_from: int) -> dict[str, Any]:
    """Fill a new bank, and time adding and committing.

    Seconds of the clock are those in which making states waits. The processor's are all but those of making them.
    """
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.bank.opening import create_bank

    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    Path(work).mkdir(parents=True)
    source, before, captions = Synthetic(width), memory(), 0
    curve: list[tuple[int, float, float]] = []
    seconds = making = 0.0
    held: dict[str, int] = {}
    own = {"data_dir": Path(work), "graph_from": graph_from}
    about = {"model": "synthetic", "fingerprint": "f00d", "num_layers": LAYER, "hidden_size": width}
    with create_bank(_BANK, layers=[LAYER], **about, **own) as bank, PeakMemory(_EVERY) as loading:  # type: ignore[arg-type]
        bank.store.defer_index(LAYER, count)
        done, first, before_making = 0, processor_seconds(), time.process_time()
        for block in source.blocks(count):
            making += time.process_time() - before_making
            began = time.monotonic()
            bank.add(LAYER, block.ids, block.states, block.payloads)
            done += len(block.ids)
            if done == count or done % _PIECE == 0:
                bank.commit()
            seconds += time.monotonic() - began
            before_making = time.process_time()
            captions += sum(len(payload["caption"]) for payload in block.payloads)
            for payload in block.payloads:
                held[payload["corpus"]] = held.get(payload["corpus"], 0) + 1
            if done % (8 * _PIECE) == 0:
                curve.append((done, seconds, processor_seconds() - first - making))
        for corpus, contexts in held.items():
            bank.record(CorpusEntry(corpus, "", 0, 0, contexts, {}, complete=True))
        cpu = processor_seconds() - first - making
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "curve": curve,
        "peak_anonymous": loading.anonymous - before.anonymous,
        "caption_bytes": captions / count,
        "corpora": held,
        "disk": folder_bytes(Path(work)),
        "limits": measure_limits(Path(work)).to_dict(),
    }


def index(work: str, width: int, count: int, graph_from: int) -> dict[str, Any]:
    """Index the filled bank."""
    from latentbank.bank.opening import open_bank

    del width, count
    before = memory()
    with open_bank(_BANK, data_dir=Path(work), graph_from=graph_from) as bank, PeakMemory(_EVERY) as indexing:
        began, used = time.monotonic(), processor_seconds()
        bank.store.index(LAYER)
        seconds, cpu = time.monotonic() - began, processor_seconds() - used
        indexed = bank.store.info(LAYER).indexed
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "indexed": indexed,
        "peak_anonymous": indexing.anonymous - before.anonymous,
        "disk": folder_bytes(Path(work)),
        "files": parts_of(Path(work)),
    }


def truth(work: str, width: int, count: int, graph_from: int) -> dict[str, Any]:
    """Store the cosine of each query's last true neighbor, by kind of search, and time the products."""
    del graph_from
    source, seconds = Synthetic(width), 0.0
    asked = {kind: unit(source.queries(_QUERIES, kind)) for kind in ("text", "visual")}
    best: dict[str, Floats] = {
        name: np.full((_QUERIES, _TOP_K), -2, np.float32) for name in ("plain", "visual", *SHARES)
    }
    for block in source.blocks(count):
        rows, corpora = unit(block.states), np.array(block.corpora)
        began = time.monotonic()
        cosines = {kind: queries @ rows.T for kind, queries in asked.items()}
        seconds += time.monotonic() - began
        for name, kept in best.items():
            part = cosines["visual" if name == "visual" else "text"]
            if name in SHARES:
                part = part[:, corpora == list(SHARES).index(name)]
            kept[:] = _largest(np.concatenate([kept, part], axis=1))
    np.savez(Path(work, "truth.npz"), **best)  # type: ignore[arg-type]  # its stub takes no mapping
    return {
        "products_seconds": seconds,
        "last": {name: float(kept[:, -1].mean()) for name, kept in best.items()},
    }


def _largest(cosines: Floats) -> Floats:
    """Return the `_TOP_K` largest of each row, descending."""
    found: Floats = -np.sort(np.partition(-cosines, _TOP_K - 1, axis=1)[:, :_TOP_K], axis=1)
    return found


def open_(work: str, width: int, count: int, graph_from: int) -> dict[str, Any]:
    """Open the bank and ask one query: with its files in the page cache, and with none of them there."""
    from latentbank.bank.opening import open_bank

    del count
    query = Synthetic(width).queries(1, "text")

    def opened() -> dict[str, float]:
        began = time.monotonic()
        with open_bank(_BANK, data_dir=Path(work), graph_from=graph_from) as bank:
            there = time.monotonic()
            bank.search(query, LAYER, _TOP_K)
            return {"open_seconds": there - began, "first_query_seconds": time.monotonic() - there}

    opened()  # imports
    _forget(Path(work))
    cold = opened()
    warm(Path(work))
    return {"cold": cold, "warm": [opened() for _ in range(_REPEATS)]}


def _forget(folder: Path) -> None:
    """Have the system drop a folder's files from its page cache, as far as nothing maps them (Linux)."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def search(work: str, width: int, count: int, graph_from: int) -> dict[str, Any]:
    """Search in each way: many queries at once and one at a time, time and recall."""
    from latentbank.bank.opening import open_bank

    source, last = Synthetic(width), np.load(Path(work, "truth.npz"))
    asked = {kind: source.queries(_QUERIES, kind) for kind in ("text", "visual")}
    warm(Path(work))
    found: dict[str, Any] = {"queries": _QUERIES}
    with open_bank(_BANK, data_dir=Path(work), graph_from=graph_from) as bank:
        before = memory()
        for name in ("plain", "visual", *SHARES):
            queries = asked["visual" if name == "visual" else "text"]
            ef = bank.settings.ef_visual if name == "visual" else None
            where = Where(corpus=name) if name in SHARES else None

            def run(rows: Floats, where: Where | None = where, ef: int | None = ef) -> tuple[float, Any]:
                began = time.monotonic()
                answers = bank.search(rows, LAYER, _TOP_K, where, ef=ef)
                return time.monotonic() - began, answers

            run(queries[:_SINGLE])
            many = [run(queries) for _ in range(_REPEATS)]
            single = [run(query[None])[0] for query in queries[:_SINGLE]]
            right = _right([[near.cosine for near in row] for row in many[0][1]], last[name])
            found[name] = {"seconds": [s for s, _ in many], "one_seconds": median(single), "recall": right}
        now = memory()
    found["anonymous"], found["resident"] = now.anonymous - before.anonymous, now.resident
    return found | {"limits": measure_limits(Path(work)).to_dict(), "width": width, "contexts": count}


def _right(cosines: list[list[float]], true: Floats) -> float:
    """Return recall: the share of the true neighbors that were found; fewer than `_TOP_K` may exist."""
    exist = (true > -1).sum(axis=1)
    hits = [
        min(sum(c >= row[max(n - 1, 0)] - TIE for c in found), n)
        for found, row, n in zip(cosines, true, exist.tolist(), strict=True)
    ]
    return float(sum(hits) / exist.sum()) if exist.any() else 1.0


_TASKS = {"fill": fill, "index": index, "truth": truth, "open": open_, "search": search}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
