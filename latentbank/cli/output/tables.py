"""What the commands print: rich tables for people, JSON for programs (docs/json.md describes it)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from latentbank.progress import duration

if TYPE_CHECKING:
    from latentbank.bank.bank import BankInfo
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.bank.sizing import Machines, Sizing
    from latentbank.bank.transfer.export import ExportReport
    from latentbank.bank.transfer.receive import MoveReport
    from latentbank.bank.versions import Versions
    from latentbank.ingest.estimate import Estimate
    from latentbank.ingest.job import JobReport
    from latentbank.ingest.latentlens.caches import OfficialReport
    from latentbank.ingest.plan import Plan
    from latentbank.ingest.workers.shares import ShareState
    from latentbank.query.reading.reading import Reading


def show_plan(
    plan: Plan,
    costs: Estimate,
    packing: str,
    machines: Machines | None = None,
    cluster: Sizing | None = None,
    *,
    as_json: bool,
) -> None:
    """Print a plan and what it will cost, and what a cluster of such machines needs."""
    data = {
        **asdict(plan),
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
    }
    if as_json:
        return _print_json(data)
    rows = [
        ("corpus", plan.corpus),
        ("sentences", f"{plan.sentences:,} ({plan.blank:,} blank lines, {plan.truncated:,} cut)"),
        ("tokens", f"{plan.tokens:,}"),
        ("contexts", f"{plan.contexts:,} in each of the layers {', '.join(map(str, costs.layers))}"),
        ("prefixes to compute", f"{plan.prefixes:,} ({packing})"),
        ("disk", f"{_size(costs.disk_bytes)} a layer, {_size(costs.disk_bytes * len(costs.layers))} in all"),
        ("RAM", f"{_size(costs.ram_bytes)} a layer, {_size(costs.ram_bytes * len(costs.layers))} in all"),
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
    _facts(rows)
    return None


def _cluster(machines: Machines, cluster: Sizing) -> list[tuple[str, str]]:
    """Say what a cluster needs; "in all" is with every copy."""
    nodes = f"{_count(cluster.nodes, 'node')} of {_size(machines.node_ram)} RAM and {_size(machines.node_disk)} disk"
    ram, disk = _size(cluster.node_ram_bytes), _size(cluster.node_disk_bytes)
    return [
        ("cluster", f"{nodes}; the bank fills {ram} and {disk} of each while it is indexed"),
        ("... in all", f"{_size(cluster.ram_bytes)} RAM, {_size(cluster.disk_bytes)} disk"),
        (
            "... of each layer",
            f"{_count(cluster.shards, 'shard')} (LATENTBANK_SHARD_NUMBER), "
            f"{_count(cluster.replicas, 'copy', 'copies')} of each (LATENTBANK_REPLICATION_FACTOR)",
        ),
        (
            "... filling it",
            f"{_hours(cluster.hours)}: the LLM (weights {_size(cluster.weights_bytes)} in 16 bits) "
            f"{_hours(cluster.llm_hours)} on {_count(machines.gpus, 'GPU')} at {machines.gpu_flops / 1e12:g} TFLOP/s, "
            f"meanwhile storing {_hours(cluster.store_hours)}, then indexing "
            f"{_hours(cluster.index_hours)} on {_count(machines.node_cores, 'core')} a node",
        ),
        (
            "... costs",
            f"{cluster.cost:,.2f} to fill it, {cluster.month_cost:,.2f} a month to keep it, at {machines.gpu_price:g} "
            f"a GPU hour and {machines.node_price:g} a node hour",
        ),
    ]


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def _hours(hours: float) -> str:
    return duration(hours * 3600)


def show_projector(file: Path, card: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a training came to: the projector's file and its card."""
    if as_json:
        return _print_json({"file": str(file), **card})
    training, data = card["training"], card["data"][0]
    skipped = ", ".join(f"{count:,} with {reason}" for reason, count in data["skipped"].items())
    cut = f", {data['cut_captions']:,} captions cut" if data["cut_captions"] else ""
    rows = [
        ("projector", str(file)),
        ("encoder", card["encoder"]["name"]),
        ("LLM", card["llm"]["name"]),
        ("pairs", f"{data['rows']:,}{f', left out: {skipped}' if skipped else ''}{cut}"),
        ("steps", f"{training['steps']:,} in {duration(training['seconds'])}"),
    ]
    for key, name in (("loss", "training loss"), ("validation_loss", "validation loss")):
        if training[key] is not None:
            rows.append((name, f"{training[key]:.3f} nats a token"))
    for sample in training["samples"]:
        rows.append((f"“{sample['caption']}”", f"“{sample['written']}”"))
    _facts(rows)
    return None


