"""Ingestion jobs and trainings, as tables or JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.moves import pushed_facts
from latentbank.cli.output.text import console, print_facts, print_json
from latentbank.progress import duration
from latentbank.text import count_text, in_layers, listed

if TYPE_CHECKING:
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.hub import Pushed
    from latentbank.ingest.job import JobReport
    from latentbank.ingest.sources.base import Read
    from latentbank.ingest.workers.shares import ShareState


def show_job(
    report: JobReport,
    bank: str,
    layers: Sequence[int],
    source: Read,
    *,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print the result of an ingestion; as JSON with what was read for it, and `more`."""
    if as_json:
        data = {"bank": bank, "layers": list(layers), **asdict(report), "source": asdict(source)}
        print_json(data | dict(more or {}))
        return
    contexts = count_text(report.contexts, "context")
    if not report.complete:
        console().print(
            f"Share {report.share} of '{report.corpus}' is stored in '{bank}': {contexts} in "
            f"each layer ({report.found:,} were there before). Other shares are not done yet; the worker that stores "
            "the last one completes the corpus.",
            highlight=False,
        )
        return
    if not report.encoded:
        console().print(f"'{report.corpus}' is complete in '{bank}': {contexts} in each layer.")
        return
    rate = report.encoded / max(report.encode_seconds + report.index_seconds, 1e-9)
    console().print(
        f"'{report.corpus}' is complete in '{bank}': {contexts} "
        f"{in_layers(layers)} ({report.found:,} were there before). Encoding took "
        f"{duration(report.encode_seconds)}, indexing {duration(report.index_seconds)}: {rate:,.0f} contexts/s.",
        highlight=False,
    )


def show_status(
    bank: str, rows: Sequence[tuple[CorpusEntry, int, Sequence[ShareState]]], *, as_json: bool
) -> None:
    """Print how much of each corpus is stored, and of each share."""
    if as_json:
        data = [
            {**entry.to_dict(), "stored": stored, "shares": [asdict(share) for share in shares]}
            for entry, stored, shares in rows
        ]
        print_json({"bank": bank, "corpora": data})
        return
    table = Table("corpus", "state", "stored", "planned", "updated", title=bank)
    for entry, stored, shares in rows:
        state = "complete" if entry.complete else f"incomplete, {stored / max(entry.contexts, 1):.0%}"
        table.add_row(Text(entry.name), state, f"{stored:,}", f"{entry.contexts:,}", entry.updated)
        for share in shares:
            counts = ["" if count is None else f"{count:,}" for count in (share.stored, share.contexts)]
            worker = f" ({share.worker})" if share.worker and share.state != "done" else ""
            table.add_row(Text(f"  {share.share}"), Text(share.state + worker), *counts, share.heartbeat)
    console().print(table if rows else f"The bank '{bank}' has no corpus yet.")


def show_connector(file: Path, card: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a connector has become: the projector's file and its card."""
    if as_json:
        print_json({"file": str(file), **card})
        return
    encoder, projector = card["encoder"], card["projector"]
    rows = [
        ("projector", str(file)),
        ("connector", card["connector"]),
        ("encoder", f"{encoder['name']}, layers {listed(encoder['layer'])}"),
        (
            "pictures",
            f"{encoder['pictures']['size']} x {encoder['pictures']['size']}, {encoder['pictures']['fit']}",
        ),
        ("LLM", card["llm"]["name"]),
        (
            "SwiGLU",
            f"{projector['features'] - 2 * projector.get('padding', False):,} to {projector['width']:,} to "
            f"{projector['hidden_size']:,}",
        ),
        ("prompt", f"“{card['prompt']}”"),
    ]
    print_facts(rows)


def show_projector(
    file: Path, card: Mapping[str, Any], pushed: Pushed | None = None, *, as_json: bool
) -> None:
    """Print the result of a training: the projector's file, its card, and where it was pushed to."""
    if as_json:
        print_json({"file": str(file), **card, "pushed": pushed and asdict(pushed)})
        return
    training, data = card["training"], card["data"][0]
    skipped = listed(f"{count:,} with {reason}" for reason, count in data["skipped"].items())
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
    print_facts(rows + pushed_facts(pushed))


def show_lens(
    file: Path, kind: str, layers: Sequence[int], card: Mapping[str, Any], *, as_json: bool
) -> None:
    """Print what was made of a tuned or a Jacobian lens: its file and its card."""
    if as_json:
        print_json({"file": str(file), "kind": kind, "layers": list(layers), **card})
        return
    rows = [("lens", str(file)), ("kind", kind), ("LLM", str(card["model"])), ("layers", listed(layers))]
    if source := card.get("source"):
        rows.append(("released as", str(source)))
    if corpus := card.get("corpus"):
        rows.append(("text", f"{count_text(card['sentences'], 'sentence')} of {corpus}"))
    if "sentences_of_a_row" in card:
        rows.append(("each row", f"mean over {card['sentences_of_a_row']:,.0f} sentences or more"))
    for layer, found in card.get("divergence", {}).items():
        rows.append(
            (f"layer {layer}", f"{found['before']:.2f} to {found['after']:.2f} nats from the LLM's answer")
        )
    print_facts(rows)
