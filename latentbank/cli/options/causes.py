"""Options of ablations: in which way, how often, and what takes the place of ablated tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.query.causes.ablating import Way
    from latentbank.query.reading.images import ImageSource


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """How visual tokens are ablated."""

    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="mean (of visual tokens), image (another image's tokens at the same places) or attention (cut to the "
            "tokens); several with commas.",
        ),
    ] = "mean"
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--other",
            help="Other images, files or folders, whose tokens take the place of ablated ones; image needs them.",
        ),
    ] = None
    tokens: Annotated[
        str | None,
        typer.Option(
            "--at", help="Ablate these visual tokens, by number, such as 15,16; by default those that show the word."
        ),
    ] = None
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Draws of as many random tokens, and of tokens as near.")
    ] = 8
    answer: Annotated[
        int, typer.Option("--answer", min=1, help="The model's answer has at most this many tokens.")
    ] = 32
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Copies of the sequence in one forward pass.")
    ] = 16
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0

    def ways(self) -> list[Way]:
        """Return the ways of ablating.

        Raises:
            QueryError: there is no way of a name.
        """
        from latentbank.query.causes.ablating import ways_of

        return ways_of([name.strip() for name in self.by.split(",")])

    def other_images(self) -> list[ImageSource]:
        """Return the other images."""
        from latentbank.query.reading.images import find_images

        return list(find_images(self.others)) if self.others else []

    def numbers(self) -> list[int] | None:
        """Return the numbers of the tokens to ablate; None: those that show the word.

        Raises:
            QueryError: they are no numbers.
        """
        if self.tokens is None:
            return None
        try:
            return sorted({int(part) for part in self.tokens.split(",")})
        except ValueError:
            raise QueryError(
                f"'{self.tokens}' is not a list of tokens; write numbers with commas, such as 15,16.", argument="tokens"
            ) from None
