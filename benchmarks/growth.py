"""Growth: how time and memory of loading, indexing and searching an embedded layer grow with its contexts.

    python -m benchmarks.growth --states DIR --contexts 10000,100000,1000000 --json growth.json --plot growth.png

Each size gets a bank of one layer, in a process of its own. Its results are added to the JSON file at once, and sizes
that are in the file are not measured again. The contexts are real ones (see states.py). If a size has more contexts
than the states, these are repeated under other ids with noise, a Gaussian vector of half their length: they take as
long to write and as many bytes, and are not as close to each other as copies would be. Rates of loading cover `add` and
`commit` alone, not making noise and reading payloads. They are given in wall-clock seconds and in processor seconds;
the latter hardly change when other programs use the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    PeakMemory,
    Row,
    answer_child,
    folder_bytes,
    in_child,
    machine,
    memory,
    mib,
    parser_of,
    processor_seconds,
    show,
    write_json,
)
from benchmarks.indexes import make_queries
from benchmarks.states import CORPUS, States, open_states, subset
from benchmarks.truth import TIE, Floats, unit

_BATCH = 1024
_REPEATS = 3
_TOP_K = 5
# The rates at the start and at the end are those of the first and the last fifth, in whole pieces. Contexts are
# committed piece by piece, as a job does every five seconds; a small layer's segments of 20,000 contexts are full then.
_ENDS, _PIECE = 5, 20 * _BATCH
_SHORT = 200  # largest number of points of a curve that is stored unthinned
_NOISE = 0.5  # length of the noise, relative to the vector's
# The smallest allowed ratio of the rate at the end to the rate at the start, and the size it is for.
_LEAST, _LEAST_AT = 0.8, 1_000_000


def main() -> None:
    """Measure the sizes that are missing, print the table, draw the plot."""
    arguments = _parser().parse_args()
    sizes = sorted({int(size) for size in arguments.contexts.split(",")})
    states = open_states(arguments.states)
    layer = arguments.layer if arguments.layer is not None else states.layers[0]
    width = arguments.hidden_size or states.hidden(layer).shape[1]
    found = _read(arguments.json)
    for size in sizes:
        if str(size) in found:
            continue
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            given = {"states": arguments.states.resolve(), "work": folder, "layer": layer, "width": width}
            loaded = in_child("benchmarks.growth", "load", **given, count=size)
            found[str(size)] = loaded | in_child("benchmarks.growth", "ask", **given) | {"machine": machine()}
        _report(arguments.json, states, layer, found)
    rows = _report(arguments.json, states, layer, found)
    show("Growth", _sizes(states, layer, found), rows, machine(), ("first fifth", "last fifth, or all"))
    if arguments.plot:
        plot(found, arguments.plot)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.growth", __doc__)
    add = parser.add_argument
    add("--states", type=Path, required=True, help="folder of encoded contexts (see benchmarks/search.py)")
    add("--contexts", default="10000,100000,1000000", help="sizes of the layer")
    add("--layer", type=int, help="the layer (the states' first)")
    add("--hidden-size", type=int, help="repeat the states' columns up to this width (theirs)")
    add("--work", type=Path, help="folder where the banks are made (the system's temporary one)")
    add("--json", type=Path, help="file for the results; sizes it holds are not measured again")
    add("--plot", type=Path, help="file for the plot, such as docs/scale/growth.png")
    return parser


def _read(file: Path | None) -> dict[str, Any]:
    if file is None or not file.exists():
        return {}
    measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["measured"]
    return measured


# -- in a process of its own -------------------------------------------------------------------


def load(states: str, work: str, count: int, layer: int, width: int) -> dict[str, Any]:
    """Fill and index a bank of one layer; return seconds, and memory beyond what was used before."""
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.bank.opening import create_bank

    source = open_states(Path(states))
    before = memory()
    curve: list[list[float]] = []
    captions = 0
    seconds = cpu = making = 0.0
    with create_bank(
        "growth",
        data_dir=Path(work),
        model=source.about["model"],
        fingerprint=source.about["fingerprint"],
        layers=[layer],
        num_layers=layer,
        hidden_size=width,
    ) as bank:
        bank.store.defer_index(layer, count)
        done = committed = 0
        with PeakMemory() as loading:
            first, before_making = processor_seconds(), time.process_time()
            for ids, rows, payloads in batches(source, layer, count):
                making += time.process_time() - before_making
                began = time.monotonic()
                bank.add(layer, ids, wide(rows, width), payloads)  # type: ignore[arg-type]  # JSON, which has no TypedDicts
                done += len(ids)
                if done == count or done - committed >= _PIECE:
                    bank.commit()
                    committed = done
                seconds += time.monotonic() - began
                cpu = processor_seconds() - first - making
                before_making = time.process_time()
                captions += sum(len(payload["caption"].encode()) for payload in payloads)
                now = memory()
                grown = (now.anonymous - before.anonymous, now.resident - before.resident)
                curve.append([done, seconds, cpu, *grown])
        began, began_cpu = time.monotonic(), processor_seconds()
        with PeakMemory() as indexing:
            bank.store.index(layer)
        indexed, indexed_cpu = time.monotonic() - began, processor_seconds() - began_cpu
        bank.record(CorpusEntry(CORPUS, "", source.about["used_sentences"], 0, count, {}, complete=True))
        in_index = bank.store.info(layer).indexed
    ends = count // _ENDS if count < 2 * _PIECE else max(count // _ENDS // _PIECE, 1) * _PIECE
    return {
        "contexts": count,
        "hidden_size": width,
        "caption_bytes": captions / count,
        "real": min(count, source.about["contexts"]),
        "load_seconds": seconds,
        "load_cpu_seconds": cpu,
        "load_curve": thin(curve),  # of contexts, seconds, processor seconds, anonymous and resident memory
        "start_rate": _rate(curve, 1, 0, ends),
        "end_rate": _rate(curve, 1, count - ends, count),
        "start_rate_cpu": _rate(curve, 2, 0, ends),
        "end_rate_cpu": _rate(curve, 2, count - ends, count),
        "index_seconds": indexed,
        "index_cpu_seconds": indexed_cpu,
        "indexed": in_index,
        "load_peak_anonymous": loading.anonymous - before.anonymous,
        "index_peak_anonymous": indexing.anonymous - before.anonymous,
        "disk": folder_bytes(Path(work)),
        "files": parts_of(Path(work)),
    }


def batches(
    source: States, layer: int, count: int
) -> Iterator[tuple[list[str], Floats, list[dict[str, Any]]]]:
    """Yield ids, hidden states and payloads of `count` contexts: the real ones, then the same ones with noise."""
    there = source.about["contexts"]
    hidden = source.hidden(layer)
    random = np.random.default_rng(17)
    for again in range(-(-count // there)):
        rows = subset(source, min(count - again * there, there))
        chosen = set(rows.tolist())
        pairs = (pair for i, pair in enumerate(source.contexts()) if i in chosen)
        for at in range(0, len(rows), _BATCH):
            part = rows[at : at + _BATCH]
            states = np.asarray(hidden[part])
            some = [next(pairs) for _ in part]
            ids = [id_ for id_, _ in some]
            if again:
                ids = [str(uuid.uuid5(uuid.UUID(id_), str(again))) for id_ in ids]
                noise = unit(random.standard_normal(states.shape))
                states = states + noise * (_NOISE * np.linalg.norm(states, axis=1, keepdims=True))
            yield ids, states.astype(np.float32), [payload for _, payload in some]


def wide(rows: Floats, width: int) -> Floats:
    """Return rows `[n, hidden]` with their columns repeated up to `[n, width]`."""
    repeated: Floats = rows if rows.shape[1] == width else np.resize(rows.T, (width, len(rows))).T
    return repeated


def thin(curve: Sequence[list[float]]) -> list[list[float]]:
    """Return a curve's points; of a long curve only the ends of the pieces and the last point."""
    every = _PIECE // _BATCH if len(curve) > _SHORT else 1
    return [point for i, point in enumerate(curve, 1) if i % every == 0 or i == len(curve)]


