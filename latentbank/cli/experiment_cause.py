"""`latentbank experiment cause`: whether named visual tokens matter more than others, on scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.experiment import app
from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.causes import SceneAblationOptions
from latentbank.cli.options.common import BankLayersOption, GlobalOptions, bank_layers_of
from latentbank.cli.options.correction import CorrectOption, mode_of
from latentbank.cli.options.models import SceneModelOptions
from latentbank.cli.options.scenes import ResultOptions
from latentbank.cli.visual_setup import correction_of


@command(
    app,
    "cause",
    example="experiment cause --bank descriptive --scenes 60 -o cause",
    first="bank model layers by draws scenes bank_layers",
)
def experiment_cause(
    ctx: typer.Context,
    *,
    bank: ModelBankOptions,
    bank_layers: BankLayersOption = "all",
    lens: Annotated[str, typer.Option("--lens", help="Lens that says which tokens are named.")] = "latent",
    correct: CorrectOption = "none",
    ablation: SceneAblationOptions,
    model: SceneModelOptions,
    results: ResultOptions,
) -> None:
    """Ablate named tokens beside others, and write contexts into tokens: does the model's answer follow?"""
    from latentbank.cli.output.cause_tables import show_cause_tables
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.cause_figure import draw_cause_tables
    from latentbank.query.evaluation.experiments.cause_run import run_causes
    from latentbank.query.evaluation.figures import need_matplotlib
    from latentbank.query.lenses.base import LensOptions
    from latentbank.query.lenses.registry import lenses_of

    if results.output is not None:
        need_matplotlib()
    (setup, written), mode = ablation.setups(), mode_of(correct)
    settings = GlobalOptions.of(ctx).settings()
    with bank.opened(settings) as opened, shown("looking", "scenes") as progress:
        inputs = ablation.inputs(model.model, model, settings)
        correction = None if mode is None else correction_of(mode, opened, inputs.model)
        asked = LensOptions(inputs.model, opened, bank_layers_of(bank_layers), correction=correction)
        (reader,) = lenses_of([lens], asked)
        tables = run_causes(
            inputs.model,
            reader,
            opened,
            inputs.scenes,
            inputs.calibration,
            setup,
            written,
            folder=results.output,
            progress=progress,
        )

    def draw(folder: Path) -> None:
        draw_cause_tables(tables, folder / "cause.png")

    results.give(tables.to_dict(), "cause", draw, lambda: show_cause_tables(tables))
