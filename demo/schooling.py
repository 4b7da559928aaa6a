"""Teach the demo's projector words for photos, without photos: the last part of `make train-demo`.

The encoder's own ImageNet classifier is the teacher. It starts from a projector that was trained on scenes
(demo/training.py) and takes three steps, of which each is kept in the folder, so that a killed run continues:

1. Dreams: maps of features, optimized until the classifier sees given classes in them (demo/dreams.py).
2. Vectors: what one visual token must be for the LLM to write each of the classes' nouns (demo/vectors.py).
3. Joining: the projector is extended to give a noun's vector for what the classifier sees (demo/joining.py).

    python -m latentbank.demo.schooling --start .demo/training/run/projector.safetensors --install
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from latentbank.demo import vlm as demo
from latentbank.demo.classes import load_classes
from latentbank.demo.dreams import Dreamer
from latentbank.demo.encoder import EfficientNetEncoder, load_efficientnet
from latentbank.demo.joining import Material, joined
from latentbank.demo.scenes import THINGS, TRAINING, load_things, make_scene
from latentbank.demo.teacher import SURE, NounTeacher
from latentbank.demo.training import SCENES, install, load_scenes, unlearned
from latentbank.demo.vectors import first_vectors, noun_vectors
from latentbank.files import replacing
from latentbank.models.composite.projector import Projector, load_projector, save_projector
from latentbank.models.language.model import load_language_model
from latentbank.models.training.features import Features
from latentbank.progress import shown
from latentbank.query.silence.null_pictures import null_pictures

DREAMS = 64  # batches
NOTHING = 360  # images with nothing to see
_SCENES = 2_960  # scenes that the regressions see
_CHECKED = 3  # batches of other dreams, and
_CHECKED_SCENES = 40  # scenes after those, on which the result is checked
_THINGS = 300  # scenes whose regions give the mean visual tokens of things
_SOURCES = 20  # scenes that images with nothing to see are made of
_BATCH = 16  # of them that are encoded together
_SEEDS = (0, 1)  # of dreams to learn from, and of dreams to check with (and of images with nothing to see)


@dataclass(frozen=True)
class Practice:
    """A part of the training of the nouns' vectors: the LLM's dtype, passes over all nouns, and the highest rate."""

    dtype: str
    passes: int
    rate: float


PRACTICE = (Practice("float32", 8, 0.15), Practice("bfloat16", 10, 0.12))


def school(
    start: Path,
    folder: Path,
    *,
    dreams: int = DREAMS,
    scenes: int = SCENES,
    nothing: int = NOTHING,
    practice: tuple[Practice, ...] = PRACTICE,
) -> Path:
    """Teach a projector in `folder`, and return the file of the new one.

    Args:
        start: a projector that was trained on scenes in `folder`.
        folder: keeps what each step made, the encoded scenes and the LLM.
        dreams: number of batches of dreams.
        scenes: number of encoded scenes there, as `train_demo` was told.
        nothing: number of images with nothing to see.
        practice: the parts of the training of vectors, one after the other.
    """
    encoder = demo.load_demo_encoder()
    teacher = NounTeacher(encoder)
    features = load_scenes(encoder, folder, scenes)
    before, card = load_projector(start)
    learned = _dreams(folder, _SEEDS[0], dreams)
    checked = _dreams(folder, _SEEDS[1], _CHECKED)
    vectors = _vectors(folder, features, before, teacher, practice)
    tokens = np.array(features.values[:_SCENES]).reshape(-1, features.width)
    unseen = _nothing(folder, encoder, nothing)
    after = joined(before, teacher, Material(learned, tokens, _things(features), unseen, vectors))
    known = torch.from_numpy(np.array(features.values[_SCENES : _SCENES + _CHECKED_SCENES])).flatten(0, 1)
    checks = check(before, after, teacher, torch.from_numpy(checked), known, vectors)
    print(json.dumps(checks, indent=2))
    patches = len(encoder.boxes((64, 64)))
    told = {
        "start": start.name,
        "dreams": len(learned) // patches,
        "scenes": min(_SCENES, len(features.values)),
        "nothing": len(unseen) // patches,
        "nouns": len(teacher.nouns),
        "vectors": [asdict(part) for part in practice],
        "checks": checks,
    }
    path = folder / "schooling" / "projector.safetensors"
    save_projector(path, after, {**_without_shape(card), "photos": told})
    return path


def _dreams(folder: Path, seed: int, batches: int) -> NDArray[np.float16]:
    """Return tokens of dreams `[n, 1728]`; each batch has a file, and those that are there are not made again."""
    place = folder / "schooling" / "dreams"
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{seed}-{number:04d}.npy" for number in range(batches)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    if missing:
        network = load_efficientnet(demo.wheel_file(*demo.ENCODER_FILE))
        dreamer = Dreamer(network, load_things())
        with shown("dreaming", "batches") as progress:
            for done, number in enumerate(missing):
                tokens = dreamer.batch(seed, number).tokens.numpy().astype(np.float16)
                with replacing(files[number]) as unfinished, unfinished.open("wb") as file:
                    np.save(file, tokens)
                progress.update(done + 1, len(missing))
    rows = np.concatenate([np.load(file) for file in files])
    return rows.reshape(-1, rows.shape[-1])


def _nothing(folder: Path, encoder: EfficientNetEncoder, count: int) -> NDArray[np.float16]:
    """Return tokens of images with nothing to see `[n, 1728]`, which are kept in a file.

    Without them many would count as photos: lenses would find nouns in noise, and chance would find as much as lenses.
    They are of the kinds that the null of `latentbank.query.silence` is made of, but others.
    """
    file = folder / "schooling" / "nothing.npy"
    if not file.is_file():
        things = load_things()
        sources = [make_scene(things, seed).image for seed in TRAINING[-_SOURCES:]]
        pictures = list(null_pictures(sources, count, seed=_SEEDS[-1]))
        parts = [encoder.encode(pictures[at : at + _BATCH]) for at in range(0, count, _BATCH)]
        tokens = torch.cat(parts).flatten(0, 1).numpy().astype(np.float16)
        with replacing(file) as unfinished, unfinished.open("wb") as opened:
            np.save(opened, tokens)
    found: NDArray[np.float16] = np.load(file)
    return found


def _vectors(
    folder: Path,
    features: Features,
    projector: Projector,
    teacher: NounTeacher,
    practice: tuple[Practice, ...],
) -> Tensor:
    """Return the nouns' vectors; each part of the training has a file."""
    phrases = {one.noun: f"{one.article} {one.noun}" for one in load_classes()}
    captions = [phrases[noun] for noun in teacher.nouns]
    vectors = None
    for number, part in enumerate(practice):
        file = folder / "schooling" / f"vectors-{number}.safetensors"
        if file.is_file():
            vectors = load_file(file)["vectors"]
            continue
        language = load_language_model(str(folder / "language"), device="cpu", dtype=part.dtype)
        if vectors is None:
            vectors = first_vectors(language, teacher.nouns, mean_tokens(features, projector))
        with shown("finding the nouns' vectors", "steps") as progress:
            vectors = noun_vectors(
                language,
                captions,
                vectors,
                passes=part.passes,
                rate=part.rate,
                seed=number,
                progress=progress,
            )
        with replacing(file) as unfinished:
            save_file({"vectors": vectors}, unfinished)
    assert vectors is not None
    return vectors


