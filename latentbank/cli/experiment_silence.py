"""`latentbank experiment silence`."""

from __future__ import annotations

import typer

from latentbank.cli.experiment import app
from latentbank.cli.grouping import command
from latentbank.cli.options.common import GlobalOptions, LensOption
from latentbank.cli.options.scenes import ScoringOptions
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_names, lenses_of


@command(
    app,
    "silence",
    example="experiment silence --bank demo -o silence",
    first="bank model visual_layers bank_layers lens",
)
def experiment_silence(
    ctx: typer.Context,
    *,
    scoring: ScoringOptions,
    lens: LensOption = "latent",
) -> None:
    """Find what silence costs: how many true words it loses, how many words stay on background, at several levels."""
    from latentbank.cli.output.silence import show_silence
    from latentbank.progress import shown
    from latentbank.query.evaluation.corrections import correction_for
    from latentbank.query.evaluation.experiments.silence import score_silence
    from latentbank.query.evaluation.silence_figures import draw_silence

    settings = GlobalOptions.of(ctx).settings()
    names = lens_names(lens)
    with scoring.opened(settings) as opened:
        inputs = scoring.loaded(settings)
        lenses = lenses_of(names, LensOptions(inputs.model, opened, scoring.searched()))
        with shown("calibrating", "scenes") as progress:
            correction = correction_for(
                "both", inputs.model, lenses, inputs.calibration, inputs.layers, progress
            )
            scores = score_silence(
                inputs.model,
                lenses,
                inputs.scenes,
                inputs.layers,
                correction,
                coverage=inputs.coverage,
                progress=progress,
            )
    rows = [row for row in scores.rows if row.layer is None or row.fdr == 0.05]
    scoring.give(
        scores.to_dict(),
        "silence",
        lambda folder: draw_silence(scores, folder / "silence.png"),
        lambda: show_silence(rows),
    )
