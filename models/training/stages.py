"""Settings and stages of a projector's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latentbank.errors import ModelError
from latentbank.models.composite.projector import check_kind
from latentbank.models.language.model import LanguageModel
from latentbank.models.training.features import Features
from latentbank.values import real, whole


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a projector's training.

    Attributes:
        projector: `linear`, `mlp` or `mlp3`.
        width: width between the projector's layers; None: twice the LLM's width.
        weight_decay: weight decay of AdamW.
        betas: betas of AdamW.
        clip: largest norm of the gradient.
        accumulate: number of parts that the rows of a step are run in, one after the other, to save memory.
        validate_every: steps between validations; after the last step there is always one.
        save_every: seconds between checkpoints.
        log_every: number of steps that each line of the log is the mean of.
        samples: number of validation images for which captions are written at each validation.
        seed: seed of the initial weights and the order of the rows.
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
        """Check the settings, before hours of encoding, and make numbers plain: the card keeps them as JSON.

        Raises:
            ModelError: there is no such kind of projector, or a number is not allowed.
        """
        check_kind(self.projector)
        for name in ("width", "accumulate", "validate_every", "log_every", "samples", "seed"):
            if (value := getattr(self, name)) is not None:
                least = 0 if name in ("samples", "seed") else 1
                object.__setattr__(self, name, whole(value, name, least, error=ModelError))
        for name in ("weight_decay", "clip", "save_every"):
            object.__setattr__(self, name, real(getattr(self, name), name, 0, error=ModelError))


@dataclass(frozen=True)
class Stage:
    """A part of a training, with its own rows and its own schedule of the learning rate.

    Attributes:
        features: its rows, over encoded images.
        steps: number of optimizer steps; None: `seconds` is given.
        seconds: duration; None: `steps` is given. With a duration the learning rate follows the clock, so two runs give
            similar but not equal weights.
        batch: rows in one step, over all processes.
        rate: the highest learning rate.
        warmup: share of the stage in which the rate rises.
        floor: share of the rate that remains at the end of the cosine; 1 keeps the rate constant.
    """

    features: Features
    steps: int | None = None
    seconds: float | None = None
    batch: int = 16
    rate: float = 1e-3
    warmup: float = 0.03
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers, and make them plain.

        Raises:
            ModelError: a number is not allowed.
        """
        for name in ("steps", "batch"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(value, name, 1, error=ModelError))
        for name, high in (("seconds", math.inf), ("rate", math.inf), ("warmup", 1), ("floor", 1)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, real(value, name, 0, high, error=ModelError))
        if not self.rate:
            raise ModelError("The learning rate is 0, with which nothing is learned.", argument="rate")

    def rate_at(self, done: float) -> float:
        """Return the learning rate when the share `done` (0 to 1) of the stage is over."""
        if done < self.warmup:
            return self.rate * done / self.warmup
        fall = (1 + math.cos(math.pi * (done - self.warmup) / max(1e-9, 1 - self.warmup))) / 2
        return self.rate * (self.floor + (1 - self.floor) * fall)


def check_stages(stages: Sequence[Stage], language: LanguageModel, validation: Features | None) -> None:
    """Check that a projector for an LLM can be trained in these stages.

    Raises:
        ModelError: there is nothing to train on, the LLM is loaded in part, or the encoders differ.
    """
    if not stages:
        raise ModelError("There is nothing to train on: give at least one stage.")
    if language.loaded_layers < language.num_layers:
        raise ModelError(f"{language.name} is loaded in part: load it without deepest_layer to train.")
    for stage in stages:
        if (stage.steps is None) == (stage.seconds is None):
            raise ModelError("Give each stage either a number of steps or seconds.")
        if not len(stage.features):
            raise ModelError("A stage has no rows to train on: give it image-caption pairs.")
    every = [stage.features for stage in stages] + ([] if validation is None else [validation])
    if len({features.fingerprint for features in every}) > 1:
        raise ModelError("The stages' features are from different encoders: encode them all with one.")
