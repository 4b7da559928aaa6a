"""Plans and estimates, as tables or JSON (docs/json.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from latentbank.cli.output.text import print_facts, print_json, size_text
from latentbank.progress import duration
from latentbank.text import count_text, in_layers, listed

# Escape sequences in a corpus do not reach the terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAMED = 5  # files that a table names

if TYPE_CHECKING:
    from latentbank.bank.sizing import Machines, Sizing
    from latentbank.ingest.estimate import Estimate
    from latentbank.ingest.plan import Plan
    from latentbank.ingest.sources.base import Read


def show_plan(
    plan: Plan,
    costs: Estimate,
    packing: str,
    machines: Machines | None = None,
    cluster: Sizing | None = None,
    *,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print a plan with what was read for it, its costs, and the size of a cluster; as JSON with `more`."""
    data = {
        **{key: value for key, value in asdict(plan).items() if key != "digests"},
        "directory": str(plan.directory),
        "layers": list(costs.layers),
        "disk_bytes_per_layer": costs.disk_bytes,
        "ram_bytes_per_layer": costs.ram_bytes,
        "tokens_per_second": costs.speed and costs.speed.tokens_per_second,
        "contexts_stored_per_second": costs.speed and costs.speed.contexts_stored_per_second,
        "contexts_indexed_per_second": costs.speed and costs.speed.contexts_indexed_per_second,
        "seconds": costs.seconds,
        "index_seconds": costs.index_seconds,
        "packing": packing,
        "machines": machines and asdict(machines),
        "cluster": cluster and asdict(cluster),
        **(more or {}),
    }
    if as_json:
        print_json(data)
        return
    rows = [
        ("corpus", plan.corpus),
        *source_facts(plan.source),
        ("sentences", f"{plan.sentences:,} ({plan.blank:,} blank lines, {plan.truncated:,} cut)"),
        ("tokens", f"{plan.tokens:,}"),
        ("contexts", f"{plan.contexts:,} {in_layers(costs.layers)}"),
        ("prefixes to compute", f"{plan.prefixes:,} ({packing})"),
        (
            "disk",
            f"{size_text(costs.disk_bytes)} a layer, {size_text(costs.disk_bytes * len(costs.layers))} in all",
        ),
        (
            "RAM",
            f"{size_text(costs.ram_bytes)} a layer, {size_text(costs.ram_bytes * len(costs.layers))} in all",
        ),
    ]
    if costs.seconds is not None and costs.index_seconds is not None and costs.speed is not None:
        speeds = (
            f"{costs.speed.tokens_per_second:,.0f} tokens/s, {costs.speed.contexts_stored_per_second:,.0f} contexts "
            f"stored/s, and {duration(costs.index_seconds)} of indexing"
        )
        rows.append(("time", f"about {duration(costs.seconds)} ({speeds})"))
    rows.append(("plan", str(plan.directory)))
    if machines and cluster:
        rows += _cluster(machines, cluster)
    print_facts(rows)


def source_facts(source: Read) -> list[tuple[str, str]]:
    """Return what was read of a corpus: files, what was left out and why, the column, the first sentences."""
    rows = [("read from", _some(source.files))] if source.files else []
    reasons: dict[str, list[str]] = {}
    for entry in source.left_out:
        reasons.setdefault(entry.reason, []).append(entry.file)
    rows += [("left out", f"{_some(files)} ({reason})") for reason, files in reasons.items()]
    if source.column is not None:
        field = f" of the records in {source.field}" if source.field else ""
        rows.append(("column", f"{source.column}{field}"))
    elif source.field:
        rows.append(("field", source.field))
    rows += [
        ("begins with" if number == 0 else "", " ".join(sentence.split()))
        for number, sentence in enumerate(source.first)
    ]
    return [(name, _CONTROL.sub("�", value)) for name, value in rows]


def show_source(source: Read) -> None:
    """Print what was read of a corpus on standard error, where it stands beside JSON."""
    print_facts(source_facts(source), error=True)


def _some(names: Sequence[str]) -> str:
    """Return names as text: all of them if they are few, else the first and how many there are."""
    if len(names) <= _NAMED:
        return listed(names)
    return f"{listed(names[: _NAMED - 1])} and {len(names) - _NAMED + 1:,} others"


def _cluster(machines: Machines, cluster: Sizing) -> list[tuple[str, str]]:
    """Return what a cluster needs; "in all" counts every copy."""
    nodes = (
        f"{count_text(cluster.nodes, 'node')} of {size_text(machines.node_ram)} RAM and "
        f"{size_text(machines.node_disk)} disk"
    )
    ram, disk = size_text(cluster.node_ram_bytes), size_text(cluster.node_disk_bytes)
    return [
        ("cluster", f"{nodes}; the bank fills {ram} and {disk} of each while it is indexed"),
        ("... in all", f"{size_text(cluster.ram_bytes)} RAM, {size_text(cluster.disk_bytes)} disk"),
        (
            "... of each layer",
            f"{count_text(cluster.shards, 'shard')} (LATENTBANK_SHARD_NUMBER), "
            f"{count_text(cluster.replicas, 'copy', 'copies')} of each (LATENTBANK_REPLICATION_FACTOR)",
        ),
        (
            "... filling it",
            f"{_hours(cluster.hours)}: the LLM (weights {size_text(cluster.weights_bytes)} in 16 bits) "
            f"{_hours(cluster.llm_hours)} on {count_text(machines.gpus, 'GPU')} at "
            f"{machines.gpu_flops / 1e12:g} TFLOP/s, "
            f"meanwhile storing {_hours(cluster.store_hours)}, then indexing "
            f"{_hours(cluster.index_hours)} on {count_text(machines.node_cores, 'core')} a node",
        ),
        (
            "... costs",
            f"{cluster.cost:,.2f} to fill it, {cluster.month_cost:,.2f} a month to keep it, at {machines.gpu_price:g} "
            f"a GPU hour and {machines.node_price:g} a node hour",
        ),
    ]


def _hours(hours: float) -> str:
    return duration(hours * 3600)
