"""Compute the tables of docs/scale.md and write them into it: `python -m benchmarks.estimate_scale`.

Estimates come from bank/sizing.py, like those of `latentbank ingest plan --estimate`. Beside them stand the results of
benchmarks/growth.py, benchmarks/quantization.py and benchmarks/scale.py in docs/scale/. With `--check` nothing is
written, and the exit code is 1 if docs/scale.md is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import scale_tables
from benchmarks.common import place
from latentbank.bank.sizing import GB, Machines, Shape, index_seconds, layer_bytes, size, store_seconds

ROOT = Path(__file__).parent.parent
DOCUMENT, RESULTS = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale"

# Results of `latentbank ingest plan` for concepts.txt with SmolLM2's tokenizer (docs/scale.md says how to run it).
CONTEXTS, PREFIXES, CAPTION_BYTES = 513_075, 1_668_336, 83_916_379
# Parameters of SmolLM2-135M's first 16 blocks of 30.
SMOLLM2_TO_16 = 56_641_536


@dataclass(frozen=True)
class Scenario:
    """A bank to size.

    Attributes:
        name: its title in the table.
        shape: contexts, layers and dimensions.
        machines: what it runs on.
        tokens: number of tokens the LLM runs on.
        parameters: number of the LLM's parameters up to the deepest layer.
    """

    name: str
    shape: Shape
    machines: Machines
    tokens: float
    parameters: float


def scenarios() -> list[Scenario]:
    """Return the banks of docs/scale.md.

    Corpora that were not planned are assumed to be like concepts.txt, with as many tokens for each context and captions
    of the same length. The 7 B LLM runs to its last block, the 70 B LLM to the middle of its blocks.
    """
    caption, per_context = CAPTION_BYTES / CONTEXTS, PREFIXES / CONTEXTS
    paper, large = 2_500_000, 100_000_000
    return [
        Scenario(
            "(a) SmolLM2-135M, concepts.txt",
            Shape(CONTEXTS, 4, 576, caption),
            Machines(
                node_ram=8 * GB,
                node_disk=50 * GB,
                node_cores=2,
                node_price=0.1,
                gpu_flops=2e11,
                gpu_price=0.1,
            ),
            PREFIXES,
            SMOLLM2_TO_16,
        ),
        Scenario(
            "(b) 7 B, the paper's size",
            Shape(paper, 8, 4096, caption),
            Machines(replicas=2, gpus=8),
            paper * per_context,
            7e9,
        ),
        Scenario(
            "(c) 70 B to its middle, 100 M contexts",
            Shape(large, 12, 8192, caption),
            Machines(
                replicas=2, node_ram=512 * GB, node_disk=4000 * GB, node_cores=64, node_price=5.0, gpus=64
            ),
            large * per_context,
            35e9,
        ),
    ]


def scenario_tables() -> str:
    """Return a Markdown table of what each scenario needs, with int8 and with turbo codes."""
    columns = []
    for scenario in scenarios():
        for quantization in ("int8", "turbo"):
            columns.append(
                _column(replace(scenario, shape=replace(scenario.shape, quantization=quantization)))
            )
    names = list(columns[0])
    lines = ["| | " + " | ".join(column["name"] for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in names:
        if name != "name":
            lines.append(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")
    return "\n".join(lines)


def _column(scenario: Scenario) -> dict[str, str]:
    shape, machines = scenario.shape, scenario.machines
    found = size(shape, machines, scenario.tokens, scenario.parameters)
    return {
        "name": f"{scenario.name}, {shape.quantization}",
        "contexts × layers × dimensions": f"{shape.contexts:,} × {shape.layers} × {shape.hidden_size:,}",
        "replicas": str(found.replicas),
        "node: RAM, disk, cores": f"{_gb(machines.node_ram)}, {_gb(machines.node_disk)}, {machines.node_cores}",
        "RAM of a layer, one copy": _gb(found.layer.ram),
        "disk of a layer, one copy": _gb(found.layer.disk),
        "RAM in all": _gb(found.ram_bytes),
        "disk in all, with room to index": _gb(found.disk_bytes),
        "nodes": f"{found.nodes}",
        "shards of a layer": f"{found.shards}",
        "tokens through the LLM": f"{scenario.tokens / 1e6:,.1f} M",
        "weights on each GPU, 16 bits": _gb(found.weights_bytes),
        "GPUs × TFLOP/s": f"{machines.gpus} × {machines.gpu_flops / 1e12:g}",
        "hours: LLM": _number(found.llm_hours),
        "... storing, meanwhile": _number(found.store_hours),
        "... indexing, then": _number(found.index_hours),
        "... in all": _number(found.hours),
        "price of an hour: GPU, node": f"{machines.gpu_price:.2f}, {machines.node_price:.2f}",
        "cost of filling": _number(found.cost),
        "cost of a month": _number(found.month_cost),
    }


def growth_table() -> str:
    """Return a Markdown table of what benchmarks/growth.py measured, beside what is computed for the same layer."""
    found, where = _results("growth.json")
    lines = [
        "| contexts | disk measured (computed) | anonymous memory: loading, indexing, searching | seconds: loading, "
        "indexing | of the processor, measured (computed) | contexts/s, last fifth over first (processor's clock) | "
        "queries/s | recall@5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(found, key=int):
        result = found[name]
        shape = Shape(result["contexts"], 1, result["hidden_size"], result["caption_bytes"], server=False)
        computed = shape.contexts * (store_seconds(shape) + index_seconds(shape))
        measured = result["load_cpu_seconds"] + result["index_cpu_seconds"]
        memory = (result[f"{what}_anonymous"] for what in ("load_peak", "index_peak", "search"))
        kept, kept_cpu = (result[f"end_rate{clock}"] / result[f"start_rate{clock}"] for clock in ("", "_cpu"))
        cells = (
            f"{result['contexts']:,}",
            f"{_mb(result['disk'])} ({_mb(layer_bytes(shape).disk)})",
            ", ".join(map(_mb, memory)),
            f"{result['load_seconds']:,.0f}, {result['index_seconds']:,.0f}",
            f"{measured:,.0f} ({computed:,.0f})",
            f"{kept:.2f} ({kept_cpu:.2f})",
            f"{result['queries'] / min(result['search_seconds']):,.0f}",
            f"{result['recall']:.3f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _measured_on(where), "", *_other_checks()])


def _other_checks() -> list[str]:
    """Return a comparison with other benchmarks: disk by benchmarks/search.py, indexing by benchmarks/ingest.py."""
    lines = [
        "Other benchmarks (benchmarks.md), on the same machine:",
        "",
        "| | measured | computed |",
        "|---|---|---|",
    ]
    for layers, contexts, caption, mib in ((4, 150_000, 167.4, 1388), (1, 600_000, 168.8, 1375)):
        disk = layers * layer_bytes(Shape(contexts, layers, 576, caption, server=False)).disk
        lines.append(f"| disk, {contexts:,} contexts × {layers} | {_mb(mib * 2**20)} | {_mb(disk)} |")
    layers, contexts, seconds, cores = 4, 226_938, 165, 2
    shape = Shape(contexts, layers, 576, CAPTION_BYTES / CONTEXTS, server=False)
    computed = contexts * layers * index_seconds(shape) / cores
    lines.append(
        f"| indexing {contexts:,} contexts × {layers} on {cores} cores | {seconds} s | {computed:,.0f} s |"
    )
    return lines


def quantization_table() -> str:
    """Return a Markdown table of what benchmarks/quantization.py measured."""
    found, where, sizes = _results("quantization.json", sizes=True)
    lines = [
        "| quantization | recall@5 | top-1 | queries/s | codes: bytes a vector, measured (computed) | "
        "disk: bytes a vector, measured (computed) |",
        "|---|---|---|---|---|---|",
    ]
    count, layers = sizes["contexts a layer"], len(sizes["layers"].split(","))
    for kind, result in found.items():
        shape = Shape(
            count, layers, sizes["hidden size"], sizes["caption bytes"], quantization=kind, server=False
        )
        layer, vectors = layer_bytes(shape), count * layers
        cells = (
            kind,
            f"{result['recall']:.4f}",
            f"{result['top_1']:.4f}",
            f"{sizes['queries'] / min(result['search_seconds']):,.0f}",
            f"{result['parts']['codes'] / vectors:,.0f} ({layer.codes / count:,.0f})",
            f"{result['disk'] / vectors:,.0f} ({layer.disk / count:,.0f})",
        )
        lines.append("| " + " | ".join(cells) + " |")
    where_asked = f"layer {sizes['layers'].replace(',', ', ')} of {sizes['model']}"
    caption = f"{sizes['queries']} queries on {where_asked}, {count:,} contexts in each."
    return "\n".join([*lines, "", caption, _measured_on(where)])


def core_table() -> str:
    """Return a Markdown table of microseconds of a core for each context, with graphs from 1,000 contexts on."""
    lines = [
        "| contexts × dimensions | storing a context, µs of a core: measured (computed) | indexing it |",
        "|---|---|---|",
    ]
    for name in ("growth-graphs.json", "growth-4096.json"):
        found, where = _results(name)
        for result in found.values():
            count, width = result["contexts"], result["hidden_size"]
            shape = Shape(count, 1, width, result["caption_bytes"], graph_from=1000, server=False)
            store, index = (result[f"{what}_cpu_seconds"] / count * 1e6 for what in ("load", "index"))
            lines.append(
                f"| {count:,} × {width:,} | {store:,.0f} ({store_seconds(shape) * 1e6:,.0f}) | "
                f"{index:,.0f} ({index_seconds(shape) * 1e6:,.0f}) |"
            )
    return "\n".join([*lines, "", _measured_on(where)])


TABLES = {
    "scenarios": scenario_tables,
    "growth": growth_table,
    "cores": core_table,
    "quantization": quantization_table,
} | scale_tables.TABLES


def updated(text: str) -> str:
    """Return the document with its tables computed again.

    Each table stands between `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        SystemExit: the document does not have exactly one place for a table.
    """
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        computed = table()
        text, places = pattern.subn(lambda found, new=computed: f"{found[1]}{new}\n{found[2]}", text)
        if places != 1:
            raise SystemExit(f"{DOCUMENT} has {places} places for the table '{name}' instead of one.")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate_scale", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the tables are up to date")
    given = parser.parse_args(arguments)
    text = DOCUMENT.read_text(encoding="utf-8")
    fresh = updated(text)
    if not given.check:
        DOCUMENT.write_text(fresh, encoding="utf-8")
    elif fresh != text:
        sys.exit(f"{DOCUMENT.name} is out of date; run `python -m benchmarks.estimate_scale`.")


def _results(name: str, *, sizes: bool = False) -> Any:
    data = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    found = (data["measured"], data["machine"])
    return (*found, data["sizes"]) if sizes else found


def _measured_on(where: dict[str, Any]) -> str:
    return f"{place(where)}, qdrant-edge-py {where['packages']['qdrant-edge-py']}, {where['date'][:10]}."


def _gb(count: float) -> str:
    return f"{_number(count / GB)} GB" if count < 1000 * GB else f"{_number(count / GB / 1000)} TB"


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def _number(value: float) -> str:
    """Return a number as text with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
