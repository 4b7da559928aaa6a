"""Shares of a plan on a Ray cluster: Ray Data actors, each with a GPU of its own where there are any.

Ray places the workers, gives each the next share, and starts those that died anew. Each worker calls `store_plan` with
a share, so its guarantees hold here too: a share that was half done is continued, one that was done twice is stored
once.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

from latentbank.bank.settings import Metric, Settings
from latentbank.bank.store.backends import backend
from latentbank.errors import LatentBankError
from latentbank.files import write_whole
from latentbank.ingest.banks import create_bank
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import Plan, load_plan
from latentbank.ingest.workers.apart import drive_apart
from latentbank.ingest.workers.shares import Share
from latentbank.progress import Progress
from latentbank.text import first_line, listed
from latentbank.values import whole

# Shares for each worker: the more there are, the less time the others wait for the last one.
SHARES_PER_WORKER = 4


@dataclass(frozen=True)
class RayJob:
    """What every worker has to know to store shares of a plan.

    Attributes:
        bank: its name; created if it is new.
        settings: lead to the server.
        plan: folder of the plan, at this path on all machines.
        model: the LLM: a hub id, a folder or a .gguf file, the same on all machines.
        layers: bank layers.
        metric: of a new bank; None: the settings'.
        dtype: of the LLM; None: chosen by the device.
        load_in: `4bit` or `8bit`; None: weights are not quantized.
        adapter: a LoRA adapter, the same on all machines; None: there is none.
        revision: of the LLM; None: the plan's.
        trust_remote_code: run code that comes with the model.
        batch: tokens in one forward pass; None: chosen by the device.
        replace: the corpus takes the place of the one of its name.
        allow_other_model: as for `create_bank`.
    """

    bank: str
    settings: Settings
    plan: Path
    model: str
    layers: tuple[int, ...]
    metric: Metric | None = None
    dtype: str | None = None
    load_in: str | None = None
    adapter: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    batch: int | None = None
    replace: bool = False
    allow_other_model: bool = False

    def load_plan(self) -> Plan:
        """Load the plan.

        Raises:
            LatentBankError: it is not in its folder on this machine.
        """
        plan = load_plan(self.plan)
        if plan is None:
            raise LatentBankError(
                f"There is no plan in {self.plan}; plan the corpus into a folder that every machine of the cluster has "
                "at this path.",
                argument="plan",
            )
        return plan


def run_on_ray(
    job: RayJob, address: str, workers: int | None = None, progress: Progress | None = None
) -> JobReport:
    """Store every context of a plan with the workers of a Ray cluster.

    Args:
        job: what the workers do.
        address: "local" starts Ray on this machine for as long as it takes; "auto" is the cluster this machine is
            part of, ray://HOST:10001 another.
        workers: how many; None: one for each GPU of the cluster, or for each machine where there are none.
        progress: counts shares done.

    Returns:
        What all workers did together; `encode_seconds` and `index_seconds` are the sums of theirs.

    Raises:
        LatentBankError: Ray is not installed or not running, the bank is embedded, a worker failed, or a machine of the
            cluster was lost. What was stored is safe: called again, it continues.
    """
    check_server(job.settings)
    workers = None if workers is None else whole(workers, "workers", 1, error=LatentBankError)
    job.load_plan()
    require_ray()
    report: JobReport = drive_apart(
        partial(drive, _portable(job), address, workers, SHARES_PER_WORKER), progress
    )
    return report


def check_server(settings: Settings) -> None:
    """Raise LatentBankError if banks are embedded, so that workers cannot share one."""
    if not backend(settings).shared:
        raise LatentBankError(
            "Workers on Ray need a bank on a server, because only one process can open an embedded bank; set "
            "LATENTBANK_URL."
        )


def check_folder(folder: Path, address: str) -> None:
    """Check that every machine of a Ray cluster reads what this one writes in a folder: a plan can be made there.

    Args:
        folder: the folder; created if it is missing.
        address: as for `run_on_ray`.

    Raises:
        LatentBankError: a machine does not, or Ray is not installed or not running.
    """
    require_ray()
    if address == "local":
        return
    marker = folder / f".marker-{secrets.token_hex(4)}"
    text = secrets.token_hex(8)
    write_whole(marker, text.encode())
    try:
        blind = drive_apart(partial(blind_nodes, marker.absolute(), text, address))
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise LatentBankError(
            f"{listed(blind)} of the Ray cluster cannot read {folder.absolute()} of this machine, where the plan would "
            "be made; name a folder that all machines share.",
            argument="plan",
        )


def require_ray() -> None:
    """Raise LatentBankError if Ray is not installed."""
    try:
        found = find_spec("ray.data")
    except ImportError:
        found = None
    if found is None:
        raise LatentBankError("Ray is not installed; pip install 'latentbank[distributed]'.")


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Connect to a Ray cluster, unless this process is connected, and provide the module `ray`.

    Raises:
        LatentBankError: there is no cluster, it is lost during the block, or a task fails in it.
    """
    ray: Any = importlib.import_module("ray")
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)  # the process leaves it when it ends
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise LatentBankError(
                f"There is no Ray at '{address}' ({first_line(error)}); start it there, or use the address 'local'."
            ) from error
    try:
        yield ray
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise _sentence(error, ray.exceptions) from error


