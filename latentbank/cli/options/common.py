"""Options that stand before the command, and how layers are written: as numbers, or by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.layers import (
    ALL,
    NAMED_BANK_LAYERS,
    PAPER,
    all_visual_layers,
    paper_layers,
    paper_visual_layers,
)
from latentbank.text import layer_numbers

if TYPE_CHECKING:
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.settings import Settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md describes it).")]
LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Bank layers of a new bank, such as 4,8,12,16, or paper.")
]
VisualLayersOption = Annotated[
    str | None,
    typer.Option(
        "--visual-layers",
        help="Layers that visual tokens are taken from, such as 0,4,8,16, or paper, or all.",
    ),
]
LensOption = Annotated[
    str, typer.Option("--lens", help="Lens, such as latent, logit or embedding; several with commas.")
]
BankLayersOption = Annotated[str, typer.Option(help="mid, all, paper, or numbers such as 8,12.")]
LayerChoice = list[int] | Callable[[int], list[int]] | None
"""Layers as an option names them: numbers, a function that gives them for the LLM's number of blocks, or not at all."""
ConfigOption = Annotated[str | None, typer.Option("--config", help="Configuration of a hub dataset.")]
SplitOption = Annotated[str | None, typer.Option(help="Split of a folder or a hub dataset.")]


@dataclass(frozen=True, kw_only=True)
class GlobalOptions:
    """The options before the command. They are the typer context's object."""

    url: Annotated[str | None, typer.Option(help="URL of a Qdrant server; LATENTBANK_URL.")] = None
    data_dir: Annotated[Path | None, typer.Option(help="Folder of embedded banks; LATENTBANK_DATA_DIR.")] = (
        None
    )
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False

    @classmethod
    def of(cls, ctx: typer.Context) -> GlobalOptions:
        """Return the options of a running command."""
        return ctx.find_object(cls) or cls()

    def settings(self, **given: Any) -> Settings:
        """Return the settings, with the options before the command and those given."""
        from latentbank.bank.settings import load_settings

        return load_settings(url=self.url, data_dir=self.data_dir, **given)

    def writer_settings(self, **given: Any) -> Settings:
        """Return the settings of a command that changes banks.

        Raises:
            BankUnavailable: the API key is a reader's. The command ends before any work.
        """
        from latentbank.bank.store.backends import backend

        settings = self.settings(**given)
        backend(settings).require_writer()
        return settings


def numbers(text: str | None) -> list[int] | None:
    """Return the layers that an option names, sorted; None if it is not given.

    Raises:
        QueryError: the text is not a list of numbers.
    """
    return None if text is None else layer_numbers(text)


def named_layers(text: str | None) -> LayerChoice:
    """Return the layers of a new bank that an option names: numbers or "paper".

    Raises:
        QueryError: the text is neither.
    """
    return paper_layers if text == PAPER else numbers(text)


def named_visual_layers(text: str | None) -> LayerChoice:
    """Return the visual layers that an option names: numbers, "paper" or "all".

    Raises:
        QueryError: the text is none of these.
    """
    if text == ALL:
        return all_visual_layers
    return paper_visual_layers if text == PAPER else numbers(text)


def layers_for(choice: LayerChoice, num_layers: int) -> list[int] | None:
    """Return the layers of an LLM with so many blocks that a choice means; None: it names none."""
    return choice(num_layers) if callable(choice) else choice


def deepest_of(choice: LayerChoice) -> int | Callable[[int], int] | None:
    """Return the deepest layer of a choice, as models are loaded with; None: it names none."""
    if callable(choice):
        return lambda count: max(choice(count))
    return max(choice) if choice else None


def bank_layers_of(text: str) -> BankLayers:
    """Return the bank layers that --bank-layers names: "mid", "all", "paper" or a list of numbers."""
    return cast("BankLayers", text) if text in NAMED_BANK_LAYERS else layer_numbers(text)
