"""Options of commands that push what they have made to the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.hub import Listing, Pushed

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

    def __post_init__(self) -> None:
        """Raise LatentBankError if something is to be public that is not pushed."""
        if self.public and self.push is None:
            raise LatentBankError(
                "Nothing is pushed that could be public; name a repository.", argument="push"
            )

    def prepare_projector(self) -> Listing | None:
        """Return the repository that a projector is pushed to, before it is trained; None if it is not pushed."""
        if self.push is None:
            return None
        from latentbank.models.composite.push import prepare_projector

        return prepare_projector(self.push, public=self.public)

    def projector(self, file: Path, to: Listing | None) -> Pushed | None:
        """Push a projector's file to the repository that `prepare_projector` has returned."""
        if to is None:
            return None
        from latentbank.models.composite.push import push_projector
        from latentbank.progress import shown

        with shown("uploading", "MiB") as progress:
            return push_projector(file, to, progress)
