"""Options that say who judges, and how it is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.query.judging.endpoint import Endpoint
    from latentbank.query.judging.judge import Prices


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """The judge's model and endpoint, and how fast it is asked."""

    model: Annotated[str, typer.Option(help="The judge's model, as the endpoint calls it.")]
    base_url: Annotated[
        str, typer.Option(help="Endpoint that speaks OpenAI's API, such as http://localhost:8000/v1.")
    ] = "https://api.openai.com/v1"
    key_variable: Annotated[
        str | None,
        typer.Option(
            help="Variable of the environment that holds the API key; by default OPENAI_API_KEY for OpenAI's own "
            "endpoint, and no key for others."
        ),
    ] = None
    request: Annotated[
        list[str] | None,
        typer.Option(help="Further field of each request, such as temperature=0; several times."),
    ] = None
    concurrency: Annotated[int, typer.Option(min=1, help="Questions on their way at once.")] = 16
    rate: Annotated[float | None, typer.Option(min=0.001, help="Most requests a minute.")] = None
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for an answer.")] = 120.0
    price_in: Annotated[
        float | None, typer.Option(min=0.0, help="Price of a million tokens of questions.")
    ] = None
    price_out: Annotated[
        float | None, typer.Option(min=0.0, help="Price of a million tokens of answers.")
    ] = None
    answers: Annotated[
        Path | None, typer.Option(help="Folder where answers are kept; by default beside the banks.")
    ] = None

    def endpoint(self, *, ask: bool = True) -> Endpoint:
        """Return the endpoint, with the key from the environment if it will be asked.

        Raises:
            LatentBankError: an option is wrong, or the key is missing.
        """
        from latentbank.query.judging.endpoint import Endpoint, key_from

        return Endpoint(
            self.model,
            self.base_url.rstrip("/"),
            key_from(self.key_variable, self.base_url) if ask else None,
            dict(map(_field, self.request or ())),
            concurrency=self.concurrency,
            rate=self.rate,
            timeout=self.timeout,
        )

    def prices(self) -> Prices | None:
        """Return the prices; None if there are none.

        Raises:
            LatentBankError: only one of them is given.
        """
        from latentbank.query.judging.judge import Prices

        if self.price_in is None and self.price_out is None:
            return None
        if self.price_in is None or self.price_out is None:
            raise LatentBankError("Give the prices of both questions and answers (--price-in, --price-out).")
        return Prices(self.price_in, self.price_out)

    def folder(self, settings: Settings) -> Path:
        """Return the folder where answers are kept."""
        given = self.answers or settings.data_dir / ".answers"  # no bank's name begins with a dot
        return given.expanduser()


def _field(text: str) -> tuple[str, Any]:
    """Return a field and its value, which is JSON or else plain text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise LatentBankError(f"'{text}' is no field of a request; write NAME=VALUE.", argument="request")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
