"""Make the gallery of the docs: ten readings with the demo's models and banks, as pictures and as one HTML file.

    make demo && .venv/bin/python -m latentbank.demo.scripts.make_gallery

It writes docs/gallery.md, docs/gallery/all.html and the pictures in docs/gallery. What chance finds is measured first,
which takes some minutes; run again, it is known.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.images.opening import open_images
from latentbank.bank.opening import open_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.where import Where
from latentbank.demo.descriptions import PICTURED
from latentbank.demo.gallery import Entry, best_layer, told_words, words_of, write_gallery
from latentbank.demo.images import Scenes, store_scenes
from latentbank.demo.scenes import EVALUATION, VALIDATION, Thing, load_things, make_scene
from latentbank.demo.vlm import PHOTO, load_demo
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.vision.images import open_image
from latentbank.progress import shown
from latentbank.query.evaluation.corrections import correction_for
from latentbank.query.evaluation.scoring import names
from latentbank.query.following.figure import draw_followed
from latentbank.query.following.followed import Followed
from latentbank.query.following.tokens import follow_text, follow_visual
from latentbank.query.images.results import RankedPatches
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.images.sheet import draw_sheet
from latentbank.query.lenses.base import Lens, LensOptions
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.output.pictures import draw_reading
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.visual import read_images
from latentbank.query.silence.silence import Silence

DEMO = Path(".demo")
DOCS = Path("docs")
SCENES = {"shield": 3, "scene": 0, "another": 8}
"""Held-out scenes that are shown, by the names of their pictures."""
LAYERS = (0, 8, 16)
CALIBRATION = 100  # scenes that words are corrected by
FDR = 0.05
FOUND = 10  # patches of a search that are shown
ABOUT = (
    "Ten readings with the demo's models: EfficientNet-Lite0, a projector that was trained on drawn scenes and on what "
    "a classifier sees in dreamt images, and SmolLM2-135M. Each square of a picture is a visual token, with the word "
    "that a lens finds for it; squares without a word are those for which the lens says no more than chance."
)
_COMMAND = "latentbank --data-dir .demo/banks"


@dataclass(frozen=True)
class World:
    """What the readings are made of: the model, the bank, what scenes show, and the lenses."""

    vlm: CompositeVLM
    bank: Bank
    things: Sequence[Thing]
    lens: Lens
    silence: Silence

    def read(self, image: Any, lenses: Sequence[Lens] = ()) -> Reading:
        """Read an image; tokens for which the lens says no more than chance are silent."""
        chosen = lenses or [self.lens]
        (reading,) = read_images(self.vlm, [image], chosen, LAYERS, silence=self.silence)
        return reading


def main() -> None:
    """Make the readings and write the gallery."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.scripts.make_gallery", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--demo", type=Path, default=DEMO, help="the folder that make demo has filled")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder that the gallery is written to")
    given = parser.parse_args()
    settings = load_settings(data_dir=given.demo / "banks", url="")
    vlm = load_demo(given.demo / "SmolLM2-135M-Instruct", say=print)
    things = load_things()
    with open_bank("demo", settings) as bank:
        world = make_world(vlm, bank, things)
        entries = [*scenes(world), photo(world), lenses(world), life(world), *sentences(world)]
        entries += searches(world, settings)
    files = write_gallery(entries, ABOUT, given.docs)
    page = given.docs / "gallery" / "all.html"
    print(f"{len(entries)} readings in {len(files)} files; {page}: {page.stat().st_size:,} bytes")


def make_world(vlm: CompositeVLM, bank: Bank, things: Sequence[Thing]) -> World:
    """Calibrate the VLM for the bank, unless it is, and measure what chance finds."""
    plain = LatentLens(bank, "all", Where(corpus=PICTURED), unique="word")
    pictures = [make_scene(things, seed).labelled() for seed in VALIDATION[-CALIBRATION:]]
    with shown("calibrating", "scenes") as progress:
        correction = correction_for("both", vlm, [plain], pictures, LAYERS, progress)
    lens, silence = plain.corrected(correction), Silence(correction.calibration, FDR)
    with shown("measuring chance", "tokens") as progress:
        silence.prepare([lens], LAYERS, progress)
    return World(vlm, bank, things, lens, silence)


def scenes(world: World) -> Iterator[Entry]:
    """Yield held-out scenes."""
    for name, number in SCENES.items():
        scene = make_scene(world.things, EVALUATION[number])
        yield image_entry(
            world.read(scene.image), name, f"A scene: {scene.caption}", f".demo/images/scene-{number}.png"
        )


def photo(world: World) -> Entry:
    """Return the photo."""
    reading = world.read(open_image(PHOTO))
    return image_entry(reading, "photo", "A photo of a cat", "demo/data/photo.jpg")


def image_entry(reading: Reading, name: str, title: str, file: str) -> Entry:
    """Return an image's reading at the visual layer at which most of its tokens have words."""
    layer = best_layer(reading)
    tokens = reading.at(layer)
    told = (
        f"At visual layer {layer}, LatentLens reads {told_words(tokens)} of the {len(tokens)} visual tokens."
    )
    return Entry(
        name=name,
        title=title,
        told=told,
        picture=draw_reading(reading, [layer]),
        described=f"{title}. {told}",
        command=f"{_COMMAND} query image {file} --model demo --visual-layers {layer} --bank-layers all --unique word "
        f"--where 'corpus={'|'.join(PICTURED)}' --correct both --fdr {FDR} --html {name}.html",
        words=words_of(tokens),
    )


