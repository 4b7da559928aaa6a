"""Ingesting images into a bank: the whole job beside the VLM's own forward passes over the same images.

    python -m benchmarks.images_ingest --images 64 --rounds 3 --data-dir banks --json images.json

The model is the demo's, whose LLM lies in `--data-dir`, with a bank of its own there that is only read. Each round
times two things one after the other, in alternating order. The forward passes alone: images that are open already go
through encoder, projector and the LLM down to the deepest visual layer, in batches of 8; nothing is kept. The job:
the same images' files are read, hashed and decoded, their small pictures made, their tokens encoded, stored in an
embedded bank and committed. Indexing follows, and is timed apart. Then every token is read through LatentLens over the
middle layers of the bank, and its word is stored, as `images words` does. The share is the time of all forward passes
by that of all jobs without indexing, and by that of all jobs with indexing and words. Images are the demo's scenes
(PNG, 224 pixels a side), or with `--side` photos of that many pixels a side, made of them as JPEG files. Threads that
wait sleep, as in commands, unless OMP_WAIT_POLICY says otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from PIL import Image

from benchmarks.common import Row, machine, parser_of, show, write_json
from latentbank.bank.bank import Bank
from latentbank.bank.opening import list_banks, open_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.demo.scenes import VALIDATION, load_things, make_scene
from latentbank.ingest.images.banks import create_images
from latentbank.ingest.images.job import BATCH, ImagesReport, ingest_images
from latentbank.ingest.images.naming import named_images
from latentbank.memory import keep_memory
from latentbank.models.vision.images import open_image
from latentbank.models.vision.sources import find_images
from latentbank.models.vision.tokens import VisualModel
from latentbank.models.visual import load_visual_model
from latentbank.query.images.naming import lens_for, name_patches

LEAST = 0.85


@dataclass(frozen=True)
class Job:
    """What one round's job did, and the seconds that words took after it."""

    report: ImagesReport
    words: float

    @property
    def whole(self) -> float:
        """Return the seconds of encoding, indexing and words."""
        return self.report.encode_seconds + self.report.index_seconds + self.words


def main() -> None:
    """Time both in rounds, and print the table."""
    arguments = _parser().parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as commands do; torch, which reads it, comes later
    keep_memory()  # as the job does, also for the forward passes alone
    source = load_settings(data_dir=arguments.data_dir, url="")
    layers = [int(layer) for layer in arguments.visual_layers.split(",")]
    vlm = load_visual_model(
        "demo", deepest_layer=max(layers), folder=source.data_dir / ".models" / "demo", say=print
    )
    forwards: list[float] = []
    jobs: list[Job] = []
    (name,) = list_banks(source)[:1]
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder, open_bank(name, source) as bank:
        photos = _photos(Path(folder) / "photos", arguments.images, arguments.side)
        opened = [open_image(path) for path in sorted(photos.iterdir())]
        vlm.visual_tokens(opened[:BATCH], layers)  # warms up
        for number in range(arguments.rounds):
            settings = _copied(source, name, Path(folder) / f"banks-{number}")
            for forward in (True, False) if number % 2 else (False, True):
                if forward:
                    forwards.append(_forward(vlm, opened, layers))
                else:
                    jobs.append(_job(vlm, photos, settings, layers, bank))
            shutil.rmtree(settings.data_dir)
    count = arguments.images
    alone, job = mean(forwards), mean(one.report.encode_seconds for one in jobs)
    points, share = jobs[0].report.points, alone / job
    index, words = mean(one.report.index_seconds for one in jobs), mean(one.words for one in jobs)
    whole = mean(one.whole for one in jobs)
    rows = [
        Row(
            "images a second, without indexing",
            f"{count / alone:.2f}",
            f"{count / job:.2f}",
            share,
            " of the forward",
            least=LEAST,
            share=share,
            limit="the VLM's own forward passes",
        ),
        Row("indexing, seconds for all layers", "", f"{index:.2f}", None),
        Row("words, seconds for all layers", "", f"{words:.2f}", None),
        Row(
            "images a second, with indexing and words",
            f"{count / alone:.2f}",
            f"{count / whole:.2f}",
            alone / whole,
            " of the forward",
        ),
    ]
    sizes = {
        "images": count,
        "pixels a side": arguments.side or 224,
        "visual tokens": points,
        "visual layers": arguments.visual_layers,
        "rounds": arguments.rounds,
    }
    measured = {
        "forward": forwards,
        "jobs": [{**vars(one.report), "words_seconds": one.words} for one in jobs],
    }
    where = machine()
    show("Ingesting images", sizes, rows, where, ("forward passes alone", "latentbank"))
    write_json(arguments.json, sizes, rows, measured, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.images_ingest", __doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder with a bank of the demo's LLM")
    add("--images", type=int, default=64)
    add("--visual-layers", default="0,8,16")
    add("--rounds", type=int, default=3)
    add("--side", type=int, default=0, help="pixels a side of JPEG photos; 0: scenes as PNG")
    add("--work", type=Path, help="folder for images and banks (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


def _photos(folder: Path, count: int, side: int) -> Path:
    """Write images, and return their folder."""
    folder.mkdir(parents=True)
    things = load_things()
    for number in range(count):
        scene = make_scene(things, VALIDATION[number]).image
        if side:
            large = scene.resize((side, side), Image.Resampling.BICUBIC)
            large.save(folder / f"{number:05d}.jpg", quality=90)
        else:
            scene.save(folder / f"{number:05d}.png")
    return folder


def _copied(source: Settings, name: str, folder: Path) -> Settings:
    """Return the settings of a folder with the manifest of a bank, to which images are added."""
    (folder / "demo").mkdir(parents=True)
    shutil.copy(source.data_dir / name / "manifest.json", folder / "demo" / "manifest.json")
    return load_settings(data_dir=folder, url="")


def _forward(vlm: VisualModel, images: list[Image.Image], layers: list[int]) -> float:
    started = time.monotonic()
    for at in range(0, len(images), BATCH):
        vlm.visual_tokens(images[at : at + BATCH], layers)
    return time.monotonic() - started


def _job(vlm: VisualModel, photos: Path, settings: Settings, layers: list[int], bank: Bank) -> Job:
    named = named_images(find_images([photos]), [photos], "photos")
    with create_images("demo", vlm, layers, settings) as images:
        report = ingest_images(images, named, vlm)
        started = time.monotonic()
        lens, _ = lens_for(images, bank)
        for layer in layers:
            name_patches(images, lens, layer)
        return Job(report, time.monotonic() - started)


if __name__ == "__main__":
    main()
