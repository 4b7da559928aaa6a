"""Options of ablations: in which way, how often, and what takes the place of ablated tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.query.causes.cause import CauseOptions
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
            "--at",
            help="Ablate these visual tokens, by number, such as 15,16; by default those that show the word.",
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

    def checked(self) -> list[ImageSource]:
        """Return the other images, once all options are checked.

        Raises:
            QueryError: an option has no such value, or other images are needed.
        """
        from latentbank.query.reading.images import find_images

        others = list(find_images(self.others)) if self.others else []
        self.options(others).ways()
        return others

    def options(self, others: Sequence[ImageSource], **more: Any) -> CauseOptions:
        """Return the options with the other images; `more` are further fields.

        Raises:
            QueryError: the tokens are no numbers.
        """
        from latentbank.query.causes.cause import CauseOptions

        return CauseOptions(
            by=[name.strip() for name in self.by.split(",")],
            others=others,
            tokens=self._numbers(),
            draws=self.draws,
            answer=self.answer,
            batch=self.batch,
            seed=self.seed,
            **more,
        )

    def _numbers(self) -> list[int] | None:
        if self.tokens is None:
            return None
        try:
            return sorted({int(part) for part in self.tokens.split(",")})
        except ValueError:
            raise QueryError(
                f"'{self.tokens}' is not a list of tokens; write numbers with commas, such as 15,16.",
                argument="tokens",
            ) from None
