"""What the stages of a reproduction need from outside: images, models, a filled bank, a judge, parts of speech."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from latentbank.models.vision.sources import ImageSource
from latentbank.query.reproduction.neighbors import Tag

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.progress import Progress
    from latentbank.query.judging.verdicts import Verdict
    from latentbank.query.reproduction.plan import ModelPlan


class Load(Protocol):
    """Loads a model of the plan, all its layers."""

    def __call__(self, model: ModelPlan) -> VisualModel:
        """Return the model; one of random weights has not yet lost its trained projector."""


class Fill(Protocol):
    """Fills a bank with the first sentences of the corpus; called again, it continues or finds everything there."""

    def __call__(
        self,
        bank: str,
        language: LanguageModel,
        layers: Sequence[int],
        sentences: int | None,
        progress: Progress,
    ) -> int:
        """Return the number of contexts in each layer; `sentences` None: all sentences."""


class Judge(Protocol):
    """Judges the words of readings."""

    def __call__(self, task: JudgeTask, progress: Progress) -> list[Verdict]:
        """Return the verdicts, those on controls among them. Called again after a stop, it asks nothing twice."""


@dataclass(frozen=True)
class JudgeTask:
    """What is to be judged.

    Attributes:
        model: the model's name in tables; verdicts bear it.
        readings: folder of its readings.
        noise: folder of the readings of the same model with a random projector; None: there are none.
        lenses: the lenses whose words are judged.
        words: how many words of each token the judge sees.
        folder: the stage's folder, which the judge may keep answers in.
    """

    model: str
    readings: Path
    noise: Path | None
    lenses: tuple[str, ...]
    words: int
    folder: Path


@dataclass(frozen=True)
class World:
    """Everything that stages take from outside the plan.

    Attributes:
        images: returns the images, in their order.
        identity: JSON-ready; says which `images` and which `corpus` these are, and has the digests of the files of
            `models` by their names in the plan. If it changes, stages run again.
        load: loads a model.
        fill: fills a bank.
        judge: judges words.
        rater: name of the judge.
        tag: tags words; None: parts of speech are left out.
        settings: where the banks are.
    """

    images: Callable[[], Sequence[ImageSource]]
    identity: Mapping[str, Any]
    load: Load
    fill: Fill
    judge: Judge
    rater: str
    settings: Settings
    tag: Tag | None = None
