"""`latentbank reproduce`: the paper's tables and figures in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.common import GlobalOptions, JsonOption
from latentbank.cli.options.models import LoadingOptions
from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.reproduction.plan import ModelPlan, Plan
    from latentbank.query.reproduction.world import Load, World


def reproduce(
    ctx: typer.Context,
    *,
    plan: Annotated[
        Path | None, typer.Argument(help="YAML file of the plan (docs/reproduce.md).", show_default=False)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="demo, or paper: a plan that comes with latentbank.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the stages and the report.")
    ] = Path("reproduction"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate GPU hours, disk and the judge's calls.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run banks, readings, judge and figures for a list of models, and write one report beside the published figures.

    Run again, it continues where it stopped, and repeats what depends on a part of the plan that has changed.
    """
    from latentbank.cli.output.reproduced import show_estimate, show_reproduced
    from latentbank.progress import shown
    from latentbank.query.evaluation.figures import need_matplotlib
    from latentbank.query.reproduction.estimate import estimate
    from latentbank.query.reproduction.reproduce import reproduce as run

    chosen = _plan(plan, preset)
    estimated = estimate(chosen)
    if dry_run or preset == "paper":
        show_estimate(estimated, as_json=dry_run and as_json, aside=not dry_run)
    if dry_run:
        return
    need_matplotlib()
    world = _world(chosen, GlobalOptions.of(ctx), output)
    with shown("reproducing", "parts") as progress:
        made = run(chosen, world, output, progress, say=lambda text: print(text, file=sys.stderr, flush=True))
    show_reproduced(made, as_json=as_json)


def _plan(file: Path | None, preset: str | None) -> Plan:
    """Return the plan that the command names.

    Raises:
        QueryError: no plan is named, or two.
    """
    from latentbank.demo import reproduction as demo
    from latentbank.query.reproduction.plan import PAPER, read_plan

    presets = {"demo": demo.PRESET, "paper": PAPER}
    if (file is None) == (preset is None):
        raise QueryError("Name either the YAML file of a plan or a preset.", argument="preset")
    if preset is not None and preset not in presets:
        raise QueryError(f"There is no preset '{preset}'; it can be demo or paper.", argument="preset")
    chosen = presets[preset] if preset is not None else file
    assert chosen is not None
    return read_plan(chosen)


def _world(plan: Plan, options: GlobalOptions, output: Path) -> World:
    """Return what a plan's stages take from outside. The demo's banks lie in the output's folder."""
    from latentbank.query.reproduction.plan import DEMO

    if plan.images == DEMO and plan.corpus.source == DEMO:
        from latentbank.bank.settings import load_settings
        from latentbank.demo.reproduction import demo_world

        settings = load_settings(url="", data_dir=output / "banks")
        return demo_world(plan, settings, _loader(plan, settings, output))
    from latentbank.cli.reproduce_files import files_world

    settings = options.writer_settings()
    return files_world(plan, settings, _loader(plan, settings, output), output / "answers")


def _loader(plan: Plan, settings: Settings, output: Path) -> Load:
    """Return the function that loads the plan's models, with all their layers; connectors are imported first."""

    def load(model: ModelPlan) -> VisualModel:
        loading = LoadingOptions(
            device=plan.device, dtype=plan.dtype, trust_remote_code=model.trust_remote_code
        )
        name = model.model if model.connector is None else str(_imported(model, settings, output))
        return loading.load_vlm(name, lambda count: count, settings, revision=model.revision)

    return load


def _imported(model: ModelPlan, settings: Settings, output: Path) -> Path:
    """Return the projector made from a connector that the authors released; it is made where it is missing."""
    from latentbank.models.composite.connectors import RESULT, find_connector, import_connector
    from latentbank.progress import shown

    folder = output / "connectors" / str(model.connector)
    if (folder / RESULT).is_file():
        return folder / RESULT
    with shown("downloading", "MiB") as progress:
        found = find_connector(model.model, model.connector, progress)
        progress.stage("importing", "steps")
        return import_connector(
            found.folder, folder, source=found.source, data_dir=settings.data_dir, progress=progress
        )
