"""`latentbank evaluate scenes`: score lenses on scenes with known contents."""

from __future__ import annotations

from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.common import GlobalOptions, LensOption
from latentbank.cli.options.correction import mode_of
from latentbank.cli.options.images import FdrOption
from latentbank.cli.options.scenes import CorrectScenesOption, ScoringOptions
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_names, lenses_of, needs_whole

app = typer.Typer(no_args_is_help=True, help="Score lenses on images with known contents.")


@command(
    app,
    "scenes",
    example="evaluate scenes --bank demo --output scores",
    first="bank model visual_layers bank_layers lens correct fdr where",
)
def evaluate_scenes(
    ctx: typer.Context,
    *,
    scoring: ScoringOptions,
    lens: LensOption = "latent,logit,embedding",
    correct: CorrectScenesOption = "none",
    fdr: FdrOption = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Filter of the contexts, such as corpus=concepts; all must hold.")
    ] = None,
) -> None:
    """Score lenses on held-out scenes: the share of patches that they name, with two controls."""
    from latentbank.bank.where import parse_where
    from latentbank.cli.output.scores import show_evaluation
    from latentbank.cli.output.silence import show_silence
    from latentbank.progress import shown
    from latentbank.query.evaluation.figures import draw_evaluation

    settings = GlobalOptions.of(ctx).settings()
    condition = parse_where(where or [])
    names, correction = lens_names(lens), mode_of(correct)
    with scoring.opened(settings) as opened:
        inputs = scoring.loaded(settings, whole=needs_whole(names))
        searched, folder = scoring.searched(), settings.data_dir
        lenses = lenses_of(names, LensOptions(inputs.model, opened, searched, condition, data_dir=folder))
        with shown("evaluating", "scenes") as progress:
            setup = inputs.setup(progress, correction, fdr)
            evaluation = setup.run(inputs.model, lenses, inputs.random, alone=inputs.layers[:1])
    data = {"where": list(where or []), **evaluation.to_dict()}

    def show() -> None:
        show_evaluation(evaluation)
        if evaluation.silence:
            show_silence(evaluation.silence)

    scoring.give(data, "evaluation", lambda where: draw_evaluation(evaluation, where), show)
