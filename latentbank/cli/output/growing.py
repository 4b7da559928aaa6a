"""What a growing corpus has read and kept, as a table or JSON (docs/json.md)."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from latentbank.cli.output.text import console, print_facts, print_json
from latentbank.progress import duration
from latentbank.text import count_text, listed

if TYPE_CHECKING:
    from latentbank.ingest.growing.growth import GrowthReport
    from latentbank.query.growing.missing import Missing


def show_missing(missing: Missing) -> None:
    """Print on standard error which tokens ask."""
    print(
        f"{count_text(missing.images, 'image')}: {missing.asking:,} visual tokens ask, {missing.held_out:,} of other "
        f"images are held out (visual layers {listed(missing.spaces)}, bank layers {listed(missing.layers)})",
        file=sys.stderr,
    )


def show_growth(report: GrowthReport, bank: str, *, as_json: bool) -> None:
    """Print what was read, taken and kept."""
    if as_json:
        print_json({"bank": bank, **asdict(report)})
        return
    if report.job:
        contexts = count_text(report.job.contexts, "context")
        kept = f"{report.kept:,} in '{report.corpus}', {contexts} in each layer of '{bank}'"
    elif report.kept:
        kept = f"{report.kept:,} would be stored in '{report.corpus}'; run again without --dry-run"
    else:
        kept = "none; nothing was stored"
    print_facts(
        [
            ("read", f"{count_text(report.read, 'sentence')}, {count_text(report.contexts, 'context')}"),
            (
                "asked",
                f"{count_text(report.asking, 'visual token')}; {report.answered:,} found a nearer context",
            ),
            (
                "taken",
                f"{count_text(report.taken, 'sentence')}; {report.dropped:,} dropped: no held-out token gains by them",
            ),
            ("kept", kept),
            (
                "gain",
                f"{report.confirmed:,} of {report.held_out:,} held-out tokens, {report.gain:.3f} on average",
            ),
            ("time", f"{duration(report.seconds)}, {report.tokens_per_second:,.0f} tokens/s"),
            ("listed in", report.file),
        ]
    )
    if report.job:
        console().print(
            f"To drop it again: latentbank bank drop-corpus {bank} {report.corpus}", highlight=False
        )