def _rate(curve: Sequence[Sequence[float]], clock: int, first: float, last: float) -> float:
    """Return contexts per second between two numbers of contexts, interpolated; `clock` is a column of the curve."""
    done, seconds = [0.0, *(c[0] for c in curve)], [0.0, *(c[clock] for c in curve)]
    began, ended = np.interp([first, last], done, seconds)
    return float((last - first) / (ended - began))


def parts_of(folder: Path) -> dict[str, int]:
    """Return the disk space of the parts of a bank's layers in bytes, by their names in bank/sizing.py."""
    parts = dict.fromkeys(("originals", "codes", "graph", "payload", "payload_indexes", "ids", "rest"), 0)
    for file in folder.rglob("*"):
        if file.is_file():
            names = file.relative_to(folder).parts
            kind = next((part for part, is_in in _PART_OF.items() if is_in & {*names}), "rest")
            if kind == "rest" and file.name.startswith("id_tracker"):
                kind = "ids"
            parts[kind] += file.stat().st_blocks * 512
    return parts


# Names of the engine's files and folders for each part.
_PART_OF = {
    "originals": {"matrix.dat"},
    "codes": {"quantized.data"},
    "graph": {"vector_index"},
    "payload": {"payload_storage"},
    "payload_indexes": {"payload_index"},
}


def ask(states: str, work: str, layer: int, width: int) -> dict[str, Any]:
    """Open the bank and search it with a warm page cache; recall is relative to its own exact search."""
    from benchmarks.common import warm
    from latentbank.bank.opening import open_bank

    queries = wide(make_queries(open_states(Path(states)), [layer], 576), width)
    warm(Path(work))
    before = memory()
    began = time.monotonic()
    with open_bank("growth", data_dir=Path(work)) as bank:
        opened = time.monotonic() - began
        answers = bank.search(queries, [layer], _TOP_K)
        seconds = []
        for _ in range(_REPEATS):
            start = time.monotonic()
            bank.search(queries, [layer], _TOP_K)
            seconds.append(time.monotonic() - start)
        after = memory()
        exact = bank.search(queries, [layer], _TOP_K, exact=True)
    right = sum(
        near.cosine >= true[-1].cosine - TIE
        for mine, true in zip(answers, exact, strict=True)
        for near in mine
    )
    return {
        "open_seconds": opened,
        "queries": len(queries),
        "search_seconds": seconds,
        "recall": right / (len(queries) * _TOP_K),
        "search_anonymous": after.anonymous - before.anonymous,
        "search_resident": after.resident - before.resident,
    }


