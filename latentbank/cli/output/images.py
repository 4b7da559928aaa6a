"""Banks of images as tables or JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console, print_facts, print_json, size_text
from latentbank.progress import duration
from latentbank.text import count_text, listed, public_name

if TYPE_CHECKING:
    from latentbank.bank.manifest import Manifest
    from latentbank.ingest.images.job import ImagesReport
    from latentbank.ingest.images.planning import ImagesPlan


def show_images_plan(plan: ImagesPlan, bank: str, model: str, *, as_json: bool, error: bool) -> None:
    """Print what an ingestion of images will store; on standard error (`error`) if it begins at once."""
    if as_json:
        print_json({"bank": bank, "model": public_name(model), **asdict(plan), "layers": list(plan.layers)})
        return
    each = "an image" if plan.images is None else "in all"
    count = "a dataset that does not tell how many" if plan.images is None else f"{plan.images:,}"
    points = "" if plan.points is None else f", about {plan.points:,} at each of the visual layers"
    rows = [
        ("corpus", plan.corpus),
        ("bank", bank),
        ("model", public_name(model)),
        ("images", count),
        ("visual tokens", f"{plan.tokens_per_image:,.0f} an image{points}"),
        ("visual layers", listed(plan.layers)),
        (
            "disk",
            f"about {size_text(plan.disk_bytes)} {each}, with a small picture of {size_text(plan.picture_bytes)} "
            "for each image",
        ),
        ("RAM", f"about {size_text(plan.ram_bytes)} {each}, for fast searches"),
    ]
    speed = (
        f"{plan.forward_seconds:.3g} s an image in the model, of {count_text(plan.sampled, 'image')} measured"
    )
    rows.append(("time", speed if plan.seconds is None else f"about {duration(plan.seconds)} ({speed})"))
    print_facts(rows, error=error)


def show_ingested(
    report: ImagesReport, bank: str, model: str, layers: Sequence[int], *, as_json: bool
) -> None:
    """Print what an ingestion of images did."""
    if as_json:
        print_json({"bank": bank, "model": model, "layers": list(layers), **asdict(report)})
        return
    counts = [
        (report.encoded, "read"),
        (report.found, "stored before"),
        (report.copies - report.renamed, "the same file as another one"),
        (report.renamed, "renamed"),
        (report.changed, "changed since, and read anew"),
        (report.failed, "that cannot be read"),
    ]
    seen = listed(f"{count:,} {what}" for count, what in counts if count)
    if not report.complete:
        print(
            f"Share {report.share} of '{report.corpus}' is stored in '{bank}': {seen}. Other shares are not done yet; "
            "the worker that stores the last one completes the corpus."
        )
        return
    print(
        f"'{report.corpus}' is complete in the images of '{bank}': {count_text(report.images, 'image')}, "
        f"{report.points:,} visual tokens at each of the visual layers {listed(layers)}."
    )
    took = (
        f" Encoding took {duration(report.encode_seconds)}, indexing {duration(report.index_seconds)}."
        if report.encoded
        else ""
    )
    print(f"Of {count_text(report.seen, 'image')}: {seen or 'none'}.{took}")
    if report.gone:
        print(
            f"{count_text(report.gone, 'image')} of the corpus {'was' if report.gone == 1 else 'were'} not among them, "
            "and stay in the bank."
        )
    if report.changed and report.share is not None:
        print("Run again without --shard to remove the tokens of files that have changed.")


def show_images(found: Sequence[Manifest], bank: str, where: str, *, as_json: bool) -> None:
    """Print what a bank holds of images."""
    if as_json:
        print_json({"bank": bank, "where": where, "vlms": [vlm_facts(one) for one in found]})
        return
    if not found:
        print(f"The bank '{bank}' holds no images yet; `latentbank images ingest` stores some.")
        return
    console().print(images_table(found))


def vlm_facts(manifest: Manifest) -> dict[str, Any]:
    """Return what is stored of a VLM's images as JSON-ready data."""
    corpora = {
        entry.name: {
            "images": entry.sentences,
            "points": entry.contexts,
            "complete": entry.complete,
            "prompt": entry.plan.get("prompt"),
            "content_hash": entry.content_hash,
            "updated": entry.updated,
            "version": entry.version,
        }
        for entry in manifest.corpora.values()
    }
    return {
        "stored": manifest.bank,
        "model": manifest.model,
        "fingerprint": manifest.fingerprint,
        "layers": list(manifest.layers),
        "created": manifest.created,
        "corpora": corpora,
    }


def images_table(found: Sequence[Manifest]) -> Table:
    """Return a table of the corpora of images of each VLM."""
    table = Table(
        "VLM", "visual layers", "corpus of images", "images", "visual tokens", "complete", "updated"
    )
    for manifest in found:
        name = Text(f"{manifest.model} ({manifest.fingerprint[:8]})")
        rows = list(manifest.corpora.values())
        if not rows:
            table.add_row(name, listed(manifest.layers))
        for entry in rows:
            table.add_row(
                name,
                listed(manifest.layers),
                Text(entry.name),
                f"{entry.sentences:,}",
                f"{entry.contexts:,}",
                "yes" if entry.complete else "no",
                entry.updated,
            )
    return table
