"""Options that say where a page is served and who may see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from latentbank.errors import LatentBankError


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where a page is served, and the secret its visitors give."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = (
        8265
    )
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LATENTBANK_TOKEN", help="Secret that visitors must give; needed beyond this machine."
        ),
    ] = None

    def check(self) -> None:
        """Raise LatentBankError if others could reach the page without a secret, or the secret can be guessed."""
        from latentbank.query.web.guard import LOOPBACK, SHORTEST_TOKEN

        if self.token is None and self.host not in LOOPBACK:
            raise LatentBankError(
                f"On {self.host} others can reach the page: give a --token (or LATENTBANK_TOKEN) that visitors must "
                "give."
            )
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise LatentBankError(
                f"The token is short enough to guess; give one of {SHORTEST_TOKEN} letters or more."
            )
