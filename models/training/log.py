"""The files of a training run: its checkpoint, its log and the plot of its losses."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentbank.errors import ModelError
from latentbank.files import replacing, write_whole
from latentbank.models.composite.projector import Projector

CHECKPOINT, LOG, PLOT = "checkpoint.pt", "log.jsonl", "loss.png"


@dataclass
class Checkpoint:
    """The progress of a training run.

    Attributes:
        identity: a hash that identifies the training.
        stage: number of the stage, from 0.
        step: steps done in the stage.
        elapsed: seconds spent in the stage.
        total: steps done in all stages.
        seconds: seconds spent in finished stages.
        recent: losses since the last line of the log.
        history: the lines of the log.
    """

    identity: str
    stage: int = 0
    step: int = 0
    elapsed: float = 0.0
    total: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    directory: Path,
    checkpoint: Checkpoint,
    projector: Projector,
    optimizer: torch.optim.Optimizer,
    llm: Mapping[str, Tensor],
) -> None:
    """Write the checkpoint; after a kill the old one or the new one is there, whole.

    Args:
        directory: the training's.
        checkpoint: its progress.
        projector: the projector.
        optimizer: the optimizer.
        llm: the weights of the LLM that are trained.

    Raises:
        LatentBankError: the file cannot be written.
    """
    content = {
        "checkpoint": json.dumps(asdict(checkpoint)),
        "projector": projector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "llm": dict(llm),
    }
    with replacing(directory / CHECKPOINT) as unfinished:
        torch.save(content, unfinished)


def load_checkpoint(
    directory: Path,
) -> tuple[Checkpoint, dict[str, Any], dict[str, Any], dict[str, Tensor]] | None:
    """Return the checkpoint, the projector's weights, the optimizer's state and the LLM's weights; None: there is none.

    Raises:
        ModelError: the checkpoint is damaged.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(**json.loads(content["checkpoint"]))
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise ModelError(f"The checkpoint {path} is damaged: delete it to start again.") from error
    return checkpoint, content["projector"], content["optimizer"], content.get("llm", {})


def write_log(directory: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the log as JSON lines: one line every few steps and one for each validation.

    Raises:
        LatentBankError: the file cannot be written.
    """
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in history)
    write_whole(directory / LOG, "".join(lines).encode())


def draw_losses(directory: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Draw training and validation loss by step.

    Returns:
        Whether the plot was drawn; it is not if matplotlib is not installed.

    Raises:
        LatentBankError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, mark in (("loss", "training", "-"), ("validation", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), mark, label=label, markersize=3, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per caption token (nats)")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    with replacing(directory / PLOT) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    return True
