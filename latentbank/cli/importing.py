"""`latentbank import`: a projector from what the authors of LatentLens released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.common import GlobalOptions, JsonOption

app = typer.Typer(no_args_is_help=True, help="Import models that others have released.")


@command(
    app,
    "connector",
    example="import connector McGill-NLP/latentlens-connectors --name olmo-vit",
    first="source name output vision llm",
)
def import_connector(
    ctx: typer.Context,
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|USER/NAME[@REVISION]",
            help="Folder or repository on the hub, with connector.pt and config.yaml or a folder of them for each "
            "connector.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Connector, such as olmo-vit; by default the only one.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the projector; by default the connector's name."),
    ] = None,
    vision: Annotated[
        str | None, typer.Option(help="Vision encoder: hub id or folder; by default the connector's own.")
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(help="Language model: hub id or folder; by default the connector's own."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a projector from a connector that LatentLens' authors released: the paper's model, for --model."""
    from latentbank.cli.output.jobs import show_connector
    from latentbank.models.composite.connectors import find_connector
    from latentbank.models.composite.connectors import import_connector as run
    from latentbank.models.composite.projector import load_projector
    from latentbank.progress import shown

    data_dir = GlobalOptions.of(ctx).settings().data_dir
    with shown("downloading", "MiB") as progress:
        found = find_connector(source, name, progress)
        progress.stage("importing", "steps")
        file = run(
            found.folder,
            output or Path(found.name),
            source=found.source,
            vision=vision,
            llm=llm,
            data_dir=data_dir,
            progress=progress,
        )
    show_connector(file, load_projector(file)[1], as_json=as_json)