def show_job(report: JobReport, bank: str, layers: Sequence[int], *, as_json: bool) -> None:
    """Print what an ingestion did."""
    if as_json:
        return _print_json({"bank": bank, "layers": list(layers), **asdict(report)})
    if not report.complete:
        _console().print(
            f"Share {report.share} of '{report.corpus}' is stored in '{bank}': {report.contexts:,} contexts in each "
            f"layer ({report.found:,} were there before). Other shares are not done yet; whoever stores the last one "
            "completes the corpus.",
            highlight=False,
        )
        return None
    if not report.encoded:
        _console().print(
            f"'{report.corpus}' is complete in '{bank}': {report.contexts:,} contexts in each layer."
        )
        return None
    rate = report.encoded / max(report.encode_seconds + report.index_seconds, 1e-9)
    _console().print(
        f"'{report.corpus}' is complete in '{bank}': {report.contexts:,} contexts in each of the layers "
        f"{', '.join(map(str, layers))} ({report.found:,} were there before). Encoding took "
        f"{duration(report.encode_seconds)}, indexing {duration(report.index_seconds)}: {rate:,.0f} contexts/s.",
        highlight=False,
    )
    return None


def show_status(
    bank: str, rows: Sequence[tuple[CorpusEntry, int, Sequence[ShareState]]], *, as_json: bool
) -> None:
    """Print how far each corpus is, and each share of it."""
    if as_json:
        data = [
            {**entry.to_dict(), "stored": stored, "shares": [asdict(one) for one in shares]}
            for entry, stored, shares in rows
        ]
        return _print_json({"bank": bank, "corpora": data})
    table = Table("corpus", "state", "stored", "planned", "updated", title=bank)
    for entry, stored, shares in rows:
        share = stored / max(entry.contexts, 1)
        state = "complete" if entry.complete else f"incomplete, {share:.0%}"
        table.add_row(Text(entry.name), state, f"{stored:,}", f"{entry.contexts:,}", entry.updated)
        for one in shares:
            held = ["" if count is None else f"{count:,}" for count in (one.stored, one.contexts)]
            by = f" ({one.worker})" if one.worker and one.state != "done" else ""
            table.add_row(Text(f"  {one.share}"), Text(one.state + by), *held, one.heartbeat)
    _console().print(table if rows else f"The bank '{bank}' has no corpus yet.")
    return None


def show_banks(banks: Sequence[Versions], where: str, *, as_json: bool) -> None:
    """Print the names of banks, with their versions where there are several."""
    if as_json:
        versions = {one.bank: _versions(one) for one in banks}
        return _print_json({"where": where, "banks": [one.bank for one in banks], "versions": versions})
    for one in banks:
        several = one.versions != (1,)
        print(f"{one.bank}  ({_said_versions(one)})" if several else one.bank)
    if not banks:
        _console().print(
            f"There is no bank in {where} yet; `latentbank ingest run` makes one.", highlight=False
        )
    return None


def show_use(now: Versions, before: int | None, *, as_json: bool) -> None:
    """Print which version a bank's plain name means since a switch."""
    if as_json:
        return _print_json({"bank": now.bank, **_versions(now), "before": before})
    back = "" if before in (None, now.in_use) else f"; `latentbank bank use {now.bank}@{before}` goes back"
    print(f"'{now.bank}' means version {now.in_use} now{back}.")
    return None


def _versions(of: Versions) -> dict[str, Any]:
    return {"versions": list(of.versions), "in_use": of.in_use}


def _said_versions(of: Versions) -> str:
    numbers = ", ".join(map(str, of.versions))
    return f"version{'s' if len(of.versions) > 1 else ''} {numbers}; in use: {of.in_use or 'none'}"


def show_info(info: BankInfo, version: int, versions: Versions, *, as_json: bool) -> None:
    """Print a bank's manifest, its versions and the state of its layers."""
    manifest = info.manifest
    if as_json:
        layers = {str(layer): asdict(state) for layer, state in info.layers.items()}
        told = {key: value for key, value in manifest.to_dict().items() if key != "means"}
        return _print_json({**told, "bank_version": version, **_versions(versions), "state": layers})
    _facts(
        [
            ("bank", manifest.bank),
            *([("version", f"{version} ({_said_versions(versions)})")] if versions.versions != (1,) else []),
            ("model", manifest.model + (f" at {manifest.revision}" if manifest.revision else "")),
            ("fingerprint", manifest.fingerprint),
            ("LLM", f"{manifest.num_layers} layers, hidden size {manifest.hidden_size}"),
            ("quantization", manifest.quantization),
            ("metric", manifest.metric),
            ("created", f"{manifest.created} by latentbank {manifest.version}"),
        ]
    )
    table = Table("layer", "contexts", "indexed", "on disk")
    for layer, state in info.layers.items():
        disk = "" if state.bytes_on_disk is None else _size(state.bytes_on_disk)
        table.add_row(str(layer), f"{state.points:,}", f"{state.indexed:,}", disk)
    _console().print(table)
    if manifest.corpora:
        ledger = Table("corpus", "sentences", "tokens", "contexts", "complete", "updated")
        for entry in manifest.corpora.values():
            ledger.add_row(
                Text(entry.name),
                f"{entry.sentences:,}",
                f"{entry.tokens:,}",
                f"{entry.contexts:,}",
                "yes" if entry.complete else "no",
                entry.updated,
            )
        _console().print(ledger)
    return None


