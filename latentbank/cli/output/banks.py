"""Banks, their versions and their keys, as tables or JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.images import images_table, vlm_facts
from latentbank.cli.output.text import console, print_facts, print_json, size_text
from latentbank.text import count_text, listed

if TYPE_CHECKING:
    from latentbank.bank.bank import BankInfo
    from latentbank.bank.manifest import Manifest
    from latentbank.bank.store.base import Replicated
    from latentbank.bank.tuning import TunedKind
    from latentbank.bank.upgrade import UpgradeReport
    from latentbank.bank.versions import Versions


def show_banks(
    banks: Sequence[Versions], images: Mapping[str, Sequence[Manifest]], where: str, *, as_json: bool
) -> None:
    """Print the names of banks, with their versions unless there is only version 1, and with their `images`."""
    if as_json:
        versions = {bank.bank: _versions(bank) for bank in banks}
        facts = {bank: [vlm_facts(one) for one in found] for bank, found in images.items()}
        print_json({"where": where, "banks": list(versions), "versions": versions, "images": facts})
        return
    for bank in banks:
        print(bank.bank if bank.versions == (1,) else f"{bank.bank}  ({_versions_text(bank)})")
        for one in images.get(bank.bank, ()):
            corpora = listed(
                f"{entry.name} ({count_text(entry.sentences, 'image')})" for entry in one.corpora.values()
            )
            print(f"  images of {one.model}: {corpora or 'none yet'}")
    if not banks:
        console().print(
            f"There is no bank in {where} yet; `latentbank ingest run` creates one.", highlight=False
        )


def show_use(now: Versions, before: int | None, *, as_json: bool) -> None:
    """Print which version a bank's plain name means after a switch."""
    if as_json:
        print_json({"bank": now.bank, **_versions(now), "before": before})
        return
    back = "" if before in (None, now.in_use) else f"; `latentbank bank use {now.bank}@{before}` goes back"
    print(f"'{now.bank}' means version {now.in_use} now{back}.")


def show_replicated(done: Sequence[Replicated], leaving: str | None, *, as_json: bool) -> None:
    """Print what was done with each collection of banks on a cluster."""
    if as_json:
        print_json({"collections": [asdict(one) for one in done], "leaving": leaving})
        return
    table = Table("collection", "copies of each shard", "made", "removed")
    for one in done:
        table.add_row(Text(one.collection), str(one.copies), str(one.made), str(one.removed))
    console().print(table)
    if leaving is not None:
        print(f"'{leaving}' holds nothing of these banks any more.")


def show_tuned(bank: str, recall: float, found: Sequence[TunedKind], *, as_json: bool) -> None:
    """Print how thoroughly a bank's graphs must be searched."""
    if as_json:
        print_json({"bank": bank, "recall": recall, "kinds": [asdict(one) for one in found]})
        return
    table = Table("queries", "number", "ef", "share of the neighbors found")
    for one in found:
        ef = "none is enough" if one.ef is None else f"{one.ef:,}"
        table.add_row(one.kind, f"{one.queries:,}", ef, f"{one.recall:.4f}")
    console().print(table)
    print(f"Searches of '{bank}' use this from now on, until it holds a quarter more contexts.")
    if any(one.ef is None for one in found):
        print("Where none is enough, an embedded bank is scanned; of a server's bank, pull a copy.")


def show_info(
    info: BankInfo, version: int, versions: Versions, images: Sequence[Manifest], *, as_json: bool
) -> None:
    """Print a bank's manifest, its versions, the state of its layers, and what it holds of images."""
    manifest = info.manifest
    if as_json:
        layers = {str(layer): asdict(state) for layer, state in info.layers.items()}
        facts = {key: value for key, value in manifest.to_dict().items() if key != "means"}
        held = [vlm_facts(one) for one in images]
        print_json({**facts, "bank_version": version, **_versions(versions), "state": layers, "images": held})
        return
    print_facts(
        [
            ("bank", manifest.bank),
            *([("version", f"{version} ({_versions_text(versions)})")] if versions.versions != (1,) else []),
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
        disk = "" if state.bytes_on_disk is None else size_text(state.bytes_on_disk)
        table.add_row(str(layer), f"{state.points:,}", f"{state.indexed:,}", disk)
    console().print(table)
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
        console().print(ledger)
    if images:
        console().print(images_table(images))


def show_verified(bank: str, wrong: Sequence[str], *, as_json: bool) -> None:
    """Print the result of a verification."""
    if as_json:
        print_json({"bank": bank, "sound": not wrong, "wrong": list(wrong)})
        return
    for sentence in wrong:
        print(sentence)
    if not wrong:
        print(f"The bank '{bank}' is sound.")


def show_upgrade(report: UpgradeReport, *, as_json: bool) -> None:
    """Print what an upgrade did, and which tokens must be issued again."""
    if as_json:
        print_json(asdict(report))
        return
    bank, layers = report.bank, ",".join(map(str, report.layers))
    if report.finished:
        removed = "Removed the old manifest" if report.changed else "There was no old manifest left"
        print(f"{removed}; the bank '{bank}' is in its ledger, {report.ledger}, alone.")
        return
    if not report.changed:
        print(f"The bank '{bank}' has a ledger already, {report.ledger}.")
        return
    print(
        f"The bank '{bank}' has a ledger now, {report.ledger}. Tokens that were made before do not open it."
    )
    print("Issue every token for this bank again, then remove the old manifest:")
    print(f"  latentbank bank token --read --expires 30d --banks {bank} --layers {layers}")
    print(f"  latentbank bank upgrade {bank} --finish")


def show_indexed(bank: str, layers: Sequence[int], *, as_json: bool) -> None:
    """Print which layers were indexed."""
    if as_json:
        print_json({"bank": bank, "layers": list(layers)})
    elif layers:
        print(f"Indexed layer {listed(layers)} of '{bank}'.")
    else:
        print(f"The bank '{bank}' is indexed.")


def show_token(
    token: str,
    banks: Sequence[str],
    layers: Sequence[int],
    versions: Sequence[int],
    expires: datetime,
    images: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print a token and nothing else, so that it can be redirected into a file."""
    until = expires.isoformat(timespec="seconds")
    if as_json:
        print_json(
            {
                "token": token,
                "banks": list(banks),
                "layers": list(layers),
                "versions": list(versions),
                "images": list(images),
                "expires": until,
            }
        )
    else:
        print(token)


def _versions(versions: Versions) -> dict[str, Any]:
    return {"versions": list(versions.versions), "in_use": versions.in_use}


def _versions_text(versions: Versions) -> str:
    plural = "s" if len(versions.versions) > 1 else ""
    return f"version{plural} {listed(versions.versions)}; in use: {versions.in_use or 'none'}"
