"""The stages of a plan: for each model its bank, its readings, and what is measured on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.errors import BankNotFound, ModelError
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress
from latentbank.query.judging.shares import Shares, shares_of
from latentbank.query.judging.verdicts import save_verdicts
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.reading.visual import read_images
from latentbank.query.reproduction import drift, neighbors
from latentbank.query.reproduction.measured import Measured
from latentbank.query.reproduction.plan import ModelPlan, Plan
from latentbank.query.reproduction.stages import Stage
from latentbank.query.reproduction.world import JudgeTask, World
from latentbank.text import public_name

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel

_SAMPLE = 32  # images on which a random projector is scaled
_TOP = neighbors.TOP


def stages_of(plan: Plan, world: World, folder: Path) -> list[Stage]:
    """Return the stages of a plan, in the order in which they run; `folder` holds their folders."""
    return list(_Builder(plan, world, folder).stages())


def bank_of(plan: Plan, language: str, size: float = 100.0) -> str:
    """Return the name of the bank of an LLM with a share of the plan's corpus, in percent.

    It has a digest of the corpus and the layers, so that no other bank is filled.
    """
    made_from = json.dumps([plan.corpus.identity(), plan.bank_layers], sort_keys=True)
    digest = hashlib.blake2b(made_from.encode(), digest_size=4).hexdigest()
    name = "".join(letter if letter.isalnum() else "-" for letter in public_name(language)).strip("-")
    while "--" in name:
        name = name.replace("--", "-")
    return f"{name[:40].rstrip('-')}-{digest}" + ("" if size == 100 else f"-{size:g}")


@dataclass(frozen=True)
class _Work:
    """A stage that runs: its model, its folder, and the progress it reports to."""

    model: ModelPlan
    folder: Path
    progress: Progress


@dataclass
class _Builder:
    """Makes the stages. It keeps the model that was used last, as loading takes long."""

    plan: Plan
    world: World
    folder: Path
    loaded: dict[str, VisualModel] = field(default_factory=dict)

    def stages(self) -> Iterator[Stage]:
        plan, tag = self.plan, self.world.tag
        for model in plan.models:
            corpus = {"corpus": plan.corpus.identity(), "sentences": self.world.identity["corpus"]}
            seen = {"images": self.world.identity["images"], "count": plan.count}
            yield self.stage("bank", model, self.fill, **corpus)
            yield self.stage("readings", model, self.read, ["bank"], **seen, lenses=plan.lenses)
            yield self.stage("tokens", model, self.tokens, **seen)
        for model in plan.models:
            if not model.random:
                noise = [f"readings/{noisy.name}" for noisy in [self.noise(model)] if noisy]
                yield self.stage(
                    "verdicts",
                    model,
                    self.judge,
                    ["readings"],
                    noise,
                    judge=self.judge_inputs(),
                    smaller=plan.smaller,
                )
            if {"latent", "embedding"} <= set(plan.lenses):
                yield self.stage("alignment", model, self.align, ["readings"])
            if "latent" in plan.lenses:
                yield self.stage("cosines", model, self.cosines, ["readings"])
            if "latent" in plan.lenses and tag is not None:
                yield self.stage("speech", model, self.speech, ["readings"])
        for model in plan.models:
            if model.name in plan.smaller and "latent" in plan.lenses:
                sizes = sorted(size for size in plan.corpus_sizes if size < 100)
                yield self.stage(
                    "corpus", model, self.sizes, ["verdicts"], sizes=sizes, judge=self.judge_inputs()
                )

    def stage(
        self,
        kind: str,
        model: ModelPlan,
        run: Callable[[_Work], Iterable[Measured]],
        after: Sequence[str] = (),
        others: Sequence[str] = (),
        **inputs: Any,
    ) -> Stage:
        """Return a stage of a model; its run is given the model, the stage's folder and the progress."""

        def running(at: Path, progress: Progress) -> Iterable[Measured]:
            return run(_Work(model, at, progress))

        layers = [self.plan.visual_layers, self.plan.bank_layers]
        own = {**model.identity(), "file": self.world.identity.get("models", {}).get(model.model)}
        given = {"model": own, "layers": layers, "seed": self.plan.seed, **inputs}
        before = (*(f"{name}/{model.name}" for name in after), *others)
        return Stage(f"{kind}/{model.name}", given, running, before)

    def judge_inputs(self) -> dict[str, Any]:
        """Return what verdicts depend on."""
        judge = self.plan.judge
        return {"judge": judge if isinstance(judge, str) else judge.identity(), "words": self.plan.words}

    def model(self, model: ModelPlan) -> VisualModel:
        """Load a model, with a random projector if the plan says so."""
        if model.name not in self.loaded:
            self.loaded.clear()
            found = self.world.load(model)
            if model.random:
                from latentbank.query.evaluation.controls import with_random_projector

                sample = [image.open() for image in self.world.images()[:_SAMPLE]]
                control = with_random_projector(found, sample, self.plan.seed)
                if control is None:
                    raise ModelError(
                        f"{found.name} has no projector that can be replaced by a random one; leave '{model.name}' "
                        "out of the plan."
                    )
                found = control
            self.loaded[model.name] = found
        return self.loaded[model.name]

    def noise(self, model: ModelPlan) -> ModelPlan | None:
        """Return the plan's entry of the same model with a random projector."""
        own = model.weights()
        return next((other for other in self.plan.models if other.random and other.weights() == own), None)

    def fill(self, work: _Work) -> list[Measured]:
        """Fill the bank of the model's LLM."""
        return [self.filled(work, self.model(work.model).language, 100.0)]

    def filled(self, work: _Work, language: LanguageModel, size: float) -> Measured:
        """Fill a bank with a share of the corpus; return its number of contexts."""
        layers = self.plan.layers_of(language.num_layers)[1]
        sentences = self.plan.corpus.sentences
        if size < 100 and sentences is not None:
            sentences = max(1, round(sentences * size / 100))
        name = bank_of(self.plan, language.name, size)
        count = self.world.fill(name, language, layers, sentences, work.progress)
        return Measured("bank", work.model.name, "", "contexts in a layer", at=size, value=count)

    def read(self, work: _Work) -> list[Measured]:
        """Read the images through all lenses."""
        self.read_into(work, self.readings(work.model), 100.0, self.plan.lenses)
        return []

    def read_into(self, work: _Work, at: Path, size: float, lenses: Sequence[str]) -> None:
        """Write readings of all images to a folder; those that are there are left."""
        vlm, images = self.model(work.model), list(self.world.images())
        layers = self.plan.layers_of(vlm.num_layers)[0]
        settings = {"model": work.model.name, "layers": layers, "lenses": list(lenses), "size": size}
        out = ReadingFolder(at, settings)
        pending = [image for image in images if not out.path(image).is_file()]
        work.progress.stage(f"reading ({work.model.name})", "images")
        done = len(images) - len(pending)
        with self.bank(work, vlm.language, size) as bank:
            chosen = lenses_of(list(lenses), LensOptions(vlm, bank, "all"))
            for image, reading in zip(
                pending, read_images(vlm, pending, chosen, layers, top_k=_TOP), strict=True
            ):
                out.write(image, reading)
                done += 1
                work.progress.update(done, len(images))

    def bank(self, work: _Work, language: LanguageModel, size: float) -> Bank:
        """Open a bank; one that was deleted after it was filled is filled again."""
        name = bank_of(self.plan, language.name, size)
        try:
            return open_bank(name, self.world.settings)
        except BankNotFound:
            self.filled(work, language, size)
            return open_bank(name, self.world.settings)

    def tokens(self, work: _Work) -> list[Measured]:
        """Measure norms and drift."""
        vlm, images, name = self.model(work.model), list(self.world.images()), work.model.name
        return [*drift.norms(vlm, images, name), *drift.drift(vlm, images, name, work.progress)]

    def judge(self, work: _Work) -> list[Measured]:
        """Judge the readings of a model with each number of words."""
        model, noisy = work.model, self.noise(work.model)
        noise = None if noisy is None else self.readings(noisy)
        readings = self.readings(model)
        found: list[Measured] = []
        for number, words in enumerate(self.plan.words):
            task = JudgeTask(
                model.name, readings, noise, self.plan.lenses, words, work.folder / f"words-{words}"
            )
            shares = self.shares(task, work.progress)
            if number == 0:
                found += [row for one in shares for row in _measured("shares", one)]
            means = [one for one in shares if not one.control and _is_mean(one, shares)]
            found += [row for one in means for row in _measured("pass", one, at=words)]
            if number == 0 and model.name in self.plan.smaller:
                whole = [one for one in means if one.lens == "latent"]
                found += [row for one in whole for row in _measured("corpus", one, at=100)]
        return found

    def sizes(self, work: _Work) -> list[Measured]:
        """Read and judge with smaller corpora."""
        found: list[Measured] = []
        for size in sorted(size for size in self.plan.corpus_sizes if size < 100):
            found.append(self.filled(work, self.model(work.model).language, size))
            readings, folder = (work.folder / f"{what}-{size:g}" for what in ("readings", "verdicts"))
            self.read_into(work, readings, size, ["latent"])
            task = JudgeTask(work.model.name, readings, None, ("latent",), self.plan.words[0], folder)
            shares = [one for one in self.shares(task, work.progress) if not one.control]
            means = [one for one in shares if _is_mean(one, shares)]
            found += [row for one in means for row in _measured("corpus", one, at=size)]
        return found

    def shares(self, task: JudgeTask, progress: Progress) -> list[Shares]:
        """Judge, keep the verdicts as a file and return the shares."""
        verdicts = self.world.judge(task, progress)
        save_verdicts(task.folder / "verdicts.parquet", verdicts)
        return shares_of(verdicts)

    def align(self, work: _Work) -> Iterator[Measured]:
        """Count the bank layers of the nearest neighbors."""
        return neighbors.alignment(self.neighbors(work.model), work.model.name)

    def cosines(self, work: _Work) -> Iterator[Measured]:
        """Make histograms of cosines."""
        return neighbors.cosines(self.neighbors(work.model), work.model.name)

    def speech(self, work: _Work) -> Iterator[Measured]:
        """Count parts of speech."""
        assert self.world.tag is not None
        return neighbors.speech(self.neighbors(work.model), work.model.name, self.world.tag, self.plan.seed)

    def readings(self, model: ModelPlan) -> Path:
        """Return the folder of a model's readings, which holds nothing else."""
        return self.folder / "readings" / model.name / "images"

    def neighbors(self, model: ModelPlan) -> neighbors.Neighbors:
        """Read the readings of a model back."""
        return neighbors.Neighbors(self.readings(model))


def _is_mean(one: Shares, among: Sequence[Shares]) -> bool:
    """Return whether these are the shares of all layers together, or of the only layer."""
    same = [other for other in among if (other.lens, other.control) == (one.lens, one.control)]
    return one.layer is None or len(same) == 1


def _measured(figure: str, one: Shares, at: float | None = None) -> Iterator[Measured]:
    """Yield the shares as numbers of a figure; the kinds of a control say so."""
    kinds = {
        "any": one.interpretable,
        "concrete": one.concrete,
        "abstract": one.abstract,
        "global": one.global_,
    }
    for kind, estimate in kinds.items():
        if estimate.value is None:
            continue
        label = kind if not one.control else f"{kind}, {one.control}"
        yield Measured(
            figure,
            one.model,
            one.lens,
            label,
            one.layer,
            at,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            of=one.answered,
        )