def show_verified(bank: str, wrong: Sequence[str], *, as_json: bool) -> None:
    """Print what a verification found."""
    if as_json:
        return _print_json({"bank": bank, "sound": not wrong, "wrong": list(wrong)})
    for sentence in wrong:
        print(sentence)
    if not wrong:
        print(f"The bank '{bank}' is sound.")
    return None


def show_token(
    token: str,
    banks: Sequence[str],
    layers: Sequence[int],
    versions: Sequence[int],
    expires: datetime,
    *,
    as_json: bool,
) -> None:
    """Print a token: alone on standard output, so that it can go into a file."""
    until = expires.isoformat(timespec="seconds")
    if as_json:
        return _print_json(
            {
                "token": token,
                "banks": list(banks),
                "layers": list(layers),
                "versions": list(versions),
                "expires": until,
            }
        )
    print(token)
    return None


def show_export(report: ExportReport, *, as_json: bool) -> None:
    """Print what an export is."""
    if as_json:
        return _print_json(asdict(report))
    _facts(
        [
            ("bank", report.bank),
            ("corpora", _corpora(report.corpora, report.left_out)),
            (
                "contexts",
                f"{report.contexts:,} in each of the layers {', '.join(map(str, report.layers))}",
            ),
            (
                "files",
                f"{report.files:,} in {report.directory}, {_size(report.bytes)} ({report.written:,} written now)",
            ),
        ]
    )
    return None


def show_move(report: MoveReport, where: str, *, as_json: bool) -> None:
    """Print what a move of contexts into a bank did, and what its verification found."""
    if as_json:
        return _print_json({"where": where, **asdict(report), "sound": not report.wrong})
    for sentence in report.wrong:
        print(sentence)
    verdict = "It is verified" if not report.wrong else "It is not sound"
    by = f" ({report.snapshots} layers by snapshot)" if report.snapshots else ""
    _console().print(
        f"The bank '{report.bank}' in {where} holds {_corpora(report.corpora, report.left_out)}: "
        f"{report.contexts:,} contexts in each of the layers {', '.join(map(str, report.layers))}, "
        f"{report.written:,} vectors written now{by}. {verdict}.",
        highlight=False,
        markup=False,
    )
    return None


def show_official(report: OfficialReport, where: str, *, as_json: bool) -> None:
    """Print what the import of a cache of latentlens did."""
    if as_json:
        move = {**asdict(report.move), "sound": not report.move.wrong}
        return _print_json({"where": where, **asdict(report), "move": move})
    show_move(report.move, where, as_json=False)
    cosines = ", ".join(f"{layer}: {cosine:.3f}" for layer, cosine in report.cosines.items())
    _facts(
        [
            ("rows of the first layer", f"{report.rows:,}"),
            ("repeated prefixes", f"{report.repeated:,} in all layers"),
            ("special and first tokens", f"{report.left_out:,} in all layers"),
            ("not in every layer", f"{report.not_everywhere:,}"),
            ("cosine with the LLM", cosines),
        ]
    )
    return None


def _corpora(moved: Sequence[str], left_out: Sequence[str]) -> str:
    return ", ".join(moved) + (f" (without {', '.join(left_out)}: incomplete)" if left_out else "")


def show_reading(reading: Reading, *, as_json: bool = False, title: str | None = None) -> None:
    """Print a reading: each token with its neighbors, the token marked in each caption."""
    if as_json:
        return _print_json(reading.to_dict())
    from latentbank.query.reading.reading import excerpt

    table = Table(
        "token",
        "layer",
        "cosine",
        "bank layer",
        "neighbor",
        "caption",
        title=Text(title or reading.source),
        title_justify="left",
        caption=f"{reading.lens} lens, bank {reading.bank}, bank layers {', '.join(map(str, reading.bank_layers))}"
        + (f", {reading.metric} by {reading.query_mean}" if reading.query_mean else ""),
        caption_justify="left",
    )
    for token in reading.tokens:
        for rank, neighbor in enumerate(token.neighbors):
            table.add_row(
                Text(token.label.strip() if rank == 0 else "", style="bold"),
                str(token.layer) if rank == 0 and token.layer >= 0 else "",
                f"{neighbor.cosine:.3f}",
                str(neighbor.bank_layer),
                Text(neighbor.word),
                _marked(excerpt(neighbor, 60, "\0", "\0")),
                end_section=rank == len(token.neighbors) - 1,
            )
    _console().print(table)
    return None


def _marked(text: str) -> Text:
    before, token, after = text.split("\0")
    marked = Text(before)
    marked.append(token, style="bold reverse")
    marked.append(after)
    return marked


def _facts(rows: Sequence[tuple[str, str]]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    _console().print(table)


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=1))


def _console() -> Console:
    return Console()


def _size(count: float) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
