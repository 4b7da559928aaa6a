"""`latentbank experiment lenses`: all lenses on the same scenes, with the same controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.experiment import app
from latentbank.cli.grouping import command
from latentbank.cli.options.common import GlobalOptions
from latentbank.cli.options.scenes import ScoringOptions
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
    scoring: ScoringOptions,
    lens: Annotated[
        str, typer.Option("--lens", help="Lenses with commas; tuned and jacobian are trained before.")
    ] = "latent,logit,embedding,tuned,jacobian,patchscopes",
) -> None:
    """Compare lenses: what each names, with two controls, and what it costs."""
    from latentbank.cli.output.scores import show_league
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.league import compare_lenses
    from latentbank.query.evaluation.figures import draw_shares

    settings = GlobalOptions.of(ctx).settings()
    names = lens_names(lens)
    with scoring.opened(settings) as opened:
        inputs = scoring.loaded(settings, whole=needs_whole(names))
        options = LensOptions(inputs.model, opened, scoring.searched(), data_dir=settings.data_dir)
        with shown("evaluating", "scenes") as progress:
            league = compare_lenses(inputs.setup(progress), inputs.model, names, options, inputs.random)
    data = league.to_dict()

    def draw(folder: Path) -> None:
        draw_shares(league.evaluation, folder / "lenses.png")

    scoring.give(data, "lenses", draw, lambda: show_league(league))
