"""`latentbank bank context`: follow a stored context through a bank's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.bank import app
from latentbank.cli.grouping import command
from latentbank.cli.options.banks import BankOptions
from latentbank.cli.options.common import BankLayersOption, GlobalOptions, JsonOption, bank_layers_of
from latentbank.errors import QueryError


@command(
    app,
    "context",
    example="bank context --where word=dog -o dog.png",
    first="context bank where bank_layers",
)
def bank_context(
    ctx: typer.Context,
    *,
    context: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help="A context's id, which the JSON of readings gives of each neighbor."
        ),
    ] = None,
    bank: BankOptions,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Without an id: follow a context that this filter selects, such as word=dog."),
    ] = None,
    bank_layers: BankLayersOption = "all",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Neighbors at each layer.")] = 5,
    unique: Annotated[
        str, typer.Option(help="One neighbor per word, or context for the nearest of all.")
    ] = "word",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write a picture (.png, .svg, .pdf) or a page (.html)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a context through all bank layers: its neighbors at each, and how far its hidden state drifts."""
    from latentbank.bank.vectors import first_context
    from latentbank.bank.where import parse_where
    from latentbank.cli.output.following import give_followed
    from latentbank.progress import shown
    from latentbank.query.following.contexts import follow_context

    if unique not in ("context", "word"):
        raise QueryError(f"Unknown value '{unique}' for --unique; use context or word.")
    condition = parse_where(where or [])
    if (context is None) == (condition is None):
        raise QueryError("Name a context: give its id, or --where with a filter that selects some.")
    with bank.opened(GlobalOptions.of(ctx).settings()) as opened, shown("following", "layers") as progress:
        followed = follow_context(
            opened,
            first_context(opened, condition) if context is None else context,
            bank_layers_of(bank_layers),
            top_k=top_k,
            unique="word" if unique == "word" else None,
            progress=progress,
        )
    give_followed(followed, output, as_json)
