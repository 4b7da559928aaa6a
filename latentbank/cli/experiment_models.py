"""`latentbank experiment models`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.experiment import app
from latentbank.cli.grouping import command
from latentbank.cli.options.common import BankLayersOption, GlobalOptions, bank_layers_of
from latentbank.cli.options.models import ModelOptions
from latentbank.cli.options.scenes import ResultOptions

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.models.language.model import LanguageModel


@command(
    app,
    "models",
    example="experiment models SmolLM2-135M SmolLM2-135M-tuned -o models",
    first="first second other_url other_data_dir bank_layers words neighbors",
)
def experiment_models(
    ctx: typer.Context,
    *,
    first: Annotated[str, typer.Argument(metavar="A", help="A bank.")],
    second: Annotated[
        str, typer.Argument(metavar="B", help="A bank of the same sentences, filled by another model.")
    ],
    other_url: Annotated[
        str | None, typer.Option("--other-url", help="Server of bank B, if it is not where A is.")
    ] = None,
    other_data_dir: Annotated[
        Path | None, typer.Option("--other-data-dir", help="Folder of the embedded bank B, if it is not A's.")
    ] = None,
    bank_layers: BankLayersOption = "all",
    words: Annotated[
        int, typer.Option(min=20, help="Words of which contexts are compared, at random.")
    ] = 300,
    neighbors: Annotated[int, typer.Option(min=1, help="Nearest contexts of each context.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the words and of the random weights.")] = 0,
    random: Annotated[
        bool,
        typer.Option(
            "--random/--no-random",
            help="Also compare A with an LLM of its sizes and random weights, a control.",
        ),
    ] = True,
    model: ModelOptions,
    results: ResultOptions,
) -> None:
    """Compare two models by the same contexts in their banks: which layers are alike, and which words change.

    --model and how it is loaded are of A's LLM, for the control.
    """
    from latentbank.bank.settings import load_settings
    from latentbank.cli.output.models import show_models
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.models import compare_models
    from latentbank.query.evaluation.experiments.models_figure import draw_models

    settings = GlobalOptions.of(ctx).settings()
    others = settings if other_url is None else load_settings(url=other_url)
    if other_url is None and other_data_dir is not None:
        others = load_settings(url="", data_dir=other_data_dir)
    with ExitStack() as stack:
        opened, other = _opened(stack, first, settings, second, others)
        with shown("reading", "contexts") as progress:
            compared = compare_models(
                opened,
                other,
                bank_layers_of(bank_layers),
                model=_model(model, opened, bank_layers) if random else None,
                words=words,
                k=neighbors,
                seed=seed,
                progress=progress,
            )
    results.give(
        compared.to_dict(),
        "models",
        lambda folder: draw_models(compared, folder / "models.png"),
        lambda: show_models(compared),
    )


def _opened(
    stack: ExitStack, first: str, settings: Settings, second: str, others: Settings
) -> tuple[Bank, Bank]:
    """Open both banks; a bank beside itself is opened once, as an embedded one can be."""
    from latentbank.bank.opening import open_bank, pinned_name
    from latentbank.cli.options.banks import place

    one = stack.enter_context(open_bank(first, settings))
    if place(settings) == place(others) and pinned_name(first, settings) == pinned_name(second, others):
        return one, one
    return one, stack.enter_context(open_bank(second, others))


def _model(options: ModelOptions, bank: Bank, bank_layers: str) -> LanguageModel:
    """Load the first bank's LLM as deep as its layers that are compared."""
    layers = bank.choose_layers(bank_layers_of(bank_layers))
    default = None if options.model else bank.find_model()
    return options.load_llm(layers, default, bank.manifest.revision)
