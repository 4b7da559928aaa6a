"""`latentbank experiment lenses`: all lenses on the same scenes, with the same controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.experiment import app
from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import BankLayersOption, GlobalOptions, JsonOption, bank_layers_of
from latentbank.cli.options.models import SceneModelOptions
from latentbank.cli.options.scenes import OutputOption, SceneOptions
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_names, needs_whole


@command(
    app,
    "lenses",
    example="experiment lenses --bank demo --lens latent,logit,embedding,patchscopes -o lenses",
    first="bank model visual_layers bank_layers lens",
)
def experiment_lenses(
    ctx: typer.Context,
    *,
    bank: ModelBankOptions,
    bank_layers: BankLayersOption = "all",
    lens: Annotated[
        str, typer.Option("--lens", help="Lenses with commas; tuned and jacobian are trained before.")
    ] = "latent,logit,embedding,tuned,jacobian,patchscopes",
    scenes: SceneOptions,
    output: OutputOption = None,
    model: SceneModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Compare lenses: what each names, with two controls, and what it costs."""
    from latentbank.cli.output.scores import show_league, write_scores
    from latentbank.cli.output.text import print_json
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.league import compare_lenses
    from latentbank.query.evaluation.figures import draw_shares

    settings = GlobalOptions.of(ctx).settings()
    names = lens_names(lens)
    with bank.opened(settings) as opened:
        inputs = scenes.inputs(model.model, model, settings, whole=needs_whole(names))
        options = LensOptions(inputs.model, opened, bank_layers_of(bank_layers), data_dir=settings.data_dir)
        with shown("evaluating", "scenes") as progress:
            league = compare_lenses(inputs.setup(progress), inputs.model, names, options, inputs.random)
    data = league.to_dict()

    def draw(folder: Path) -> None:
        draw_shares(league.evaluation, folder / "lenses.png")

    write_scores(data, output, "lenses", draw)
    if as_json:
        print_json(data)
    else:
        show_league(league)
