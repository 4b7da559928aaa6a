"""The demo's bank of images: scenes, whose visual tokens are stored beside the demo's contexts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from latentbank.demo.scenes import VALIDATION, Scene, Thing, make_scene
from latentbank.ingest.images.banks import create_images
from latentbank.ingest.images.job import ImagesReport, ingest_images
from latentbank.ingest.images.naming import NamedImages
from latentbank.models.vision.sources import ImageSource
from latentbank.query.output.pictures import png_bytes

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.models.composite.model import CompositeVLM
    from latentbank.progress import Progress

CORPUS = "scenes"
COUNT = 200
"""Scenes that are stored; none of them was trained on or is scored."""
LAYERS = (0, 16)
"""Visual layers that are stored."""


@dataclass(frozen=True)
class Scenes:
    """Scenes as images of a bank; each is drawn when it is its turn.

    Attributes:
        things: what the scenes show.
        count: how many there are.
    """

    things: Sequence[Thing]
    count: int = COUNT

    def __iter__(self) -> Iterator[ImageSource]:
        """Yield the images under their names."""
        for number in range(self.count):
            name = f"scene-{number:03d}.png"
            yield ImageSource(name, name, png_bytes(self.scene(number).image))

    def scene(self, number: int) -> Scene:
        """Return a scene by its number."""
        return make_scene(self.things, VALIDATION[number])

    def number(self, name: str) -> int:
        """Return the number of a scene by the name of its image in the bank."""
        return int(PurePath(name).stem.rpartition("-")[2])

    def of_image(self, name: str) -> Scene:
        """Return the scene of an image by its name in the bank."""
        return self.scene(self.number(name))


def store_scenes(
    bank: str, settings: Settings, vlm: CompositeVLM, scenes: Scenes, progress: Progress
) -> ImagesReport:
    """Store the visual tokens of scenes beside a bank's contexts; those that are there are not read again."""
    with create_images(bank, vlm, LAYERS, settings) as images:
        named = NamedImages(CORPUS, scenes, (), scenes.count)
        return ingest_images(images, named, vlm, progress)
