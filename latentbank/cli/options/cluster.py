"""Options for the estimate of a Qdrant cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.bank.sizing import Machines


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The machines that an estimate is for."""

    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Estimate a Qdrant cluster too; so does each of the options below."),
    ] = False
    node_ram: Annotated[float | None, typer.Option(min=0.0, help="GB of RAM of a cluster's node (64).")] = (
        None
    )
    node_disk: Annotated[float | None, typer.Option(min=0.0, help="GB of disk of a node (1000).")] = None
    node_cores: Annotated[int | None, typer.Option(min=1, help="Cores of a node (16).")] = None
    node_price: Annotated[float | None, typer.Option(min=0.0, help="Price of a node for an hour (1.00).")] = (
        None
    )
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs that run the LLM, with a worker for each (1).")
    ] = None
    gpu_tflops: Annotated[
        float | None, typer.Option(min=0.0, help="10¹² operations that a GPU really does in a second (100).")
    ] = None
    gpu_price: Annotated[float | None, typer.Option(min=0.0, help="Price of a GPU for an hour (2.00).")] = (
        None
    )

    def machines(self, settings: Settings) -> Machines | None:
        """Return the machines, with the settings' shards and replicas; None: no estimate is asked for.

        Raises:
            LatentBankError: a number is impossible.
        """
        from latentbank.bank.sizing import GB, Machines

        given = {
            "node_ram": None if self.node_ram is None else self.node_ram * GB,
            "node_disk": None if self.node_disk is None else self.node_disk * GB,
            "node_cores": self.node_cores,
            "node_price": self.node_price,
            "gpus": self.gpus,
            "gpu_flops": None if self.gpu_tflops is None else self.gpu_tflops * 1e12,
            "gpu_price": self.gpu_price,
        }
        named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if not self.estimate and not named:
            return None
        return Machines(replicas=settings.replication_factor, shards=settings.shard_number, **named)
