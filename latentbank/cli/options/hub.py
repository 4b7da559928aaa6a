"""Options of commands that push what they have made to the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

LicenseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--license",
        help="For --push: licence of the corpora, such as cc-by-4.0, or of one as CORPUS=cc-by-4.0 (repeatable).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """A repository on the hub."""

    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="USER/NAME", help="Upload it to this repository on the Hugging Face hub, too."
        ),
    ] = None
    public: Annotated[
        bool,
        typer.Option("--public", help="For --push: everybody may read it; by default it is private."),
    ] = False
