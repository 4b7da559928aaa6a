"""The world of a plan of `latentbank reproduce` that names files, hub ids and an endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.errors import QueryError
from latentbank.models.vision.sources import ImageSource, find_images
from latentbank.query.reproduction.asking import EndpointJudge
from latentbank.query.reproduction.plan import DEMO, JudgePlan, Plan
from latentbank.query.reproduction.speech import tagger
from latentbank.query.reproduction.world import Load, World

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.models.language.model import LanguageModel
    from latentbank.progress import Progress


def files_world(plan: Plan, settings: Settings, load: Load, answers: Path) -> World:
    """Return the world of a plan.

    Args:
        plan: of images and sentences from files or the hub.
        settings: where the banks are.
        load: loads a model of the plan.
        answers: folder in which the judge's answers are kept.

    Raises:
        QueryError: only one of images and sentences is the demo's.
        ImageError: an image is not there.
    """
    paths = [plan.images] if isinstance(plan.images, str) else list(plan.images)
    if DEMO in paths or plan.corpus.source == DEMO:
        raise QueryError("The demo's images and sentences belong together; name both, or neither.")
    assert isinstance(plan.judge, JudgePlan)  # the ground truth is known of the demo's images only
    images = _Images(tuple(paths), plan.count)
    sources = [plan.corpus.source, *(model.model for model in plan.models)]
    return World(
        images=lambda: images.found,
        identity={
            "images": images.digest,
            "corpus": _stamp(plan.corpus.source),
            "models": {name: _stamp(name) for name in sources[1:]},
        },
        load=load,
        fill=_Fill(plan, settings),
        judge=EndpointJudge(plan.judge, paths, answers),
        rater=plan.judge.model,
        settings=settings,
        tag=tagger(),
    )


@dataclass(frozen=True)
class _Images:
    paths: tuple[str, ...]
    count: int

    @cached_property
    def found(self) -> tuple[ImageSource, ...]:
        """The first images."""
        return tuple(find_images(self.paths, limit=self.count))

    @property
    def digest(self) -> str:
        """A digest of the images' names and contents."""
        made_from = hashlib.blake2b(digest_size=16)
        for image in self.found:
            made_from.update(image.name.encode("utf-8", "replace"))
            made_from.update(image.data if isinstance(image.data, bytes) else image.data.read_bytes())
        return made_from.hexdigest()


@dataclass(frozen=True)
class _Fill:
    """Fills banks with the first sentences of the plan's corpus."""

    plan: Plan
    settings: Settings

    def __call__(
        self,
        bank: str,
        language: LanguageModel,
        layers: Sequence[int],
        sentences: int | None,
        progress: Progress,
    ) -> int:
        """Fill a bank; return the number of contexts in each layer."""
        from latentbank.ingest.banks import create_bank
        from latentbank.ingest.filling import fill

        with create_bank(bank, language, layers, settings=self.settings) as opened:
            progress.stage("preparing sentences", "sentences")
            given = self._source(sentences, progress)
            return fill(opened, model=language, progress=progress, **given).contexts

    def _source(self, sentences: int | None, progress: Progress) -> dict[str, Any]:
        """Return the arguments of `fill` that say what is read."""
        corpus = self.plan.corpus
        given: dict[str, Any] = {"column": corpus.column, "split": corpus.split, "limit": sentences}
        if corpus.recipe is None:
            return {"source": corpus.source, **given, **corpus.settings}
        from latentbank.ingest.recipes.preparing import prepare

        ready = prepare(corpus.recipe, [corpus.source], settings=self.settings, progress=progress, **given)
        return {"source": ready.corpus, "choice": ready.choice}


def _stamp(name: str) -> str:
    """Return what tells a file from another of its name: size and time of change; empty if it is no file."""
    path = Path(name).expanduser()
    if not path.is_file():
        return ""
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"