# -- results ----------------------------------------------------------------------------------


def _sizes(states: States, layer: int, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "contexts": ", ".join(sorted(found, key=int)),
        "layer": layer,
        "hidden size": next(iter(found.values()))["hidden_size"],
        "model": states.about["model"],
        "real contexts": states.about["contexts"],
    }


def _report(file: Path | None, states: States, layer: int, found: dict[str, Any]) -> list[Row]:
    rows = [row for size in sorted(found, key=int) for row in _rows(found[size])]
    write_json(file, _sizes(states, layer, found), rows, found, machine())
    return rows


def _rows(result: dict[str, Any]) -> list[Row]:
    count = result["contexts"]
    kept = result["end_rate"] / result["start_rate"]
    return [
        Row(
            f"{count:,} contexts: loading, contexts/s at the end against the start",
            f"{result['start_rate']:,.0f}",
            f"{result['end_rate']:,.0f}",
            kept,
            least=_LEAST if count == _LEAST_AT else None,
        ),
        Row(
            "... the same by the processor's clock",
            f"{result['start_rate_cpu']:,.0f}",
            f"{result['end_rate_cpu']:,.0f}",
            result["end_rate_cpu"] / result["start_rate_cpu"],
        ),
        Row("... loading, seconds (of the processor)", *_clocks(result, "load"), None),
        Row("... indexing, seconds (of the processor)", *_clocks(result, "index"), None),
        Row("... peak anonymous memory while loading", "", mib(result["load_peak_anonymous"]), None),
        Row("... and while indexing", "", mib(result["index_peak_anonymous"]), None),
        Row("... disk", "", mib(result["disk"]), result["disk"] / count, " B/context"),
        Row(
            "... queries/s; recall@5",
            "",
            f"{result['queries'] / min(result['search_seconds']):,.0f}",
            result["recall"],
            "",
        ),
        Row("... anonymous memory of a searched bank", "", mib(result["search_anonymous"]), None),
        Row("... resident, mapped files too", "", mib(result["search_resident"]), None),
    ]


def _clocks(result: dict[str, Any], what: str) -> tuple[str, str]:
    return "", f"{result[f'{what}_seconds']:,.1f} ({result[f'{what}_cpu_seconds']:,.1f})"


def plot(found: dict[str, Any], file: Path) -> None:
    """Draw time and memory over contexts, on logarithmic axes, and the rate of loading."""
    from itertools import pairwise

    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sizes = sorted(found, key=int)
    at = [found[size]["contexts"] for size in sizes]
    figure, (times, memories, rates) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name in ("load", "index"):
        (line,) = times.loglog(
            at,
            [found[size][f"{name}_cpu_seconds"] for size in sizes],
            "o-",
            label=f"{name}ing, of the processor",
        )
        clock = [found[size][f"{name}_seconds"] for size in sizes]
        times.loglog(at, clock, ":", color=line.get_color(), label=f"{name}ing, of the clock")
    searched = [min(found[size]["search_seconds"]) for size in sizes]
    times.loglog(at, searched, "o-", label=f"searching, {found[sizes[0]]['queries']} queries")
    linear = [count / at[0] * found[sizes[0]]["load_cpu_seconds"] for count in at]
    times.loglog(at, linear, "--", color="gray", label="as the contexts")
    times.set(title="time", ylabel="seconds")
    for name, label in (
        ("disk", "disk"),
        ("load_peak_anonymous", "peak anonymous, loading"),
        ("index_peak_anonymous", "peak anonymous, indexing"),
        ("search_anonymous", "anonymous, searching"),
    ):
        memories.loglog(at, [max(found[size][name], 1) / 2**20 for size in sizes], "o-", label=label)
    memories.set(title="memory and disk", ylabel="MiB")
    for size in sizes:
        points = found[size]["load_curve"]
        if int(size) > _SHORT * _BATCH:  # whole pieces already, but the last
            points = points[:-1]
        else:
            points = points[_PIECE // _BATCH - 1 :: _PIECE // _BATCH] or points
        curve = [[0.0, 0.0, 0.0], *points]
        steps = [(b[0], (b[0] - a[0]) / max(b[2] - a[2], 1e-9)) for a, b in pairwise(curve)]
        rates.semilogx(*zip(*steps, strict=True), ".-", label=f"{int(size):,} contexts", alpha=0.8)
    rates.set(title="loading", ylabel="contexts per second of the processor", ylim=(0, None))
    for axes in (times, memories, rates):
        axes.set_xlabel("contexts in the layer")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


_TASKS = {"load": load, "ask": ask}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
