"""`latentbank experiment cause`: whether named visual tokens matter more than others, on scenes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from latentbank.cli.experiment import app
from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.causes import SceneAblationOptions
from latentbank.cli.options.common import BankLayersOption, GlobalOptions, JsonOption, bank_layers_of
from latentbank.cli.options.correction import CorrectOption, mode_of
from latentbank.cli.options.models import SceneModelOptions
from latentbank.cli.options.scenes import OutputOption
from latentbank.cli.visual_setup import correction_of
from latentbank.text import public_name


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
    output: OutputOption = None,
    model: SceneModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Ablate named tokens beside others, and write contexts into tokens: does the model's answer follow?"""
    from latentbank.cli.output.cause_tables import show_cause_tables
    from latentbank.cli.output.scores import write_scores
    from latentbank.cli.output.text import print_json
    from latentbank.models.visual import unembedding_of
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.cause_figure import draw_cause_tables
    from latentbank.query.evaluation.experiments.cause_tables import tables_of
    from latentbank.query.evaluation.experiments.causes import Kept, Row, ablate_scenes, mean_states
    from latentbank.query.evaluation.experiments.writings import WrittenRow, write_scenes
    from latentbank.query.evaluation.figures import need_matplotlib
    from latentbank.query.evaluation.patches import object_means
    from latentbank.query.lenses.base import LensOptions
    from latentbank.query.lenses.registry import lenses_of

    if output is not None:
        need_matplotlib()
    (setup, write_setup), mode = ablation.setups(), mode_of(correct)
    settings = GlobalOptions.of(ctx).settings()
    with bank.opened(settings) as opened, shown("looking", "scenes") as progress:
        inputs = ablation.inputs(model.model, model, settings)
        vlm = inputs.model
        correction = None if mode is None else correction_of(mode, opened, vlm)
        asked = LensOptions(vlm, opened, bank_layers_of(bank_layers), correction=correction)
        (reader,) = lenses_of([lens], asked)
        reader.check(vlm)
        reader.check_layers(setup.layers)
        about: dict[str, Any] = {
            "model": public_name(vlm.name),
            "fingerprint": vlm.fingerprint(),
            "bank": opened.name,
            "corpora": {name: entry.contexts for name, entry in opened.shown_corpora.items()},
            "bank_layers": reader.searched_layers(),
            "lens": reader.name,
            "correction": correct,
            "metric": opened.metric,
            "calibration_scenes": len(inputs.calibration),
        }

        def kept(name: str, made: Any, kind: type) -> Kept | None:
            return None if output is None else Kept(output / name, about | asdict(made), kind)

        reference = mean_states(vlm, inputs.calibration, range(min(setup.layers), vlm.num_layers))
        centred = opened.metric == "centred"
        means = object_means(vlm, inputs.calibration, setup.layers) if centred else None
        unembedding = unembedding_of(vlm)
        progress.stage("ablating", "scenes")
        rows, told = ablate_scenes(
            vlm,
            unembedding,
            reader,
            inputs.scenes,
            setup,
            reference=reference,
            means=means,
            kept=kept("ablated", setup, Row),
            progress=progress,
        )
        written = []
        if write_setup is not None:
            progress.stage("writing", "scenes")
            kept_rows = kept("written", write_setup, WrittenRow)
            written = write_scenes(
                vlm, unembedding, opened, inputs.scenes, write_setup, kept=kept_rows, progress=progress
            )
    about |= asdict(setup) | {"scenes": len(inputs.scenes), "told": told}
    tables = tables_of(rows, written, len(inputs.scenes), about)

    def draw(folder: Path) -> None:
        draw_cause_tables(tables, folder / "cause.png")

    write_scores(tables.to_dict(), output, "cause", draw)
    if as_json:
        print_json(tables.to_dict())
    else:
        show_cause_tables(tables)
