"""Null tokens: a VLM's visual tokens of pictures with nothing to see, kept in a calibration's folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.errors import QueryError
from latentbank.models.vision.sources import Source, opened
from latentbank.progress import Progress
from latentbank.query.calibration.folder import read_array, write_array
from latentbank.query.calibration.references import measure_references
from latentbank.query.silence.null_pictures import COUNT, KINDS, PIXELS, null_pictures, within

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.tokens import VisualModel

_SOURCES = COUNT // len(KINDS)  # pictures that pictures with nothing to see are made of


def keep_null_tokens(
    folder: Path,
    model: VisualModel,
    pictures: Sequence[Source],
    layers: Sequence[int],
    *,
    prompt: str | None = None,
    batch: int = 8,
    progress: Progress,
) -> None:
    """Run a VLM on pictures with nothing to see, and keep a sample of their visual tokens at the layers without.

    Args:
        folder: where they are kept.
        model: the VLM.
        pictures: pictures like those that will be read; those with nothing to see are made of some of them.
        layers: the visual layers.
        prompt: the text beside the picture; None: the model's own.
        batch: pictures in one forward pass.
        progress: receives the number of pictures done.

    Raises:
        ModelError: a hidden state is not finite.
        LatentBankError: the files cannot be written.
    """
    missing = [layer for layer in layers if not _file(folder, layer).is_file()]
    if not missing:
        return
    step = max(1, len(pictures) // _SOURCES)
    sources = _small(pictures[::step][:_SOURCES]) or _small(pictures)
    progress.stage("looking at nothing", "images")

    def counted() -> Iterator[Image.Image]:
        for number, image in enumerate(null_pictures(sources, COUNT)):
            progress.update(number, COUNT)
            yield image

    found = measure_references(
        model, counted(), missing, what="images with nothing to see", prompt=prompt, batch=batch
    )
    for layer, tokens in found.by_layer.items():
        write_array(_file(folder, layer), tokens.states)


def _small(pictures: Sequence[Source]) -> list[Image.Image]:
    """Return the pictures that can be read, larger ones shrunk; they are held in memory together."""
    return [within(image, PIXELS) for _, image in opened(pictures, lambda *_: None)]


def null_tokens(folder: Path, layer: int) -> npt.NDArray[np.float32]:
    """Return the null tokens of a visual layer, float32 `[tokens, hidden]`.

    Raises:
        QueryError: there are none.
        LatentBankError: the file cannot be read.
    """
    file = _file(folder, layer)
    if not file.is_file():
        raise QueryError(
            f"It was not measured at visual layer {layer} what a lens finds where there is nothing to see; calibrate "
            "that layer, or read without it.",
            argument="fdr",
        )
    found: npt.NDArray[np.float32] = read_array(file, [None, None], "float32")
    return found


def _file(folder: Path, layer: int) -> Path:
    return folder / f"N{layer:02d}.npy"
