"""How much memory an ingestion of images takes as their number grows, and how long all but the VLM takes.

    python -m benchmarks.images_memory --counts 1000,4000,10000 --work .bench/photos

The VLM is replaced by one that costs nothing: its 49 tokens at each of three visual layers are noise, 576 wide, so
what is measured is everything else: files are read, hashed and decoded, small pictures are made, tokens are stored,
committed and indexed. The images are 200 of the demo's scenes (JPEG, 448 pixels a side), and copies of them that are
moved sideways, so that no two files are the same. Each number of images has a process and a bank of its own; memory is
that of the process and of those that it starts, beyond what the process has before.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from benchmarks.common import (
    PeakMemory,
    Row,
    answer_child,
    folder_bytes,
    in_child,
    machine,
    memory,
    mib,
    parser_of,
    show,
    write_json,
)
from latentbank.bank.images.opening import create_images
from latentbank.bank.opening import create_bank
from latentbank.bank.settings import load_settings
from latentbank.demo.scenes import VALIDATION, load_things, make_scene
from latentbank.ingest.images.job import ingest_images
from latentbank.ingest.images.naming import named_images
from latentbank.models.vision.sources import find_images
from latentbank.models.vision.tokens import VisualTokens

LAYERS = (0, 8, 16)
_SCENES, _SIDE, _GRID, _WIDTH = 200, 448, 7, 576
_FINGERPRINT = "0" * 32


class FreeVLM:
    """A VLM whose visual tokens are noise."""

    name, revision, hidden_size, num_layers = "free", None, _WIDTH, 30

    def __init__(self) -> None:
        self._chance = np.random.default_rng(0)

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Return tokens of a grid of seven rows and columns."""
        del prompt
        return [self._tokens(image.size, layers) for image in images]

    def _tokens(self, size: tuple[int, int], layers: Sequence[int]) -> VisualTokens:
        import torch

        rows, columns = (part.ravel() for part in np.indices((_GRID, _GRID)))
        corners = np.stack([columns, rows, columns + 1, rows + 1], axis=1) / _GRID
        states = {
            layer: torch.from_numpy(self._chance.standard_normal((_GRID**2, _WIDTH), np.float32))
            for layer in layers
        }
        boxes = (corners * [*size, *size]).astype(np.float32)
        return VisualTokens(states, boxes, rows, columns, np.zeros_like(rows), size)


def main() -> None:
    """Ingest each number of images, print the table and write JSON."""
    if answer_child({"ingest": ingest}, sys.argv[1:]):
        return
    parser = parser_of("benchmarks.images_memory", __doc__)
    add = parser.add_argument
    add("--counts", default="1000,4000,10000")
    add("--work", type=Path, required=True, help="folder of the images, which are kept, and of the banks")
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    counts = sorted(int(count) for count in given.counts.split(","))
    _draw(given.work / "photos", counts[-1])
    found = {
        count: in_child("benchmarks.images_memory", "ingest", work=given.work, count=count)
        for count in counts
    }
    rows = []
    for count, result in found.items():
        shown = f"{mib(result['anonymous'])} ({mib(result['resident'])} with mapped files)"
        rows.append(Row(f"{count:,} images: peak memory", "", shown, None))
        seconds = f"{result['encode_seconds']:.0f} + {result['index_seconds']:.0f} s"
        rows.append(Row("... seconds, then indexing", "", seconds, None))
        rows.append(Row("... on the disk", "", mib(result["disk"]), None))
    first, last = found[counts[0]], found[counts[-1]]
    rows.append(Row("largest by smallest number", "", "", last["anonymous"] / first["anonymous"]))
    sizes = {"visual layers": len(LAYERS), "visual tokens an image": _GRID**2, "hidden size": _WIDTH}
    where = machine()
    show("Ingesting images with a VLM that costs nothing", sizes, rows, where, ("", "latentbank"))
    write_json(given.json, sizes, rows, {str(count): result for count, result in found.items()}, where)


def ingest(work: str, count: int) -> dict[str, Any]:
    """Ingest so many images into a bank of their own, and return seconds and bytes."""
    folder = Path(work) / f"banks-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    settings = load_settings(data_dir=folder, url="")
    sizes = {"num_layers": FreeVLM.num_layers, "hidden_size": _WIDTH}
    create_bank("free", settings, model="free", fingerprint=_FINGERPRINT, layers=[12], **sizes).close()
    files = sorted((Path(work) / "photos").iterdir())[:count]
    named = named_images(find_images(files), files, "photos")
    model: Any = FreeVLM()
    model.visual_tokens([Image.new("RGB", (8, 8))], LAYERS)  # imports torch
    before = memory()
    with (
        create_images(
            "free", settings, model="free", fingerprint=_FINGERPRINT, layers=LAYERS, **sizes
        ) as images,
        PeakMemory() as peak,
    ):
        report = ingest_images(images, named, model)
    result = {
        "images": report.images,
        "points": report.points,
        "anonymous": peak.anonymous - before.anonymous,
        "resident": peak.resident - before.resident,
        "encode_seconds": report.encode_seconds,
        "index_seconds": report.index_seconds,
        "disk": folder_bytes(folder),
    }
    shutil.rmtree(folder)
    return result


def _draw(folder: Path, count: int) -> None:
    """Write the images that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    things = load_things() if any(not _file(folder, number).exists() for number in range(count)) else []
    for scene in range(min(_SCENES, count)):
        missing = [n for n in range(scene, count, _SCENES) if not _file(folder, n).exists()]
        if not missing:
            continue
        drawn = make_scene(things, VALIDATION[scene]).image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        for number in missing:
            ImageChops.offset(drawn, 7 * (number // _SCENES), 0).save(_file(folder, number), quality=90)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.jpg"


if __name__ == "__main__":
    main()
