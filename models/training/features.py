"""Vision features of training data, computed once and cached on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentbank.errors import CorpusError, ModelError
from latentbank.files import make_folder, write_whole
from latentbank.locks import locked
from latentbank.models.training.pairs import Pair, Skipped
from latentbank.models.vision.encoders import Encoder
from latentbank.progress import Progress, Silent
from latentbank.text import listed
from latentbank.values import real, whole

_FEATURES, _ROWS, _DONE = "features.npy", "rows.jsonl", "features.json"
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Row:
    """A row of training data whose image is encoded.

    Attributes:
        image: number of the image in the features.
        caption: the caption.
        patches: the tokens of the image that the LLM gets, in this order; None: all.
    """

    image: int
    caption: str
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Features:
    """Encoded images and the rows of training data over them.

    Attributes:
        values: [images, tokens, features] float16, read from disk where it is needed.
        rows: the training data.
        encoder: the encoder's name.
        fingerprint: the encoder's fingerprint.
        data: a description of the data, for people and the projector's card.
        skipped: number of rows of the source that were left out, by reason.
        settings: what is needed besides the name to load the encoder again.
    """

    values: NDArray[np.float16]
    rows: tuple[Row, ...]
    encoder: str
    fingerprint: str
    data: str
    skipped: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """The width of one token."""
        return int(self.values.shape[2])

    def count(self, row: int) -> int:
        """Return the number of visual tokens of row number `row`."""
        patches = self.rows[row].patches
        return int(self.values.shape[1]) if patches is None else len(patches)

    def tokens(self, row: int) -> Tensor:
        """Return the features of row number `row`, [tokens, features] float16."""
        chosen = self.rows[row]
        image = self.values[chosen.image]
        return torch.from_numpy(np.array(image if chosen.patches is None else image[list(chosen.patches)]))

    def select(self, rows: Iterable[int]) -> Features:
        """Return the same features with only some of the rows, in the order given."""
        return replace(self, rows=tuple(self.rows[row] for row in rows))

    def split(self, share: float, most: int, seed: int) -> tuple[Features, Features]:
        """Return two parts without a common image, for training and for validation.

        Images with the same features, such as copies of one file, stay together.

        Args:
            share: share of the different images for validation; at least one image is chosen, and at least one left.
            most: the largest number of validation rows.
            seed: chooses the images.

        Raises:
            ModelError: there is only one image.
        """
        share, most = (
            real(share, "validation", 0, 1, error=ModelError),
            whole(most, "most", 1, error=ModelError),
        )
        alike: dict[bytes, int] = {}
        group = np.array(
            [
                alike.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), len(alike))
                for image in self.values
            ]
        )
        if len(alike) < 2:
            raise ModelError(
                "One image is too few to keep any for validation: give more images, or train without validation.",
                argument="validation",
            )
        count = min(max(1, round(len(alike) * share)), len(alike) - 1)
        chosen = np.zeros(len(alike), bool)
        chosen[np.random.default_rng(seed).permutation(len(alike))[:count]] = True
        for_validation = chosen[group]
        validation = [number for number, row in enumerate(self.rows) if for_validation[row.image]]
        training = [number for number, row in enumerate(self.rows) if not for_validation[row.image]]
        return self.select(training), self.select(validation[:most])

    def sample(self, tokens: int, seed: int) -> Tensor:
        """Return the features of about `tokens` tokens from random images, [n, features] float32."""
        images = sorted({row.image for row in self.rows})
        count = min(len(images), max(1, tokens // self.values.shape[1]))
        chosen = np.random.default_rng(seed).permutation(images)[:count]
        return torch.from_numpy(self.values[np.sort(chosen)].astype(np.float32)).flatten(0, 1)

    def digest(self) -> str:
        """Return 32 hex digits that identify these rows over these images."""
        whole = hashlib.blake2b(
            f"{self.fingerprint} {self.data} {self.values.shape}".encode(), digest_size=16
        )
        for row in self.rows:
            whole.update(repr((row.image, row.caption, row.patches)).encode("utf-8", "surrogatepass"))
        return whole.hexdigest()


def cache_features(
    encoder: Encoder,
    pairs: Iterable[Pair | Skipped],
    directory: str | os.PathLike[str],
    data: str,
    *,
    batch: int = 32,
    progress: Progress | None = None,
) -> Features:
    """Encode the images of `pairs`, or read their features from the cache.

    A run that was killed continues after the last batch that it wrote. If another process encodes the same images into
    this cache, it is waited for.

    Args:
        encoder: the vision encoder.
        pairs: the data, of which only what is not cached is read; must be the same each time for the same `data`.
        directory: the folder of caches; each encoder and each data has a folder of its own there.
        data: a description of the data (its path, version, number of rows) that other data does not share.
        batch: number of images encoded at a time.
        progress: gets the number of encoded images.

    Raises:
        CorpusError: there is no row with an image and a caption.
        ModelError: features are not finite, a row has patches that the encoder does not have, or the disk is full.
    """
    batch = whole(batch, "batch", 1, error=ModelError)
    key = hashlib.blake2b(f"{encoder.fingerprint()} {data}".encode(), digest_size=12).hexdigest()
    folder = Path(directory) / key
    if not (folder / _DONE).is_file():
        try:
            make_folder(folder)
            with locked(folder / ".lock", f"writes the features in {folder}"):
                if not (folder / _DONE).is_file():
                    _write(encoder, pairs, folder, data, batch, progress or Silent())
        except OSError as error:
            raise ModelError(
                f"The features cannot be kept in {folder}: {error.strerror or error}; "
                "free some space, name another folder or use fewer images."
            ) from error
    return _open(folder, data)


def _open(folder: Path, data: str) -> Features:
    done = json.loads((folder / _DONE).read_text(encoding="utf-8"))
    lines = map(json.loads, (folder / _ROWS).read_text(encoding="utf-8").splitlines())
    rows = tuple(
        Row(line["image"], line["caption"], None if line["patches"] is None else tuple(line["patches"]))
        for line in lines
        if "skipped" not in line
    )
    if not rows:
        reasons = listed(f"{count:,} {reason}" for reason, count in done["skipped"].items())
        raise CorpusError(
            f"{data} has no image with a caption{f' ({reasons})' if reasons else ''}: "
            "training needs pairs of both; name the caption's column if there is one.",
            argument="caption",
        )
    values = np.load(folder / _FEATURES, mmap_mode="r")
    return Features(
        values, rows, done["encoder"], done["fingerprint"], data, done["skipped"], done.get("settings", {})
    )


def _write(
    encoder: Encoder,
    pairs: Iterable[Pair | Skipped],
    folder: Path,
    data: str,
    batch: int,
    progress: Progress,
) -> None:
    tokens = len(encoder.boxes((64, 64)))
    size = 2 * tokens * encoder.features
    header = _header(0, tokens, encoder.features)
    lines, length = _whole_lines(folder / _ROWS)
    images = 1 + max((line.get("image", -1) for line in lines), default=-1)
    with (folder / _FEATURES).open("ab") as file, (folder / _ROWS).open("r+b") as rows:
        rows.seek(length)
        rows.truncate()
        file.truncate(min(file.tell(), len(header) + images * size) if images else 0)
        if not images:
            file.write(header)
        source = islice(iter(pairs), len(lines), None)
        for group in _grouped(source, batch):
            pictures = [part[0].image for part in group if isinstance(part[0], Pair)]
            if pictures:
                file.write(_encoded(encoder, pictures))
                file.flush()
                os.fsync(file.fileno())
            text = []
            for part in group:
                for entry in part:
                    line = _line(entry, images, tokens)
                    lines.append(line)
                    text.append(json.dumps(line) + "\n")
                images += isinstance(part[0], Pair)
            rows.write("".join(text).encode())
            rows.flush()
            progress.update(images)
    with (folder / _FEATURES).open("r+b") as file:
        file.write(_header(images, tokens, encoder.features))
    skipped = Counter(line["skipped"] for line in lines if "skipped" in line)
    done = {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint(),
        "settings": encoder.settings(),
        "data": data,
        "images": images,
        "rows": len(lines) - skipped.total(),
        "skipped": dict(skipped),
    }
    write_whole(folder / _DONE, (json.dumps(done, indent=2) + "\n").encode())


def _header(images: int, tokens: int, width: int) -> bytes:
    """Return the header of a .npy file; numpy pads it to the same length for any number of images."""
    head = io.BytesIO()
    shape = {"descr": "<f2", "fortran_order": False, "shape": (images, tokens, width)}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the complete lines of an earlier run and their length in bytes; creates the file if it is missing."""
    path.touch()
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:length].splitlines()], length