def drive(
    job: RayJob, address: str, workers: int | None, shares_per_worker: int, progress: Progress
) -> JobReport:
    """Store a plan with the workers of a cluster; see `run_on_ray`."""
    plan = job.load_plan()
    with cluster(address) as ray:
        data: Any = importlib.import_module("ray.data")
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = gpus or len(ray.nodes()) if workers is None else workers
        shares = min(count * shares_per_worker, plan.planned_sentences)
        data.DataContext.get_current().enable_progress_bars = False
        done = data.range(shares, override_num_blocks=shares).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=(job, shares),
            concurrency=min(count, shares),
            num_cpus=_processors(resources.get("CPU", 1.0), min(count, shares)),
            num_gpus=1 if gpus else 0,
        )
        reports = []
        for row in done.iter_rows():
            reports.append(JobReport(**row["report"]))
            progress.update(len(reports), shares)
    return _sum_of(reports, plan)


def blind_nodes(marker: Path, text: str, address: str, _progress: Progress) -> list[str]:
    """Return the machines of a cluster, by their addresses, that do not read `text` in a file."""
    with cluster(address) as ray:
        strategy: Any = importlib.import_module("ray.util.scheduling_strategies")

        # Not a function of this module: each machine would first import what the workers need, to read one file.
        def read_text(path: str) -> str | None:
            try:
                with open(path, encoding="utf-8") as file:
                    return file.read()
            except (OSError, ValueError):
                return None

        read = ray.remote(num_cpus=0, max_retries=0)(read_text)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        found = [
            read.options(
                scheduling_strategy=strategy.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(marker))
            for node in nodes
        ]
        texts = ray.get(found)
    return sorted(
        {node["NodeManagerAddress"] for node, seen in zip(nodes, texts, strict=True) if seen != text}
    )


class _Worker:
    """One actor: loads the LLM once, then stores one share after the other."""

    def __init__(self, job: RayJob, shares: int) -> None:
        from latentbank.models.language.model import load_language_model

        self.job, self.shares, self.plan = job, shares, job.load_plan()
        self.model = load_language_model(
            job.model,
            dtype=job.dtype,
            load_in=job.load_in,
            adapter=job.adapter,
            revision=job.revision or self.plan.revision,
            deepest_layer=max(job.layers),
            trust_remote_code=job.trust_remote_code,
        )

    def __call__(self, rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        job, model = self.job, self.model
        reports = []
        for index in rows["id"].tolist():
            with create_bank(
                job.bank,
                model,
                job.layers,
                metric=job.metric,
                allow_other_model=job.allow_other_model,
                settings=job.settings,
            ) as bank:
                share = Share(index, self.shares)
                report = store_plan(bank, self.plan, model, batch=job.batch, share=share, replace=job.replace)
            reports.append(asdict(report))
        return {"report": np.array(reports, dtype=object)}


def _processors(cpus: float, workers: int) -> float:
    """Return how many processors each worker reserves: one, or less where none would be left for Ray Data itself."""
    return min(1.0, max(0.01, math.floor((cpus - 1) / workers * 100) / 100))


def _portable(job: RayJob) -> RayJob:
    """Return the job with the API key itself in its settings: the key's file may be on this machine only."""
    key = job.settings.key()
    found = {"api_key": None if key is None else SecretStr(key), "api_key_file": None}
    return dataclasses.replace(job, settings=job.settings.model_copy(update=found))


def _sentence(error: BaseException, exceptions: Any) -> LatentBankError:
    """Return what an error of Ray's means: a worker's own LatentBankError, another failure, or a part that is lost."""
    if not isinstance(error, exceptions.RayTaskError):
        return LatentBankError(
            f"A machine or process of the Ray cluster was lost ({type(error).__name__}); what was stored is safe. Run "
            "the job again once the cluster is well, it continues."
        )
    kind, message = _first_failure(str(error))
    if kind.startswith("latentbank."):
        return LatentBankError(message)
    return LatentBankError(
        f"A worker on Ray failed ({kind.rpartition('.')[2]}: {message[:300] or 'no message'}); what was stored is "
        "safe. Mend the cause and run the job again, it continues."
    )


def _first_failure(text: str) -> tuple[str, str]:
    """Return class and message of the error that a worker raised first; Ray adds its own errors behind it."""
    first = text.partition("\nThe above exception was the direct cause")[0].strip().splitlines()
    kind, _, message = (first[-1] if first else "").partition(": ")
    return kind.strip(), message.strip()


def _sum_of(reports: list[JobReport], plan: Plan) -> JobReport:
    """Return what all workers did together.

    Raises:
        LatentBankError: no worker completed the corpus.
    """
    if not any(report.complete for report in reports):
        raise LatentBankError(
            f"All shares of '{plan.corpus}' are done, but no worker completed the corpus; run the job again."
        )
    return JobReport(
        corpus=plan.corpus,
        contexts=plan.contexts,
        encoded=sum(report.encoded for report in reports),
        found=sum(report.found for report in reports),
        computed_tokens=sum(report.computed_tokens for report in reports),
        encode_seconds=sum(report.encode_seconds for report in reports),
        index_seconds=sum(report.index_seconds for report in reports),
    )
