"""Exports, imports and copies of banks, as tables or JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from latentbank.cli.output.text import console, corpora_text, print_facts, print_json, size_text
from latentbank.text import count_text, in_layers, listed

if TYPE_CHECKING:
    from latentbank.bank.transfer.export import ExportReport
    from latentbank.bank.transfer.receive import MoveReport
    from latentbank.hub import Pushed
    from latentbank.ingest.latentlens.caches import CacheReport


def show_export(
    report: ExportReport, pushed: Pushed | None, images: Sequence[ExportReport] = (), *, as_json: bool
) -> None:
    """Print what an export holds, with images of VLMs, and where it was pushed to."""
    if as_json:
        held = [asdict(one) for one in images]
        print_json({**asdict(report), "images": held, "pushed": pushed and asdict(pushed)})
        return
    print_facts(
        [
            ("bank", report.bank),
            ("corpora", corpora_text(report.corpora, report.left_out)),
            (
                "contexts",
                f"{report.contexts:,} {in_layers(report.layers)}",
            ),
            (
                "files",
                f"{report.files:,}{f' in {report.directory}' if report.directory else ''}, "
                f"{size_text(report.bytes)} ({report.written:,} written now)",
            ),
            *(
                (
                    "images",
                    f"{corpora_text(one.corpora, one.left_out)}: {one.contexts:,} visual tokens at each of the visual "
                    f"layers {listed(one.layers)}, {one.files:,} files, {size_text(one.bytes)} "
                    f"({one.written:,} written now)",
                )
                for one in images
            ),
            *pushed_facts(pushed),
        ]
    )


def pushed_facts(pushed: Pushed | None) -> list[tuple[str, str]]:
    """Return a fact to print about what was pushed to the hub; none if nothing was."""
    if pushed is None:
        return []
    who = "private" if pushed.private else "public"
    return [("on the hub", f"{pushed.url} ({who}), commit {pushed.commit[:12]}")]


def show_moves(report: MoveReport, images: Sequence[MoveReport], where: str, *, as_json: bool) -> None:
    """Print what was moved into a bank: contexts, and images of VLMs."""
    if as_json:
        held = [{**asdict(one), "sound": not one.wrong} for one in images]
        print_json({"where": where, **asdict(report), "sound": not report.wrong, "images": held})
        return
    show_move(report, where, as_json=False)
    for one in images:
        for sentence in one.wrong:
            print(sentence)
        verdict = "They are verified" if not one.wrong else "They are not sound"
        by = f" ({count_text(one.snapshots, 'layer')} by snapshot)" if one.snapshots else ""
        print(
            f"Its images hold {corpora_text(one.corpora, one.left_out)}: {one.contexts:,} visual tokens at each of the "
            f"visual layers {listed(one.layers)}, {count_text(one.written, 'vector')} written now{by}. {verdict}."
        )


def show_move(report: MoveReport, where: str, *, as_json: bool) -> None:
    """Print how many contexts were moved into a bank, and whether the bank was verified."""
    if as_json:
        print_json({"where": where, **asdict(report), "sound": not report.wrong})
        return
    for sentence in report.wrong:
        print(sentence)
    verdict = "It is verified" if not report.wrong else "It is not sound"
    by = f" ({count_text(report.snapshots, 'layer')} by snapshot)" if report.snapshots else ""
    console().print(
        f"The bank '{report.bank}' in {where} holds {corpora_text(report.corpora, report.left_out)}: "
        f"{count_text(report.contexts, 'context')} {in_layers(report.layers)}, "
        f"{count_text(report.written, 'vector')} written now{by}. {verdict}.",
        highlight=False,
        markup=False,
    )


def show_latentlens(report: CacheReport, where: str, *, as_json: bool) -> None:
    """Print the result of importing a cache of latentlens."""
    if as_json:
        move = {**asdict(report.move), "sound": not report.move.wrong}
        print_json({"where": where, **asdict(report), "move": move})
        return
    show_move(report.move, where, as_json=False)
    cosines = listed(f"{layer}: {cosine:.3f}" for layer, cosine in report.cosines.items())
    print_facts(
        [
            ("rows of the first layer", f"{report.rows:,}"),
            ("repeated prefixes", f"{report.repeated:,} in all layers"),
            ("special and first tokens", f"{report.left_out:,} in all layers"),
            ("not in every layer", f"{report.not_everywhere:,}"),
            ("cosine with the LLM", cosines),
        ]
    )