def lenses(world: World) -> Entry:
    """Return one scene through three lenses."""
    scene = make_scene(world.things, EVALUATION[SCENES["shield"]])
    others = lenses_of(["logit", "embedding"], LensOptions(world.vlm, world.bank))
    layer, names_ = LAYERS[-1], ["latent", "logit", "embedding"]
    (reading,) = read_images(world.vlm, [scene.image], [world.lens, *others], [layer])
    told = (
        f"The same visual tokens at layer {layer} through three lenses, all words shown. LatentLens compares them with "
        "tokens in sentences, LogitLens with what the model would write next, EmbeddingLens with its input embedding."
    )
    rows = [(lens, told_words(reading.at(layer, lens))) for lens in names_]
    return Entry(
        name="lenses",
        title="Three lenses side by side",
        told=told,
        picture=draw_reading(reading, [layer]),
        described="; ".join(f"{lens}: {words}" for lens, words in rows),
        command=f"{_COMMAND} query image .demo/images/scene-3.png --model demo --visual-layers {layer} "
        "--lens latent,logit,embedding --html lenses.html",
        words=rows,
    )


def life(world: World) -> Entry:
    """Return the visual token of a scene with the smallest p-value, through all layers."""
    scene = make_scene(world.things, EVALUATION[SCENES["shield"]])
    tokens = world.read(scene.image).at(LAYERS[-1])
    surest = min(tokens, key=lambda token: 2.0 if token.p_value is None else token.p_value)
    plain = world.lens.corrected(None)
    followed = follow_visual(world.vlm, scene.image, surest.label, [plain])
    title = "A visual token through all layers"
    told = (
        f"The token in row and column {surest.label} of the first scene, from the LLM's input (layer 0) to its last "
        "layer: its words, and how far its hidden state drifts."
    )
    return followed_entry(
        followed,
        "life",
        title,
        told,
        "query image .demo/images/scene-3.png --model demo --follow " + surest.label,
    )


def sentences(world: World) -> Iterator[Entry]:
    """Yield a word in two sentences, through the bank's layers."""
    for name, sentence in (
        ("river", "They had a picnic on the bank of the river."),
        ("money", "He deposited the check at the bank on Monday."),
    ):
        followed = follow_text(world.bank, world.vlm.language, sentence, "bank")
        yield followed_entry(
            followed,
            name,
            f"A word in a sentence: {'the bank of a river' if name == 'river' else 'a bank with money'}",
            f"The word “bank” of “{sentence}” at each layer of the bank: its nearest contexts in other sentences, one "
            "per word.",
            f"query text '{sentence}' --token bank --follow",
        )


def followed_entry(followed: Followed, name: str, title: str, told: str, command: str) -> Entry:
    """Return a followed token."""
    rows = [
        (f"layer {step.layer}", ", ".join(neighbor.word for neighbor in step.neighbors["latent"]))
        for step in followed.steps
    ]
    described = f"{title}: " + "; ".join(
        f"{layer}: {words}" for layer, words in rows[:: max(1, len(rows) // 8)]
    )
    picture = Image.open(io.BytesIO(draw_followed(followed, "png")))
    return Entry(name, title, told, picture, described, f"{_COMMAND} {command}", rows)


def searches(world: World, settings: Settings) -> Iterator[Entry]:
    """Yield a search for a word over stored scenes, and one for what looks like its first patch."""
    stored = Scenes(world.things)
    with shown("storing scenes", "images") as progress:
        store_scenes(world.bank.name, settings, world.vlm, stored, progress)
    with open_images(world.bank.name, settings) as images:
        search = ImageSearch(images, world.bank)
        shown_things = [
            [thing.name for thing in stored.scene(number).labelled().objects]
            for number in range(stored.count)
        ]
        word = most_frequent(shown_things)
        found = search.where(word, How(limit=FOUND, by_image=True))
        true = [any(names(word, name) for name in things) for things in shown_things]
        right = sum(true[stored.number(name)] for name in {patch.image for patch in found.patches})
        told = f"Of {stored.count} scenes, {sum(true)} show a {word}; of the ten that are found first, {right} do."
        yield sheet_entry(
            found, "where", f"Where is a {word}?", told, f"images where {word} --by-image --limit 10"
        )
        first = found.patches[0]
        like = search.like(first, How(limit=FOUND, by_image=True))
        told = f"The patches whose meaning is nearest to that of {first.image}, row {first.row}, column {first.column}."
        command = f"images like {first.image} --patch {first.row},{first.column} --by-image --limit 10"
        yield sheet_entry(like, "like", "What looks like this patch?", told, command)


def sheet_entry(found: RankedPatches, name: str, title: str, told: str, command: str) -> Entry:
    """Return ranked patches."""
    rows = [
        (f"{rank}", f"{group[0].image}, row {group[0].row}, column {group[0].column}")
        for rank, group in enumerate(found.images(), 1)
    ]
    described = f"{title} {told} First: " + "; ".join(words for _, words in rows[:3])
    return Entry(name, title, told, draw_sheet(found), described, f"{_COMMAND} {command}", rows)


def most_frequent(scenes: Sequence[Sequence[str]]) -> str:
    """Return the thing that most scenes show, of those whose name is one word; scenes are lists of names."""
    counts = Counter(name for things in scenes for name in set(things) if " " not in name)
    return max(counts, key=lambda name: (counts[name], name))


if __name__ == "__main__":
    main()
