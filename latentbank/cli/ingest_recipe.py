"""`latentbank ingest recipe`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.ingest import app
from latentbank.cli.ingest_job import Job, plan_here, run_here, run_on_ray_cluster
from latentbank.cli.options.banks import (
    MetricOption,
    NewBankOptions,
    QuantizationOption,
    check_metric,
    check_quantization,
)
from latentbank.cli.options.common import GlobalOptions, JsonOption
from latentbank.cli.options.corpora import PlanOptions, RecipeOptions, WorkOptions
from latentbank.cli.options.models import ModelOptions
from latentbank.errors import LatentBankError


@command(
    app,
    "recipe",
    example="ingest recipe visual-genome region_descriptions.json --model Qwen/Qwen2-7B --layers paper",
    first="recipe sources bank model layers dry_run",
)
def ingest_recipe(
    ctx: typer.Context,
    *,
    recipe: RecipeOptions,
    bank: NewBankOptions,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Clean and plan, and print what would be stored. Stores nothing."),
    ] = False,
    calibrate: Annotated[
        bool, typer.Option(help="With --dry-run: estimate the time by running the LLM for a few seconds.")
    ] = True,
    plan: PlanOptions,
    quantization: QuantizationOption = None,
    metric: MetricOption = None,
    work: WorkOptions,
    model: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Store a well-known corpus, cleaned, with the contexts that LatentLens takes of it. Without a name: list them."""
    from latentbank.cli.output.jobs import show_job
    from latentbank.cli.output.plans import show_plan
    from latentbank.cli.output.recipes import cleaning_data, show_cleaning, show_recipes
    from latentbank.ingest.recipes.table import recipe_named

    if recipe.recipe is None:
        show_recipes(as_json=as_json)
        return
    chosen = recipe_named(recipe.recipe)
    if work.share():
        raise LatentBankError(
            "A share is stored of a plan that was made before: make it with --dry-run --plan DIR, then run "
            "`latentbank ingest run --plan DIR --shard 0/4`."
        )
    options = GlobalOptions.of(ctx)
    settings = (options.settings if dry_run else options.writer_settings)(quantization=quantization)
    known = bank.known(settings, model.model)
    check_quantization(known, quantization)
    check_metric(known, metric)
    job = Job(settings, bank, known, metric, work, model, None)
    if job.model_name() is None:  # before the corpus is cleaned, which may take long
        raise LatentBankError("Name the LLM with --model: a hub id, a folder or a .gguf file.")
    choice = plan.settings(chosen.choice)
    ready = recipe.prepared(settings)
    show_cleaning(ready)
    more = {"recipe": cleaning_data(ready), "choice": asdict(choice)}
    if dry_run:
        show_plan(
            *plan_here(job, ready.corpus, plan.plan, choice, calibrate=calibrate), as_json=as_json, more=more
        )
    elif work.ray:
        show_job(*run_on_ray_cluster(job, ready.corpus, plan.plan, choice), as_json=as_json, more=more)
    else:
        show_job(*run_here(job, ready.corpus, plan.plan, choice), as_json=as_json, more=more)
