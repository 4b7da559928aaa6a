"""Folders of readings with a box in every image, for tests of questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from latentbank.models.vision.sources import find_images
from latentbank.query.output.parquet import ReadingFolder
from tests.query.web.readings import reading_of

GRID = (5, 6)


def readings_in(
    folder: Path,
    images: int = 4,
    *,
    model: str = "owner/vlm",
    lenses: Sequence[str] = ("latent", "logit"),
    layers: Sequence[int] = (0, 8),
    mark: str = "",
    side: int = 60,
) -> tuple[Path, Path]:
    """Write images and their readings; return the folder of the images and that of the readings.

    An image's first words tell layer, token, image and `mark`, such as `w8x3-picture1`; those of other lenses than the
    first are `W8x3-picture1`, as questions with the same words would be the same.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    readings = folder / f"readings{mark}-{model.replace('/', '-')}"
    for number in range(images):
        path = pictures / f"picture{number}.png"
        if not path.exists():
            Image.linear_gradient("L").rotate(90 * number).resize((side, side)).convert("RGB").save(path)
    target = ReadingFolder(readings, {"model": model})
    for image in find_images([pictures]):
        plain = reading_of(
            ("",), lenses, layers, size=(side, side), source=image.name, image=False, grid=GRID
        )
        tokens = []
        for token in plain.tokens:
            best, *others = token.neighbors
            word = f"{best.word}-{Path(image.name).stem}{mark}"
            best = replace(best, word=word if token.lens == lenses[0] else word.capitalize())
            tokens.append(replace(token, kind="visual", neighbors=(best, *others)))
        target.write(image, replace(plain, model=model, tokens=tuple(tokens)))
    return pictures, readings
