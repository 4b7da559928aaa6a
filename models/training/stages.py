"""How a projector is trained: its settings, and the stages of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentbank.models.composite.projector import check_kind
from latentbank.models.training.features import Features


@dataclass(frozen=True)
class TrainSettings:
    """How a projector is trained.

    Attributes:
        projector: `linear`, `mlp` or `mlp3`.
        width: between its layers; None: twice the LLM's width.
        weight_decay: AdamW's.
        betas: AdamW's.
        clip: the gradient's norm is cut off there.
        accumulate: a step's rows are run in so many parts, one after the other, to save memory.
        validate_every: steps between validations; the last step is always validated.
        save_every: seconds between checkpoints.
        log_every: steps that a line of the log and a point of the loss plot are the mean of.
        samples: validation images for which captions are written at each validation.
        seed: of the first weights and the order of the rows.
    """

    projector: str = "mlp3"
    width: int | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    accumulate: int = 1
    validate_every: int = 500
    save_every: float = 300.0
    log_every: int = 10
    samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a projector that there is not, before hours of encoding.

        Raises:
            ModelError: `projector` is none of the kinds.
        """
        check_kind(self.projector)


@dataclass(frozen=True)
class Stage:
    """One part of a training, with its own rows and its own rise and fall of the learning rate.

    Attributes:
        features: its rows, over encoded images.
        steps: how many optimizer steps; or
        seconds: for how long. The rate then follows the clock, so that two runs are alike, not the same.
        batch: rows in one step, over all processes.
        rate: the highest learning rate.
        warmup: share of the stage in which the rate rises to it.
        floor: share of the rate that is left at the end of the cosine; 1 keeps it.
    """

    features: Features
    steps: int | None = None
    seconds: float | None = None
    batch: int = 16
    rate: float = 1e-3
    warmup: float = 0.03
    floor: float = 0.0

    def rate_at(self, done: float) -> float:
        """The learning rate when the share `done` (0 to 1) of the stage is over."""
        if done < self.warmup:
            return self.rate * done / self.warmup
        fall = (1 + math.cos(math.pi * (done - self.warmup) / max(1e-9, 1 - self.warmup))) / 2
        return self.rate * (self.floor + (1 - self.floor) * fall)
