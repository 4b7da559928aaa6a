"""`latentbank bank tune`: measure how thoroughly a bank's graphs must be searched."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.bank import app
from latentbank.cli.grouping import command, message_of
from latentbank.cli.options.banks import only_bank
from latentbank.cli.options.common import (
    GlobalOptions,
    JsonOption,
    VisualLayersOption,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.models import VisualModelOptions
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.bank.tuning import Sample


@command(app, "tune", example="bank tune SmolLM2-135M --recall 0.99 --images photos")
def bank_tune(
    ctx: typer.Context,
    *,
    bank: Annotated[str | None, typer.Argument()] = None,
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Share of the true neighbors that a search shall find.")
    ] = 0.99,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            help="Files, globs, folders, .parquet files or hub datasets of pictures like those that will be read; "
            "without them, only text is measured.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Take at most this many pictures.")] = 16,
    queries: Annotated[int, typer.Option(min=1, help="Queries of each kind.")] = 256,
    visual_layers: VisualLayersOption = None,
    model: VisualModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Measure the smallest ef that finds enough, for text and for each visual layer; searches then use it.

    Run again, it replaces what it measured before.
    """
    from latentbank.bank.opening import open_bank
    from latentbank.bank.tuning import tune
    from latentbank.cli.output.banks import show_tuned
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        visual = (
            _visual(ctx, opened, settings, model, visual_layers, images, limit, queries) if images else {}
        )
        with nullcontext() if as_json else shown("searching", "kinds of query") as progress:
            found = tune(opened, recall, visual, queries, progress)
        show_tuned(opened.name, recall, found, as_json=as_json)


def _visual(
    ctx: typer.Context,
    bank: Bank,
    settings: Settings,
    model: VisualModelOptions,
    visual_layers: str | None,
    images: list[str],
    limit: int,
    queries: int,
) -> dict[int, Sample]:
    """Return visual tokens of pictures by visual layer."""
    from latentbank.cli.visual_setup import load_as_deep
    from latentbank.models.vision.sources import find_images
    from latentbank.query.evaluation.tuning import visual_samples
    from latentbank.query.reading.visual import default_visual_layers

    def broken(_: str, error: LatentBankError) -> None:
        print(f"skipped: {message_of(error, ctx)}", file=sys.stderr)

    pictures = find_images(images, limit=limit)
    choice = named_visual_layers(visual_layers)
    vlm = load_as_deep(model, bank, settings, choice, lambda count: max(default_visual_layers(count)))
    layers = layers_for(choice, vlm.num_layers) or default_visual_layers(vlm.num_layers)
    return visual_samples(bank, vlm, pictures, layers, queries, broken)
