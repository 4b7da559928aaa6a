"""`latentbank evaluate scenes`: score lenses on scenes with known contents."""

from __future__ import annotations

from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import (
    BankLayersOption,
    GlobalOptions,
    JsonOption,
    LensOption,
    bank_layers_of,
)
from latentbank.cli.options.correction import mode_of
from latentbank.cli.options.images import FdrOption
from latentbank.cli.options.models import SceneModelOptions
from latentbank.cli.options.scenes import CorrectScenesOption, OutputOption, SceneOptions
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
    bank: ModelBankOptions,
    bank_layers: BankLayersOption = "all",
    lens: LensOption = "latent,logit,embedding",
    correct: CorrectScenesOption = "none",
    fdr: FdrOption = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Filter of the contexts, such as corpus=concepts; all must hold.")
    ] = None,
    scenes: SceneOptions,
    output: OutputOption = None,
    model: SceneModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Score lenses on held-out scenes: the share of patches that they name, with two controls."""
    from latentbank.bank.where import parse_where
    from latentbank.cli.output.scores import show_evaluation, write_scores
    from latentbank.cli.output.silence import show_silence
    from latentbank.cli.output.text import print_json
    from latentbank.progress import shown
    from latentbank.query.evaluation.figures import draw_evaluation

    settings = GlobalOptions.of(ctx).settings()
    condition = parse_where(where or [])
    names, correction = lens_names(lens), mode_of(correct)
    with bank.opened(settings) as opened:
        inputs = scenes.inputs(model.model, model, settings, whole=needs_whole(names))
        searched, folder = bank_layers_of(bank_layers), settings.data_dir
        lenses = lenses_of(names, LensOptions(inputs.model, opened, searched, condition, data_dir=folder))
        with shown("evaluating", "scenes") as progress:
            setup = inputs.setup(progress, correction, fdr)
            evaluation = setup.run(inputs.model, lenses, inputs.random, alone=inputs.layers[:1])
    data = {"where": list(where or []), **evaluation.to_dict()}
    write_scores(data, output, "evaluation", lambda folder: draw_evaluation(evaluation, folder))
    if as_json:
        print_json(data)
    else:
        show_evaluation(evaluation)
        if evaluation.silence:
            show_silence(evaluation.silence)
