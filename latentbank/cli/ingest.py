"""`latentbank ingest`: plan, run, status, latentlens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.ingest_job import Job, plan_here, run_here, run_on_ray_cluster, run_share, stored_plan
from latentbank.cli.options.banks import (
    BankOptions,
    MetricOption,
    NewBankOptions,
    QuantizationOption,
    SampleOption,
    check_metric,
    check_quantization,
    place,
)
from latentbank.cli.options.cluster import ClusterOptions
from latentbank.cli.options.common import GlobalOptions, JsonOption, layers_for
from latentbank.cli.options.corpora import CorpusOptions, NameOption, PlanOptions, WorkOptions
from latentbank.cli.options.models import ModelOptions
from latentbank.errors import LatentBankError

app = typer.Typer(no_args_is_help=True, help="Fill a bank from a corpus.")

_FIRST = "sources bank model layers name plan"


@command(
    app,
    "plan",
    example="ingest plan captions.txt --model HuggingFaceTB/SmolLM2-135M",
    first=_FIRST,
)
def ingest_plan(
    ctx: typer.Context,
    *,
    corpus: CorpusOptions,
    bank: NewBankOptions,
    plan: PlanOptions,
    quantization: QuantizationOption = None,
    calibrate: Annotated[
        bool, typer.Option(help="Estimate the time by running the LLM for a few seconds.")
    ] = True,
    cluster: ClusterOptions,
    model: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Plan an ingestion: what would be stored, how large it is and how long it takes. Stores nothing."""
    from latentbank.cli.output.plans import show_plan

    options = GlobalOptions.of(ctx)
    settings = options.settings(quantization=quantization)
    machines = cluster.machines(settings)
    choice, source = plan.settings(), corpus.open()
    known = bank.known(settings, model.model)
    check_quantization(known, quantization)
    job = Job(settings, bank, known, None, WorkOptions(), model, None)
    sizes = plan_here(job, source, plan.plan, choice, machines, calibrate=calibrate)
    show_plan(*sizes, as_json=as_json)


@command(
    app,
    "run",
    example="ingest run captions.txt --model HuggingFaceTB/SmolLM2-135M",
    first=_FIRST,
)
def ingest_run(
    ctx: typer.Context,
    *,
    corpus: CorpusOptions,
    bank: NewBankOptions,
    plan: PlanOptions,
    quantization: QuantizationOption = None,
    metric: MetricOption = None,
    work: WorkOptions,
    model: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Store a corpus's contexts in a bank, created if it is new. Run again, it continues where it stopped."""
    from latentbank.cli.output.jobs import show_job

    share = work.share()
    if share and (corpus.sources or not plan.plan):
        raise LatentBankError(
            "--shard needs a plan that exists already, the same for all workers: make it once with "
            "`latentbank ingest plan SOURCES --plan DIR`, then give only `--plan DIR`."
        )
    settings = GlobalOptions.of(ctx).writer_settings(quantization=quantization)
    choice = plan.settings()
    made = None
    if plan.plan and not corpus.sources:
        corpus.refuse_beside_a_plan()
        made = stored_plan(plan.plan)
    source = corpus.open() if made is None else None
    known = bank.known(settings, model.model or (made.model if made else None))
    check_quantization(known, quantization)
    check_metric(known, metric)
    job = Job(settings, bank, known, metric, work, model, made)
    if work.ray:
        stored = run_on_ray_cluster(job, source, plan.plan, choice)
    elif share:
        stored = run_share(job, share)
    else:
        stored = run_here(job, source, plan.plan, choice)
    show_job(*stored, as_json=as_json)


@command(app, "status", example="ingest status --bank SmolLM2-135M")
def ingest_status(ctx: typer.Context, *, bank: BankOptions, as_json: JsonOption = False) -> None:
    """Show how far each corpus's ingestion is, and each worker's share of it."""
    from latentbank.cli.output.jobs import show_status
    from latentbank.ingest.workers.shares import share_states

    with bank.opened(GlobalOptions.of(ctx).settings()) as opened:
        store = opened.store
        rows = [
            (
                entry,
                min(opened.stored_contexts(entry.stored)),
                [] if entry.complete else share_states(store.read_shares(entry.stored)),
            )
            for entry in opened.corpora.values()
        ]
        show_status(opened.name, rows, as_json=as_json)


@command(
    app,
    "latentlens",
    example="ingest latentlens cache --model meta-llama/Meta-Llama-3-8B",
    first="source model",
)
def ingest_latentlens(
    ctx: typer.Context,
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|HUB_ID",
            help="Folder with layer_N/embeddings_cache.pt of latentlens, or a repository of the hub.",
        ),
    ],
    bank: NewBankOptions,
    name: NameOption = None,
    quantization: QuantizationOption = None,
    sample: SampleOption = 1000,
    model: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Import a cache of the reference library, latentlens, as a corpus. Run again, it continues where it stopped."""
    from latentbank.cli.output.moves import show_latentlens
    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.corpus import Corpus
    from latentbank.ingest.latentlens.caches import cache_layers, import_latentlens
    from latentbank.ingest.latentlens.hub import fetch_cache
    from latentbank.ingest.naming import is_corpus_name, name_of_path
    from latentbank.progress import shown

    settings = GlobalOptions.of(ctx).writer_settings(quantization=quantization)
    folder = Path(source).expanduser().resolve().name
    corpus = Corpus(name or (folder if is_corpus_name(folder) else name_of_path(folder)), ())
    known = bank.known(settings, model.model)
    own, choice = bank.own_model(settings, known, model.model), bank.stored_layers(known)
    llm = model.load_llm(choice, default=own) if callable(choice) else None
    layers = layers_for(choice, llm.num_layers if llm else 0)
    with shown("downloading", "MiB") as progress:
        directory = fetch_cache(source, layers, progress)
    found = list(cache_layers(directory, layers))
    llm = llm or model.load_llm(found, default=own)
    target = bank.name(settings, known, llm.name)
    metric = known.metric if known else "cosine"
    with (
        create_bank(
            target,
            llm,
            found,
            metric=metric,
            allow_other_model=bank.allow_other_model,
            settings=settings,
        ) as opened,
        shown("checking", "rows") as progress,
    ):
        report = import_latentlens(opened, llm, directory, corpus.name, progress, sample)
    show_latentlens(report, place(settings), as_json=as_json)
    if report.move.wrong:
        raise typer.Exit(1)
