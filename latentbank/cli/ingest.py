"""`latentbank ingest`: plan, run, status, latentlens."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.cli.grouping import command
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
from latentbank.cli.options.common import GlobalOptions, JsonOption, LayerChoice, layers_for
from latentbank.cli.options.corpora import CorpusOptions, NameOption, PlanOptions, WorkOptions
from latentbank.cli.options.models import ModelOptions
from latentbank.errors import LatentBankError
from latentbank.ingest.defaults import default_layers, plan_folder

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.manifest import Manifest
    from latentbank.bank.settings import Settings
    from latentbank.ingest.corpus import Corpus
    from latentbank.ingest.job import JobReport
    from latentbank.ingest.plan import Plan, PlanSettings
    from latentbank.ingest.sources.base import Read
    from latentbank.ingest.workers.shares import Share
    from latentbank.models.language.model import LanguageModel

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
    from latentbank.ingest import estimate
    from latentbank.ingest.planning import make_plan
    from latentbank.progress import shown

    options = GlobalOptions.of(ctx)
    settings = options.settings(quantization=quantization)
    machines = cluster.machines(settings)
    choice = plan.settings()
    source = corpus.open()
    known = bank.known(settings, model.model)
    check_quantization(known, quantization)
    layers = bank.stored_layers(known)
    llm = model.load_llm(layers, default=bank.own_model(settings, known, model.model))
    layers = layers_for(layers or default_layers, llm.num_layers) or []
    folder = plan.plan or plan_folder(settings, bank.name(settings, known, llm.name), source.name)
    with shown("planning", "sentences") as progress:
        made = make_plan(source, llm, folder, choice, progress)
    stored = 0
    if known:  # an existing bank keeps its quantization
        settings = options.settings(quantization=known.quantization)
        stored = sum(entry.contexts for entry in known.corpora.values() if entry.name != source.name)
    speed = estimate.calibrate(made, llm, layers, settings, stored) if calibrate else None
    costs = estimate.estimate(made, llm.hidden_size, layers, settings, speed, stored)
    size = estimate.estimate_cluster(made, llm, layers, settings, machines, stored) if machines else None
    show_plan(made, costs, llm.packing, machines, size, as_json=as_json)


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
        made = _stored_plan(plan.plan)
    source = corpus.open() if made is None else None
    known = bank.known(settings, model.model or (made.model if made else None))
    check_quantization(known, quantization)
    check_metric(known, metric)
    job = _Job(settings, bank, known, metric, work, model, made)
    if work.ray:
        stored = _run_on_ray(job, source, plan.plan, choice)
    elif share:
        stored = _run_share(job, share)
    else:
        stored = _run_here(job, source, plan.plan, choice)
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
    own, layers = bank.own_model(settings, known, model.model), bank.stored_layers(known)
    llm = model.load_llm(layers, default=own) if callable(layers) else None
    if llm is not None:
        layers = layers_for(layers, llm.num_layers)
    directory = fetch_cache(source, layers)
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


@dataclass(frozen=True)
class _Job:
    """What `ingest run` was asked for; `plan` is a plan made before, `known` the bank's manifest if it exists."""

    settings: Settings
    bank: NewBankOptions
    known: Manifest | None
    metric: str | None
    work: WorkOptions
    model: ModelOptions
    plan: Plan | None

    def layers(self) -> LayerChoice:
        return self.bank.stored_layers(self.known)

    def model_name(self) -> str | None:
        """Return the model's name, where it is known without loading it."""
        named = self.model.model or (self.plan.model if self.plan else None)
        return named or self.bank.own_model(self.settings, self.known, named)

    @contextmanager
    def opened(self) -> Iterator[tuple[Bank, LanguageModel]]:
        """Load the LLM and open the bank, creating it if it is new."""
        from latentbank.ingest.banks import create_bank

        layers = self.layers()
        llm = self.model.load_llm(layers, default=self.model_name())
        name = self.bank.name(self.settings, self.known, llm.name)
        metric = cast("Any", self.metric)
        with create_bank(
            name,
            llm,
            layers_for(layers, llm.num_layers),
            metric=metric,
            allow_other_model=self.bank.allow_other_model,
            settings=self.settings,
        ) as opened:
            dtype = str(llm.dtype).removeprefix("torch.")
            print(f"{llm.packing} on {llm.device}, {dtype}", file=sys.stderr)
            yield opened, llm


