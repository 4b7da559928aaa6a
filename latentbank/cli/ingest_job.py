"""The jobs of `latentbank ingest`: plan a corpus, and store it in this process, a share of it, or with Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from latentbank.cli.options.banks import NewBankOptions
from latentbank.cli.options.common import LayerChoice, layers_for
from latentbank.cli.options.corpora import WorkOptions
from latentbank.cli.options.models import ModelOptions
from latentbank.errors import LatentBankError
from latentbank.ingest.defaults import default_layers, plan_folder

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.manifest import Manifest
    from latentbank.bank.settings import Settings
    from latentbank.bank.sizing import Machines, Sizing
    from latentbank.ingest.corpus import Corpus
    from latentbank.ingest.estimate import Estimate
    from latentbank.ingest.job import JobReport
    from latentbank.ingest.plan import Plan, PlanSettings
    from latentbank.ingest.sources.base import Read
    from latentbank.ingest.workers.shares import Share
    from latentbank.models.language.model import LanguageModel


@dataclass(frozen=True)
class Job:
    """What `ingest run` was asked for; `plan` is a plan made before, `known` the bank's manifest if it exists."""

    settings: Settings
    bank: NewBankOptions
    known: Manifest | None
    metric: str | None
    work: WorkOptions
    model: ModelOptions
    plan: Plan | None

    def layers(self) -> LayerChoice:
        """Return the layers given, else the known bank's."""
        return self.bank.stored_layers(self.known)

    def model_name(self) -> str | None:
        """Return the model's name, where it is known without loading it."""
        named = self.model.model or (self.plan.model if self.plan else None)
        return named or self.bank.own_model(self.settings, self.known, named)

    @contextmanager
    def opened(self) -> Iterator[tuple[Bank, LanguageModel]]:
        """Load the LLM and open the bank, creating it if it is new."""
        from latentbank.ingest.banks import create_bank
        from latentbank.models.language.devices import bfloat16_hint

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
            if hint := bfloat16_hint(self.model.dtype, llm.device):
                print(f"{hint.removesuffix('.')} (--dtype bfloat16).", file=sys.stderr)
            yield opened, llm


# A plan, its costs, how the LLM computes, and the machines and size of a cluster.
Sizes = tuple["Plan", "Estimate", str, "Machines | None", "Sizing | None"]


def plan_here(
    job: Job,
    corpus: Corpus,
    folder: Path | None,
    choice: PlanSettings,
    machines: Machines | None = None,
    *,
    calibrate: bool,
) -> Sizes:
    """Plan a corpus and estimate what it needs; store nothing."""
    from latentbank.ingest import estimate
    from latentbank.ingest.planning import make_plan
    from latentbank.progress import shown

    settings, known = job.settings, job.known
    wanted = job.layers()
    llm = job.model.load_llm(wanted, default=job.model_name())
    layers = layers_for(wanted or default_layers, llm.num_layers) or []
    folder = folder or plan_folder(settings, job.bank.name(settings, known, llm.name), corpus.name)
    with shown("planning", "sentences") as progress:
        plan = make_plan(corpus, llm, folder, choice, progress)
    stored = 0
    if known:  # an existing bank keeps its quantization
        settings = settings.model_copy(update={"quantization": known.quantization})
        stored = sum(entry.contexts for entry in known.corpora.values() if entry.name != corpus.name)
    speed = estimate.calibrate(plan, llm, layers, settings, stored) if calibrate else None
    costs = estimate.estimate(plan, llm.hidden_size, layers, settings, speed, stored)
    size = estimate.estimate_cluster(plan, llm, layers, settings, machines, stored) if machines else None
    return plan, costs, llm.packing, machines, size


# A report, the name and the layers of the bank, and what was read for it.
Stored = tuple["JobReport", str, "Sequence[int]", "Read"]


def run_here(job: Job, corpus: Corpus | None, folder: Path | None, choice: PlanSettings) -> Stored:
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


def run_share(job: Job, share: Share) -> Stored:
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


def run_on_ray_cluster(job: Job, corpus: Corpus | None, folder: Path | None, choice: PlanSettings) -> Stored:
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
    job: Job, corpus: Corpus, folder: Path | None, choice: PlanSettings
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


def stored_plan(folder: Path) -> Plan:
    """Load a plan; raises LatentBankError if the folder holds none."""
    from latentbank.ingest.plan import load_plan

    plan = load_plan(folder)
    if plan is None:
        raise LatentBankError(f"There is no plan in {folder}; make one with `latentbank ingest plan`.")
    return plan
