"""Train the demo's projector: `make train-demo`, under 90 minutes on 2 cores.

The first stage trains on single regions: up to nine patches of one thing, or of the background, with a caption that
names it. The second stage trains on whole scenes. The first stage uses the known patches of things, which the paper's
training does not; `--scenes-only` leaves it out. docs/demo.md has the results.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from latentbank.demo import vlm as demo
from latentbank.demo.scenes import (
    TRAINING,
    VALIDATION,
    Scene,
    Thing,
    background_phrase,
    load_things,
    make_scene,
    phrase,
)
from latentbank.files import write_whole
from latentbank.models.composite.captions import caption_loss, write_captions
from latentbank.models.composite.layout import Frame, layout_of
from latentbank.models.composite.projector import Projector, load_projector
from latentbank.models.language.model import LanguageModel
from latentbank.models.training.batches import Sequences
from latentbank.models.training.features import Features, Row, cache_features
from latentbank.models.training.pairs import Pair
from latentbank.models.training.stages import Stage, TrainSettings
from latentbank.models.training.train import train_projector
from latentbank.models.vision.encoders import Encoder
from latentbank.progress import Progress, shown

SCENES = 12_000  # for training; each gives a row for the whole scene and a region row for each of its things
HELD_OUT = 200  # scenes on which the result is scored
_VALIDATED = 64  # of these, the number used for validation while training
# A patch shows a thing if the thing covers at least this share of it.
COVERED = 0.2
# Numbers of patches in a region row, chosen at random; fewer if the region has fewer.
_PATCHES = (1, 1, 2, 2, 3, 4, 6, 9)
# Share of scenes that give a region row of their background, so that these are about a tenth of the rows.
_BACKGROUND_ROWS = 0.25
# Share of region rows in which the thing's colour is named, if it has a clear one.
_COLOURED = 0.2
# A projector whose loss of names is more than this share of that with another scene's image has not learned to use
# images: 0.10 for the demo's own, 0.44 after training on whole scenes alone, 0.87 after a fifth of the steps.
_LEARNED = 0.6


@dataclass(frozen=True)
class Recipe:
    """Durations and learning rates of the two stages.

    Attributes:
        region_seconds: duration of training on single regions; 0: none.
        region_steps: number of steps, used instead of the duration: projectors are then comparable across machines.
        region_batch: rows in a step.
        region_rate: the highest learning rate.
        scene_seconds: duration of training on whole scenes.
        scene_steps: number of steps, used instead of the duration.
        scene_batch: rows in a step.
        scene_rate: the highest learning rate.
    """

    region_seconds: float = 24 * 60.0
    region_steps: int | None = None
    region_batch: int = 24
    region_rate: float = 1e-3
    scene_seconds: float = 34 * 60.0
    scene_steps: int | None = None
    scene_batch: int = 12
    scene_rate: float = 8e-4


SETTINGS = TrainSettings(
    projector="mlp3", width=1152, validate_every=300, save_every=180.0, log_every=10, samples=4, seed=0
)


def scene_rows(things: Sequence[Thing], seeds: Sequence[int], regions: bool = True) -> Iterator[Pair]:
    """Yield rows of training data: for each scene a row of the whole scene, then rows of its regions.

    Args:
        things: from `load_things`.
        seeds: of the scenes.
        regions: whether to yield region rows, which are those that have `patches`.
    """
    articles = {thing.name: thing.article for thing in things}
    for seed in seeds:
        scene = make_scene(things, seed)
        yield Pair(scene.image, scene.caption)
        if regions:
            random = np.random.default_rng([seed, 1])  # the scene itself is made from [seed]
            for patches, caption in _regions(random, scene, articles):
                yield Pair(scene.image, caption, patches)


def _regions(
    random: Generator, scene: Scene, articles: dict[str, str]
) -> Iterator[tuple[tuple[int, ...], str]]:
    for thing in scene.objects:
        patches = np.flatnonzero(thing.coverage >= COVERED)
        if not len(patches):
            patches = np.array([int(thing.coverage.argmax())])
        coloured = thing.colour is not None and random.random() < _COLOURED
        name = phrase(articles[thing.name], thing.name, thing.colour if coloured else None)
        # As in captions of scenes, colours are named only after these words, so that they are predictable.
        yield _some(random, patches), f"a picture of {name}" if coloured else name
    empty = np.flatnonzero(sum(thing.coverage for thing in scene.objects) == 0)
    if len(empty) and random.random() < _BACKGROUND_ROWS:
        yield _some(random, empty), background_phrase(scene.background, scene.colour)


def _some(random: Generator, patches: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[int, ...]:
    count = min(int(random.choice(_PATCHES)), len(patches))
    return tuple(int(patch) for patch in np.sort(random.choice(patches, count, replace=False)))


def load_scenes(encoder: Encoder, folder: Path, scenes: int) -> Features:
    """Return the encoded scenes to train on, with their regions; they are encoded once and kept in `folder`."""
    with shown("encoding scenes", "scenes") as progress:
        return cache_features(
            encoder,
            scene_rows(load_things(), TRAINING[:scenes]),
            folder / "features",
            f"{scenes} composed scenes with regions",
            progress=progress,
        )


def train_demo(
    folder: Path,
    recipe: Recipe,
    *,
    projector: str = SETTINGS.projector,
    run: str = "run",
    scenes: int = SCENES,
    held_out: int = HELD_OUT,
) -> Path:
    """Train the demo's projector in `folder`; continue if an earlier run was stopped.

    Args:
        folder: keeps the encoded scenes and the LLM, which all its runs share.
        recipe: durations and rates of the stages.
        projector: `linear`, `mlp` or `mlp3`.
        run: name of this run's folder in `folder`.
        scenes: number of scenes to train on.
        held_out: number of scenes on which the result is scored.

    Returns:
        The projector's file.
    """
    things = load_things()
    encoder = demo.load_demo_encoder()
    language = demo.load_demo_language(folder / "language")
    training = load_scenes(encoder, folder, scenes)
    with shown("encoding scenes", "scenes") as progress:
        validation = cache_features(
            encoder,
            scene_rows(things, VALIDATION[:held_out], regions=False),
            folder / "features",
            f"{held_out} held-out composed scenes",
            progress=progress,
        )
    stages = []
    for regions, steps, seconds, batch, rate in (
        (True, recipe.region_steps, recipe.region_seconds, recipe.region_batch, recipe.region_rate),
        (False, recipe.scene_steps, recipe.scene_seconds, recipe.scene_batch, recipe.scene_rate),
    ):
        if not (seconds if steps is None else steps):
            continue
        rows = [number for number, row in enumerate(training.rows) if (row.patches is not None) is regions]
        length: dict[str, Any] = {"seconds": seconds} if steps is None else {"steps": steps}
        stages.append(Stage(training.select(rows), **length, batch=batch, rate=rate, floor=0.02))
    with shown("training", "steps") as progress:
        path = train_projector(
            stages,
            language,
            replace(SETTINGS, projector=projector),
            folder / run,
            validation=validation.select(range(min(_VALIDATED, held_out))),
            progress=progress,
        )
    trained, _ = load_projector(path)
    names = [_names(things, seed) for seed in VALIDATION[:held_out]]
    with shown("writing captions", "scenes") as progress:
        report = score(language, trained, validation, names, progress)
    write_whole(folder / run / "scores.json", (json.dumps(report, indent=2) + "\n").encode())
    print(json.dumps({key: value for key, value in report.items() if key != "captions"}, indent=2))
    for line in report["captions"][:12]:
        print(f"  {line['caption']}\n    -> {line['written']}")
    return path


def unlearned(projector: Path) -> str | None:
    """Return why a trained projector should not become the demo's, as the scores beside it say; None: it may."""
    file = projector.parent / "scores.json"
    if not file.is_file():
        return f"{projector} was not trained to the end; train it first."
    scores = json.loads(file.read_text("utf-8"))
    own, others = scores["name_loss"], scores["name_loss_shuffled"]
    if own <= _LEARNED * others:
        return None
    return (
        f"The projector {projector} has hardly learned what scenes show: the loss of names is {own:.2f}, and "
        f"{others:.2f} with another scene's image; remove its folder and train again on a machine with nothing else "
        "to do."
    )


