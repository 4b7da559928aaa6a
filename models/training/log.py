"""What a training leaves on disk while it runs: its checkpoint, its log and the plot of its losses."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from latentbank.errors import ModelError
from latentbank.models.composite.projector import Projector

CHECKPOINT, LOG, PLOT = "checkpoint.pt", "log.jsonl", "loss.png"


@dataclass
class Checkpoint:
    """How far a training is.

    Attributes:
        identity: of the training.
        stage: number of the stage, from 0.
        step: steps done in it.
        elapsed: seconds spent in it.
        total: steps done in all stages.
        seconds: spent in the stages that are over.
        recent: losses since the log's last line.
        history: the log's lines.
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
    directory: Path, checkpoint: Checkpoint, projector: Projector, optimizer: torch.optim.Optimizer
) -> None:
    """Write the checkpoint so that a kill at any moment leaves the old one or the new one whole."""
    content = {
        "checkpoint": json.dumps(asdict(checkpoint)),
        "projector": projector.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    path = directory / CHECKPOINT
    try:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise ModelError(f"The checkpoint cannot be written to {path}: {error.strerror or error}.") from error


def load_checkpoint(directory: Path) -> tuple[Checkpoint, dict[str, Any], dict[str, Any]] | None:
    """The checkpoint, the projector's weights and the optimizer's state; None if there is none.

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
        raise ModelError(f"The checkpoint {path} is damaged: delete it to begin anew.") from error
    return checkpoint, content["projector"], content["optimizer"]


def write_log(directory: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the log's lines: JSON, one line every few steps and one for each validation."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in history)
    (directory / LOG).write_text("".join(lines), encoding="utf-8")


def draw_losses(directory: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Draw training and validation loss by step; gives False where matplotlib is not installed."""
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
    figure.savefig(directory / PLOT, dpi=120)
    return True
