"""`latentbank doctor`: whether this machine and the server can do the work."""

from __future__ import annotations

from typing import Annotated

import typer

from latentbank.cli.options.common import GlobalOptions, JsonOption


def doctor(
    ctx: typer.Context,
    *,
    bank: Annotated[
        str | None, typer.Argument(help="A bank, or a version such as NAME@2; by default LATENTBANK_BANK.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at the server or folder, and at a bank there. Exits 1 if something is wrong."""
    from latentbank.bank.doctor import examine
    from latentbank.cli.output.health import show_examination

    settings = GlobalOptions.of(ctx).settings()
    found = examine(settings, bank or settings.bank or None)
    show_examination(found, as_json=as_json)
    if not found.well:
        raise typer.Exit(1)