# A report, the name and the layers of the bank, and what was read for it.
_Stored = tuple["JobReport", str, "Sequence[int]", "Read"]


def _run_here(job: _Job, corpus: Corpus | None, folder: Path | None, choice: PlanSettings) -> _Stored:
    """Store a corpus, or a plan made before, in this process."""
    from latentbank.cli.output.plans import show_source
    from latentbank.ingest.job import store_plan
    from latentbank.ingest.planning import plan_for
    from latentbank.progress import shown

    anew = job.work.replace
    with job.opened() as (bank, llm):
        plan = job.plan
        if plan is None:
            assert corpus is not None
            where = folder or plan_folder(job.settings, bank.name, corpus.name)
            with shown("planning", "sentences") as progress:
                plan = plan_for(bank, corpus, llm, where, choice, progress, replace=anew)
        show_source(plan.source)
        with shown("ingesting", "contexts") as progress:
            report = store_plan(bank, plan, llm, progress, batch=job.work.batch, replace=anew)
        return report, bank.name, bank.layers, plan.source


def _run_share(job: _Job, share: Share) -> _Stored:
    """Store one share of a plan in this process."""
    from latentbank.cli.output.plans import show_source
    from latentbank.ingest.job import store_plan
    from latentbank.progress import shown

    assert job.plan is not None
    show_source(job.plan.source)
    with job.opened() as (bank, llm), shown("ingesting", "contexts") as progress:
        report = store_plan(
            bank, job.plan, llm, progress, batch=job.work.batch, share=share, replace=job.work.replace
        )
        return report, bank.name, bank.layers, job.plan.source


def _run_on_ray(job: _Job, corpus: Corpus | None, folder: Path | None, choice: PlanSettings) -> _Stored:
    """Store all shares of a plan with Ray; the plan is made before, unless it was given."""
    from latentbank.bank.opening import pinned_name
    from latentbank.cli.output.plans import show_source
    from latentbank.ingest.workers.ray_cluster import RayJob, run_on_ray
    from latentbank.progress import shown

    layers, plan = job.layers(), job.plan
    if plan is None:
        assert corpus is not None
        plan, layers = _plan_for_ray(job, corpus, folder, choice)
        job = replace(job, plan=plan)
    model = job.model_name()
    if callable(layers) or not layers:
        raise LatentBankError("Name the layers of the new bank with --layers in numbers, such as 4,8,12,16.")
    assert model is not None
    assert job.work.ray is not None
    name = job.bank.name(job.settings, job.known, model)
    ray_job = RayJob(
        bank=pinned_name(name, job.settings),
        settings=job.settings,
        plan=plan.directory.absolute(),
        model=model,
        layers=tuple(layers),
        metric=cast("Any", job.metric),
        dtype=job.model.dtype,
        load_in=job.model.load_in,
        adapter=job.model.adapter,
        revision=job.model.revision,
        trust_remote_code=job.model.trust_remote_code,
        batch=job.work.batch,
        replace=job.work.replace,
        allow_other_model=job.bank.allow_other_model,
    )
    show_source(plan.source)
    with shown("ingesting", "shares") as progress:
        report = run_on_ray(ray_job, job.work.ray, job.work.workers, progress)
    return report, name, tuple(layers), plan.source


def _plan_for_ray(
    job: _Job, corpus: Corpus, folder: Path | None, choice: PlanSettings
) -> tuple[Plan, list[int]]:
    """Plan a corpus in a folder that every machine of the Ray cluster reads; return the bank's layers too."""
    from latentbank.ingest.planning import plan_for
    from latentbank.ingest.workers.ray_cluster import check_folder, check_server
    from latentbank.progress import shown

    assert job.work.ray is not None
    check_server(job.settings)
    with job.opened() as (bank, llm):
        where = folder or plan_folder(job.settings, bank.name, corpus.name)
        check_folder(where, job.work.ray)
        with shown("planning", "sentences") as progress:
            plan = plan_for(bank, corpus, llm, where, choice, progress, replace=job.work.replace)
        return plan, list(bank.layers)


def _stored_plan(folder: Path) -> Plan:
    """Load a plan; raises LatentBankError if the folder holds none."""
    from latentbank.ingest.plan import load_plan

    plan = load_plan(folder)
    if plan is None:
        raise LatentBankError(f"There is no plan in {folder}; make one with `latentbank ingest plan`.")
    return plan
