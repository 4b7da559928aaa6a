"""Shares of a plan on a Ray cluster: Ray Data actors, each with a GPU of its own where there are any.

Ray places the workers, gives each the next share, and starts those that died anew. Each worker calls `store_plan`
for its share, so everything said there holds: a share that was half done is continued, one that was
done twice is stored once.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

from latentbank.bank.settings import Metric, Settings
from latentbank.bank.store.backends import backend
from latentbank.errors import LatentBankError
from latentbank.ingest import job
from latentbank.ingest.banks import create_bank
from latentbank.ingest.plan import Plan, load_plan
from latentbank.ingest.workers.shares import Share
from latentbank.progress import Progress, Silent

# Shares for each worker: the fewer are left at the end, the less the others wait for the last one.
SHARES_PER_WORKER = 4


@dataclass(frozen=True)
class Fleet:
    """What every worker has to know to store shares of a plan.

    Args:
        bank: its name; made if it is new.
        settings: lead to the server.
        plan: folder of the plan, at this path on all machines.
        model: the LLM, as on the command line.
        layers: bank layers.
        metric: of a new bank.
        dtype: of the LLM; None: by the device.
        revision: of the LLM; None: the plan's.
        trust_remote_code: run code that comes with the model.
        batch: tokens in one forward pass.
        replace: the corpus takes the place of the one of its name.
    """

    bank: str
    settings: Settings
    plan: Path
    model: str
    layers: tuple[int, ...]
    metric: Metric | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    batch: int | None = None
    replace: bool = False

    def read_plan(self) -> Plan:
        """Read the plan.

        Raises:
            LatentBankError: it is not there on this machine.
        """
        plan = load_plan(self.plan)
        if plan is None:
            raise LatentBankError(
                f"There is no plan in {self.plan}; make one with `latentbank ingest plan`, in a folder that every "
                "machine of the cluster sees at this path."
            )
        return plan


def run_on_ray(
    fleet: Fleet, address: str, workers: int | None = None, progress: Progress | None = None
) -> job.JobReport:
    """Store every context of a plan with the workers of a Ray cluster.

    Args:
        fleet: what the workers do.
        address: "local" starts Ray on this machine for as long as it takes; "auto" is the cluster this machine is
            part of, ray://HOST:10001 another.
        workers: how many; None: one for each GPU of the cluster, or for each machine where there are none.
        progress: told shares done.

    Returns:
        What all workers did together; `encode_seconds` and `index_seconds` are theirs, added up.

    Raises:
        LatentBankError: Ray is not installed or not there, or the bank is embedded.
    """
    if not backend(fleet.settings).shared:
        raise LatentBankError(
            "Workers on Ray fill a bank on a server, for an embedded one is open in one process; set LATENTBANK_URL."
        )
    plan = fleet.read_plan()
    try:
        ray: Any = importlib.import_module("ray")
        data: Any = importlib.import_module("ray.data")
    except ImportError:
        raise LatentBankError("Ray is not installed; pip install 'latentbank[distributed]'.") from None
    progress = progress or Silent()
    with ExitStack() as stack:
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise LatentBankError(
                    f"There is no Ray at '{address}' ({str(error).splitlines()[0]}); start one, or say --ray local."
                ) from None
            stack.callback(ray.shutdown)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = workers or gpus or len(ray.nodes())
        shares = min(count * SHARES_PER_WORKER, plan.planned_sentences)
        data.DataContext.get_current().enable_progress_bars = False
        done = data.range(shares, override_num_blocks=shares).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=(_with_key(fleet), shares),
            concurrency=min(count, shares),
            num_cpus=_processors(resources.get("CPU", 1.0), min(count, shares)),
            num_gpus=1 if gpus else 0,
        )
        reports = []
        try:
            for row in done.iter_rows():
                reports.append(job.JobReport(**row["report"]))
                progress.update(len(reports), shares)
        except ray.exceptions.RayError as error:
            raise _explained(error) from None
    return _together(reports, plan)


class _Worker:
    """One actor: loads the LLM once, then stores one share after the other."""

    def __init__(self, fleet: Fleet, shares: int) -> None:
        from latentbank.models.language.model import load_language_model

        self.fleet, self.shares, self.plan = fleet, shares, fleet.read_plan()
        self.model = load_language_model(
            fleet.model,
            dtype=fleet.dtype,
            revision=fleet.revision or self.plan.revision,
            deepest_layer=max(fleet.layers),
            trust_remote_code=fleet.trust_remote_code,
        )

    def __call__(self, rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        fleet, model = self.fleet, self.model
        reports = []
        for index in rows["id"].tolist():
            with create_bank(
                fleet.bank, model, fleet.layers, metric=fleet.metric, settings=fleet.settings
            ) as bank:
                share = Share(index, self.shares)
                report = job.store_plan(
                    bank, self.plan, model, batch=fleet.batch, share=share, replace=fleet.replace
                )
            reports.append(asdict(report))
        return {"report": np.array(reports, dtype=object)}


def _processors(cpus: float, workers: int) -> float:
    """Give what each worker reserves: a processor, or less where none would be left for Ray Data's own reading."""
    return min(1.0, max(0.01, math.floor((cpus - 1) / workers * 100) / 100))


def _with_key(fleet: Fleet) -> Fleet:
    """Let the settings hold the key itself, for its file may be on this machine only."""
    key = fleet.settings.key()
    held = {"api_key": None if key is None else SecretStr(key), "api_key_file": None}
    return dataclasses.replace(fleet, settings=fleet.settings.model_copy(update=held))


def _explained(error: BaseException) -> BaseException:
    """Give what a worker said to the user, if it said something to the user; else Ray's own error."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, LatentBankError):
            return LatentBankError(str(found).splitlines()[-1].rpartition("Error: ")[2])
        found = getattr(found, "cause", None) or found.__cause__
    return error


def _together(reports: list[job.JobReport], plan: Plan) -> job.JobReport:
    if not any(one.complete for one in reports):
        raise LatentBankError(
            f"All shares of '{plan.corpus}' are done, but nobody completed it; run the command again."
        )
    return job.JobReport(
        corpus=plan.corpus,
        contexts=plan.contexts,
        encoded=sum(one.encoded for one in reports),
        found=sum(one.found for one in reports),
        computed_tokens=sum(one.computed_tokens for one in reports),
        encode_seconds=sum(one.encode_seconds for one in reports),
        index_seconds=sum(one.index_seconds for one in reports),
    )