def _things(features: Features) -> NDArray[np.float16]:
    """Return tokens of scenes that show a thing, `[n, 1728]`."""
    regions = [row for row in features.rows if row.patches is not None and row.image < _SCENES]
    shown = [row for row in regions if not row.caption.endswith("background")]
    return np.concatenate([features.values[row.image][list(row.patches or ())] for row in shown])


@torch.no_grad()
def mean_tokens(features: Features, projector: Projector) -> dict[str, Tensor]:
    """Return the mean visual token of each thing that the regions of the first scenes name, `[hidden]`."""
    phrases = {
        f"{thing['article']} {thing['name']}": thing["name"]
        for thing in json.loads(THINGS.read_text("utf-8"))
    }
    found: dict[str, list[Tensor]] = {}
    for number, row in enumerate(features.rows):
        if row.image < _THINGS and row.patches is not None and row.caption in phrases:
            found.setdefault(phrases[row.caption], []).append(projector(features.tokens(number)))
    return {name: torch.cat(tokens).mean(0) for name, tokens in found.items()}


@torch.no_grad()
def check(
    before: Projector, after: Projector, teacher: NounTeacher, dreamt: Tensor, scenes: Tensor, vectors: Tensor
) -> dict[str, Any]:
    """Return how well it went, on tokens of dreams and scenes `[n, 1728]` that were not used.

    Returns:
        `nearest`: the share of dreamt tokens of which the teacher is sure whose visual token is nearer to its noun's
        vector than to any other. `kept`: the share of the variance of scenes' visual tokens that is as it was.
    """
    chances = teacher.classes(dreamt)
    sure = chances.max(1).values >= SURE
    nouns = teacher.places[chances[sure].argmax(1)]
    given, mean = after(dreamt[sure]), vectors.mean(0)
    near = functional.normalize(given - mean, dim=1) @ functional.normalize(vectors - mean, dim=1).T
    old = before(scenes)
    changed = (after(scenes) - old).square().mean() / (old - old.mean(0)).square().mean()
    return {
        "tokens": int(sure.sum()),
        "nearest": round(float((near.argmax(1) == nouns).float().mean()), 3),
        "kept": round(1 - float(changed), 3),
    }


def _without_shape(card: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in card.items() if key not in ("format", "projector")}


def main() -> None:
    """Teach, and copy the result to where the demo finds it if requested."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.schooling", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, default=Path(".demo/training"))
    parser.add_argument(
        "--start", type=Path, help="the projector that was trained on scenes; by default the folder's"
    )
    parser.add_argument("--dreams", type=int, default=DREAMS, help="batches of 16 dreams")
    parser.add_argument(
        "--install", action="store_true", help="copy the projector to where the demo finds it"
    )
    asked = parser.parse_args()
    start = asked.start or asked.folder / "run" / "projector.safetensors"
    if asked.start is None and (why := unlearned(start)):
        raise SystemExit(why)
    path = school(start, asked.folder, dreams=asked.dreams)
    if asked.install:
        install(path, demo.PROJECTOR)
    print(f"The projector is {demo.PROJECTOR if asked.install else path}.")


if __name__ == "__main__":
    main()