def _grouped(source: Iterator[Pair | Skipped], batch: int) -> Iterator[list[list[Pair | Skipped]]]:
    """Yield rows grouped by image (consecutive rows with the same image object), `batch` images at a time."""
    by_image = groupby(source, key=lambda entry: id(entry.image) if isinstance(entry, Pair) else id(entry))
    # Each group becomes a list before the next begins; this also keeps its image, and so the image's id, alive.
    parts = (list(part) for _, part in by_image)
    while group := list(islice(parts, batch)):
        yield group


def _encoded(encoder: Encoder, images: list[Image.Image]) -> bytes:
    features = encoder.encode(images).float().cpu()
    if not features.isfinite().all():
        raise ModelError(
            f"{encoder.name} computes features that are not finite: use another layer, or float32.",
            argument="dtype",
        )
    return features.clamp(-_LARGEST, _LARGEST).half().numpy().astype("<f2").tobytes()


def _line(entry: Pair | Skipped, image: int, tokens: int) -> dict[str, Any]:
    if isinstance(entry, Skipped):
        return {"skipped": entry.reason}
    if not entry.caption.strip():
        return {"skipped": "no caption", "image": image}
    if entry.patches is not None and not all(0 <= patch < tokens for patch in entry.patches):
        raise ModelError(f"A row has patches {entry.patches}, but the encoder has 0 to {tokens - 1}.")
    patches = None if entry.patches is None else list(entry.patches)
    return {"image": image, "caption": entry.caption, "patches": patches}
