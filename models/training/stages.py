"""Settings and stages of a projector's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentbank.errors import ModelError
from latentbank.models.composite.projector import check_kind
from latentbank.models.language.model import LanguageModel
from latentbank.models.training.features import Features
from latentbank.models.training.prompts import check_style
from latentbank.values import real, whole

# Settings that came later: those of a training of an earlier version are the defaults, and its identity has none.
_LATER = {
    "eps": 1e-8,
    "softmax_loss": 0.0,
    "dropout": 0.0,
    "prompt": None,
    "autocast": None,
    "image_tokens": False,
}
_LATER_OF_STAGES = ("warmup_steps", "llm_rate", "llm_warmup_steps")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a projector's training.

    Attributes:
        projector: `linear`, `mlp` or `mlp3`.
        width: width between the projector's layers; None: twice the LLM's width.
        weight_decay: weight decay of AdamW.
        betas: betas of AdamW.
        eps: epsilon of AdamW.
        clip: largest norm of the gradient; of the projector's and, if it is trained, of the LLM's.
        softmax_loss: weight of the auxiliary softmax loss (`CaptionLoss`); validation leaves it out.
        dropout: share of the values that dropout takes from what each block of the LLM adds to the residual stream, at
            the positions that predict the caption (`response_dropout`); 0: none.
        autocast: dtype of the products of matrices where the LLM is trained, and of its written weights: `bfloat16`;
            None: float32. A frozen LLM computes in the dtype that it is loaded in.
        prompt: style of a prompt between image and caption, such as `long_caption` (`Prompts`); None: a newline.
        image_tokens: whether tokens with embeddings of the projector's own mark an image, as in Molmo: one before it,
            one after each row, one after it, and one that is added to every visual token.
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
    eps: float = 1e-8
    clip: float = 1.0
    softmax_loss: float = 0.0
    dropout: float = 0.0
    prompt: str | None = None
    autocast: str | None = None
    image_tokens: bool = False
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
        for name in ("weight_decay", "eps", "clip", "softmax_loss", "save_every"):
            object.__setattr__(self, name, real(getattr(self, name), name, 0, error=ModelError))
        object.__setattr__(self, "dropout", real(self.dropout, "dropout", 0, 0.99, error=ModelError))
        if self.prompt is not None:
            check_style(self.prompt)
        if self.autocast not in (None, "bfloat16"):
            raise ModelError(
                f"An LLM is not trained in {self.autocast}: use float32 or bfloat16.", argument="dtype"
            )

    def facts(self) -> dict[str, Any]:
        """Return what the result of a training depends on; of one that an earlier version knew, what it knew."""
        watched = ("save_every", "samples", "validate_every", "log_every")
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in watched and not (key in _LATER and value == _LATER[key])
        }


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
        warmup_steps: number of steps in which the rate rises, in the place of `warmup`; None: `warmup` counts.
        llm_rate: the highest learning rate of the LLM, which is then trained, too; None: the LLM is frozen.
        llm_warmup_steps: number of steps in which the LLM's rate rises; None: as for the projector.
    """

    features: Features
    steps: int | None = None
    seconds: float | None = None
    batch: int = 16
    rate: float = 1e-3
    warmup: float = 0.03
    floor: float = 0.0
    warmup_steps: int | None = None
    llm_rate: float | None = None
    llm_warmup_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and make them plain.

        Raises:
            ModelError: a number is not allowed.
        """
        for name in ("steps", "batch", "warmup_steps", "llm_warmup_steps"):
            if (value := getattr(self, name)) is not None:
                least = 0 if name.endswith("warmup_steps") else 1
                object.__setattr__(self, name, whole(value, name, least, error=ModelError))
                if not least and self.steps is None:
                    raise ModelError(f"{name} needs a number of steps, not seconds.", argument=name)
        limits = {"seconds": math.inf, "rate": math.inf, "llm_rate": math.inf, "warmup": 1, "floor": 1}
        for name, high in limits.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, real(value, name, 0, high, error=ModelError))
        if not self.rate:
            raise ModelError("The learning rate is 0, with which nothing is learned.", argument="rate")

    def rate_at(self, done: float) -> float:
        """Return the projector's learning rate when the share `done` (0 to 1) of the stage is over."""
        return self.rate * self._share_at(done, self.warmup_steps)

    def llm_rate_at(self, done: float) -> float:
        """Return the LLM's learning rate when the share `done` (0 to 1) of the stage is over; 0 if it is frozen."""
        steps = self.warmup_steps if self.llm_warmup_steps is None else self.llm_warmup_steps
        return (self.llm_rate or 0.0) * self._share_at(done, steps)

    def _share_at(self, done: float, steps: int | None) -> float:
        """Return the share of the highest rate."""
        warmup = self.warmup if steps is None else min(1.0, steps / (self.steps or 1))
        if done < warmup:
            return done / warmup
        fall = (1 + math.cos(math.pi * (done - warmup) / max(1e-9, 1 - warmup))) / 2
        return self.floor + (1 - self.floor) * fall

    def facts(self) -> list[Any]:
        """Return what identifies this stage; of a stage that an earlier version knew, what it knew."""
        known = [getattr(self, name) for name in ("steps", "seconds", "batch", "rate", "warmup", "floor")]
        later = [getattr(self, name) for name in _LATER_OF_STAGES]
        return [self.features.digest(), *known, *(later if any(v is not None for v in later) else [])]


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
