"""Folders of readings with a box in every image, for tests of questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.reading.images import find_images
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

    An image's own words end with its name and `mark`: `w8x3-picture1`.
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
        tokens = [
            replace(
                token,
                kind="visual",
                neighbors=tuple(
                    replace(found, word=f"{found.word}-{Path(image.name).stem}{mark}") if not at else found
                    for at, found in enumerate(token.neighbors)
                ),
            )
            for token in plain.tokens
        ]
        target.write(image, replace(plain, model=model, tokens=tuple(tokens)))
    return pictures, readings
