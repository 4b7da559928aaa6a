"""Where images come from: files, globs, folders and datasets, one at a time."""

from __future__ import annotations

import glob
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from latentbank.errors import ImageError, LatentBankError
from latentbank.models.vision.image_files import SUFFIXES, UNREADABLE, from_base64
from latentbank.models.vision.images import Pixels, open_image
from latentbank.text import as_unicode, is_hub_id, listed, public_reason
from latentbank.values import whole

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

_LONGEST_PATH = 4096


@dataclass(frozen=True)
class ImageSource:
    """One image that can be opened.

    Attributes:
        name: its name for people: its path as given, or the dataset's name and the row's number.
        key: what identifies it, whatever the working directory.
        data: its path, or the bytes of its file.
    """

    name: str
    key: str
    data: Path | bytes

    def open(self) -> Image.Image:
        """Open the image, upright and in RGB.

        Raises:
            ImageError: the image cannot be read; the message names it.
        """
        try:
            return open_image(self.data)
        except ImageError as error:
            if self.name in str(error):
                raise
            raise ImageError(f"{self.name}: {error}") from None

    def file_name(self, suffix: str) -> str:
        """Return a name for a file about this image: readable, safe on every system, and unlike any other image's."""
        stem = re.sub(r"[^\w.-]+", "-", Path(self.name).stem if isinstance(self.data, Path) else self.name)
        digest = hashlib.blake2b(self.key.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
        return f"{stem.strip('-.')[:60] or 'image'}-{digest}{suffix}"


Source = str | os.PathLike[str] | bytes | Image.Image | Pixels | ImageSource
"""What an image can be given as."""


class Images:
    """Images from several sources, in the order given; `find_images` returns them. They can be iterated several times.

    Attributes:
        total: how many there are; None if that is unknown, as with datasets.
    """

    def __init__(self, files: Sequence[Path], found: Sequence[_Dataset], limit: int | None) -> None:
        self._files, self._datasets, self._limit = files, found, limit
        self.total: int | None = None
        if not found:
            self.total = len(files) if limit is None else min(limit, len(files))

    def __iter__(self) -> Iterator[ImageSource]:
        paths = (ImageSource(str(path), str(path.resolve()), path) for path in self._files)
        return itertools.islice(itertools.chain(paths, *self._datasets), self._limit)


def find_images(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Images:
    """Find images: check that the files exist, without opening them.

    Args:
        sources: one or several: image files, globs (`**` matches folders at any depth), folders (all files below with
            an image's suffix), .parquet files, dataset folders, or ids of hub datasets, which are streamed.
        column: the column of a dataset that holds the images; None: the only column of images.
        config: configuration of a dataset.
        split: split of a dataset; "train" if None.
        revision: revision of a hub dataset.
        limit: at most this many images, the first ones; None: all.

    Raises:
        ImageError: a file is missing, a glob or a folder has no image, dataset options are given without a dataset, or
            `limit` is below 1.

    Examples:
        >>> import latentbank as lb
        >>> images = lb.find_images(["cat.jpg", "photos/*.jpg"], limit=3)
        >>> len(list(images))
        3
    """
    if limit is not None:
        limit = whole(limit, "limit", 1, error=ImageError)
    files: list[Path] = []
    found: list[_Dataset] = []

    def dataset(name: str) -> None:
        found.append(_Dataset(name, column, config, split or "train", revision))

    several = [sources] if isinstance(sources, str | os.PathLike) else sources
    for given in (os.fspath(source) for source in several):
        if "://" in given:  # the message does not repeat the address, which may hold a token
            raise ImageError("A web address cannot be read; download the image and give its path.")
        path = os.path.expanduser(given)
        if os.path.isdir(path):
            inside, unreadable = _in_folder(Path(path))
            if unreadable:
                names = listed(file.relative_to(path) for file in unreadable[:5])
                more = f" and {len(unreadable) - 5:,} others" if len(unreadable) > 5 else ""
                log.warning("%s: %s%s left out; Pillow cannot read their formats.", given, names, more)
            if inside:
                files += inside
            elif any(Path(path).rglob("*.parquet")) or any(Path(path).rglob("*.arrow")):
                dataset(path)
            else:
                raise ImageError(f"The folder {given} holds no image; check its name.")
        elif os.path.exists(path):
            if path.lower().endswith(".parquet"):
                dataset(path)
            else:
                files.append(Path(path))
        elif glob.has_magic(given):
            matches = sorted(m for m in glob.glob(path, recursive=True) if not os.path.isdir(m))
            if not matches:
                raise ImageError(f"No file matches {given}; check the pattern.")
            files += map(Path, matches)
        elif is_hub_id(given) and Path(given).suffix.lower() not in SUFFIXES:
            dataset(given)
        else:
            raise ImageError(f"No such file: {given}; check the path.")
    if not files and not found:
        raise ImageError("Name an image: a file, a glob, a folder or a dataset.")
    if (column or config or split or revision) and not found:
        raise ImageError(
            "The images are files, which have no column, config, split or revision; leave these out."
        )
    return Images(list(dict.fromkeys(files)), found, limit)


def opened(
    images: Iterable[Source], broken: Callable[[str, LatentBankError], None] | None
) -> Iterator[tuple[str, Image.Image]]:
    """Yield the name of each image and the image, upright and in RGB, opened when it is asked for.

    Args:
        images: paths, bytes, open images, arrays of pixels, or what `find_images` found.
        broken: called with the name of an image that cannot be read, and the error; such an image is left out. None:
            the error is raised.

    Raises:
        ImageError: an image cannot be read, and `broken` is None; or `images` is one image.
    """
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        raise ImageError("images is one image; give a list of images.")
    for number, image in enumerate(images):
        name = _name(image, number)
        try:
            pixels = image.open() if isinstance(image, ImageSource) else open_image(image)
        except ImageError as error:
            if broken is None:
                raise
            broken(name, error)
            continue
        yield name, pixels


def _name(image: Source, number: int) -> str:
    if isinstance(image, ImageSource):
        return image.name
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return str(getattr(image, "filename", "") or f"image {number}")


def _in_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files below a folder, and those in formats that are not read."""
    files = sorted(filter(os.path.isfile, folder.rglob("*")))
    read, unreadable = (
        [file for file in files if file.suffix.lower() in kind] for kind in (SUFFIXES, UNREADABLE)
    )
    return read, unreadable


@dataclass(frozen=True)
class _Dataset:
    """The images of a dataset's split, streamed. Their bytes are not decoded here, so a broken image ends nothing."""

    name: str
    column: str | None
    config: str | None
    split: str
    revision: str | None

    def __iter__(self) -> Iterator[ImageSource]:
        import datasets

        logging.getLogger("datasets").setLevel(logging.ERROR)
        try:
            stream = self._open()
            column = self._image_column(stream)
            stream = stream.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            key = "|".join(map(str, (self.name, self.config, self.split)))
            for number, row in enumerate(stream):
                name = f"{self.name}/{self.split}/{number:06d}"
                yield ImageSource(name, f"{key}|{number}", _data(row[column]))
        except (ImageError, GeneratorExit):
            raise
        except Exception as error:
            raise ImageError(
                f"The dataset {self.name} cannot be read ({public_reason(error)}); check its name, your "
                "access and the connection."
            ) from None

    def _open(self) -> datasets.IterableDataset:
        import datasets

        if os.path.isfile(self.name):
            files = {self.split: glob.escape(os.path.abspath(self.name))}
            return datasets.load_dataset("parquet", data_files=files, split=self.split, streaming=True)
        if os.path.isdir(self.name) and os.path.isfile(os.path.join(self.name, "dataset_info.json")):
            return datasets.load_from_disk(self.name).to_iterable_dataset()
        return datasets.load_dataset(
            self.name, self.config, split=self.split, revision=self.revision, streaming=True
        )

    def _image_column(self, stream: datasets.IterableDataset) -> str:
        import datasets

        features: Mapping[str, Any] = stream.features or {}
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        if self.column is not None:
            if self.column not in features:
                raise ImageError(f"{self.name} has no column {self.column!r}; it has {listed(features)}.")
            return self.column
        if len(images) != 1:
            has = f"there are {listed(images)}" if images else f"its columns are {listed(features)}"
            raise ImageError(
                f"Name the column of {self.name} that holds the images; {has}.", argument="column"
            )
        return images[0]


def _data(cell: object) -> Path | bytes:
    """Return the content of a cell of an image column: bytes (also in base64), or a path; b"" if it has neither."""
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if path := cell.get("path"):
            # What is too long for a path is some text, and no image.
            return from_base64(path) or (
                Path(path) if len(path) < _LONGEST_PATH else as_unicode(path).encode()
            )
    return b""
