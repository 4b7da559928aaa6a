"""The demo's world for the reproduction of the paper: composed scenes, their descriptions, and the ground truth."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.bank.settings import Settings
from latentbank.demo import speech
from latentbank.demo.descriptions import describe
from latentbank.demo.scenes import EVALUATION, load_things, make_scene
from latentbank.demo.vlm import LINEAR, PROJECTOR
from latentbank.errors import QueryError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.filling import fill
from latentbank.models.vision.sources import ImageSource
from latentbank.query.reproduction.truth import RATER, TruthJudge
from latentbank.query.reproduction.world import Load, World

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel
    from latentbank.progress import Progress
    from latentbank.query.evaluation.labelled import LabelledImage
    from latentbank.query.reproduction.plan import Plan

PRESET = Path(__file__).parent / "data" / "reproduce.yaml"
"""The plan of the preset `demo`."""
_SENTENCES = 20_000


def demo_world(plan: Plan, settings: Settings, load: Load) -> World:
    """Return the demo's world.

    Args:
        plan: of the demo's images and sentences.
        settings: where the banks are.
        load: loads a model of the plan.

    Raises:
        QueryError: the plan asks for more scenes than there are.
    """
    if plan.count > len(EVALUATION):
        raise QueryError(f"The plan asks for {plan.count:,} scenes; there are {len(EVALUATION):,}.")
    scenes = _Scenes(plan.count)
    return World(
        images=lambda: scenes.images,
        identity={
            "images": f"demo, {plan.count}",
            "corpus": "demo",
            "models": {name: _digest(file) for name, file in (("demo", PROJECTOR), ("demo-linear", LINEAR))},
        },
        load=load,
        fill=_Fill(settings),
        judge=TruthJudge(lambda: scenes.labelled),
        rater=RATER,
        settings=settings,
        tag=speech.tag,
    )


@dataclass
class _Scenes:
    """The first evaluation scenes, which are made when they are first used."""

    count: int

    @cached_property
    def labelled(self) -> Mapping[str, LabelledImage]:
        """What each scene shows, by its name."""
        things = load_things()
        return {f"scene-{seed}": make_scene(things, seed).labelled() for seed in EVALUATION[: self.count]}

    @cached_property
    def images(self) -> tuple[ImageSource, ...]:
        """The scenes as images."""
        return tuple(ImageSource(name, f"demo/{name}", _png(scene)) for name, scene in self.labelled.items())


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() if file.is_file() else ""


def _png(scene: LabelledImage) -> bytes:
    buffer = io.BytesIO()
    scene.image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Fill:
    """Fills banks with descriptions of things."""

    settings: Settings

    def __call__(
        self,
        bank: str,
        language: LanguageModel,
        layers: Sequence[int],
        sentences: int | None,
        progress: Progress,
    ) -> int:
        """Fill a bank with the first sentences; return the number of contexts in each layer."""
        corpus = corpus_from_sentences("descriptions", list(describe(sentences or _SENTENCES)))
        with create_bank(bank, language, layers, settings=self.settings) as opened:
            return fill(opened, corpus, language, progress=progress).contexts