def install(trained: Path, place: Path) -> None:
    """Copy a projector with its card to the place where the demo finds it."""
    for kind in (".safetensors", ".json"):
        write_whole(place.with_suffix(kind), trained.with_suffix(kind).read_bytes())


def _names(things: Sequence[Thing], seed: int) -> list[str]:
    return [thing.name for thing in make_scene(things, seed).objects]


def score(
    language: LanguageModel,
    projector: Projector,
    held_out: Features,
    names: Sequence[Sequence[str]],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return how well captions of held-out scenes are predicted and written.

    Args:
        language: the LLM with all its layers.
        projector: trained.
        held_out: rows of whole scenes.
        names: of each row's things, in the order of its caption.
        progress: counts the captions written.

    Returns:
        `name_loss`: the mean loss of the tokens of things' names, in nats. `loss`: the mean loss of all caption tokens.
        Both also with each caption beside another scene's image (`…_shuffled`). `named`: the share of things that the
        written caption names, in all and by number of things. `captions`: the captions, given and written.
    """
    count = len(held_out)
    shuffled = replace(
        held_out,
        rows=tuple(
            Row(held_out.rows[(number + count // 3) % count].image, row.caption)
            for number, row in enumerate(held_out.rows)
        ),
    )
    report: dict[str, Any] = {}
    for features, ending in ((held_out, ""), (shuffled, "_shuffled")):
        losses, of_names = _losses(language, projector, features, names)
        report[f"name_loss{ending}"] = float(losses[of_names].mean())
        report[f"loss{ending}"] = float(losses.mean())
    with torch.no_grad():
        visual = [projector(held_out.tokens(row).to(language.device)) for row in range(count)]
    head, frame = caption_loss(language), Frame(language, layout_of(language.tokenizer))
    written: list[str] = []
    for start in range(0, count, 20):
        written += write_captions(frame, head, visual[start : start + 20])
        if progress is not None:
            progress.update(len(written), count)
    found = [
        [re.search(rf"\b{re.escape(name)}\b", text) is not None for name in own]
        for own, text in zip(names, written, strict=True)
    ]
    report["named"] = {
        "all": float(np.mean([hit for own in found for hit in own])),
        **{
            str(number): float(np.mean([hit for own in found if len(own) == number for hit in own]))
            for number in sorted({len(own) for own in found})
        },
    }
    report["captions"] = [
        {"caption": row.caption, "written": text} for row, text in zip(held_out.rows, written, strict=True)
    ]
    return report


@torch.no_grad()
def _losses(
    language: LanguageModel, projector: Projector, features: Features, names: Sequence[Sequence[str]]
) -> tuple[Tensor, Tensor]:
    """Return the loss of every caption token `[tokens]`, and whether it belongs to a name `[tokens]`."""
    sequences = Sequences(features, language.tokenizer, language.max_length)
    head = caption_loss(language)
    losses, of_names = [], []
    for start in range(0, len(features), 16):
        rows = list(range(start, min(start + 16, len(features))))
        batch = sequences.batch(rows)
        inputs = language.decoder.get_input_embeddings()(batch.ids.to(language.device))
        inputs[batch.visual] = projector(batch.features.to(language.device)).to(language.dtype)
        states = language.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[batch.predicting]
        losses.append(
            functional.cross_entropy(head.logits(states), batch.targets.to(language.device), reduction="none")
        )
        for row in rows:
            marks = name_tokens(language.tokenizer, features.rows[row].caption, names[row])
            of_names += [*marks, False]  # the end of sequence
    return torch.cat(losses).cpu(), torch.tensor(of_names)


def name_tokens(tokenizer: PreTrainedTokenizerBase, caption: str, names: Sequence[str]) -> list[bool]:
    """Return for each token of a caption whether it is part of one of `names`, which come in the caption's order."""
    encoded = tokenizer(
        caption, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    spans, at = [], 0
    for name in names:
        match = re.compile(rf"\b{re.escape(name)}\b").search(caption, at)
        if match is None:
            raise ValueError(f"{caption!r} does not name {name!r}.")
        spans.append(match.span())
        at = match.end()
    return [
        any(first < stop and start < last for start, stop in spans)
        for first, last in encoded["offset_mapping"]
    ]


def main() -> None:
    """Train the projector as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.training",
        description="Train the demo's projector on composed scenes.",
    )
    parser.add_argument("--folder", type=Path, default=Path(".demo/training"))
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--region-minutes", type=float, default=Recipe.region_seconds / 60)
    parser.add_argument("--scene-minutes", type=float, default=Recipe.scene_seconds / 60)
    parser.add_argument("--region-steps", type=int, help="used instead of --region-minutes")
    parser.add_argument("--scene-steps", type=int, help="used instead of --scene-minutes")
    parser.add_argument("--projector", default=SETTINGS.projector, help="linear, mlp or mlp3")
    parser.add_argument("--run", default="run", help="name of this run's folder in --folder")
    parser.add_argument(
        "--scenes-only", action="store_true", help="train on whole scenes only, as in the paper"
    )
    parser.add_argument(
        "--install", action="store_true", help="copy the projector to where the demo finds it"
    )
    arguments = parser.parse_args()
    minutes, steps = (arguments.region_minutes, arguments.scene_minutes), arguments.region_steps
    if arguments.scenes_only:
        minutes, steps = (0.0, sum(minutes)), 0
    recipe = Recipe(
        region_seconds=60 * minutes[0],
        region_steps=steps,
        scene_seconds=60 * minutes[1],
        scene_steps=arguments.scene_steps,
    )
    path = train_demo(
        arguments.folder, recipe, projector=arguments.projector, run=arguments.run, scenes=arguments.scenes
    )
    if arguments.install:
        if why := unlearned(path):
            raise SystemExit(why)
        install(path, demo.PROJECTOR)
    print(f"The projector is {demo.PROJECTOR if arguments.install else path}.")


if __name__ == "__main__":
    main()
