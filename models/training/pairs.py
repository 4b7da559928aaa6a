"""Image-caption pairs for training a projector, from a folder, a Parquet file or a dataset."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from PIL import Image

from latentbank.errors import CorpusError, ImageError
from latentbank.models.vision.image_files import from_base64
from latentbank.models.vision.images import open_image
from latentbank.text import listed
from latentbank.values import whole

CAPTIONS = ("caption", "text", "captions", "sentence", "description")
IMAGES = ("image", "jpg", "png", "webp", "image_url", "url")
METADATA = "metadata.jsonl"
_NO_CAPTIONS = re.compile(r"(.*_)?(id|ids|url|urls|path|file_?name|split|license)", re.I)
_AHEAD = 32  # images fetched or opened ahead of the encoder
_TIMEOUT = 20.0  # seconds to wait for an image on the web
_LARGEST = 64 << 20  # bytes read of an image on the web


@dataclass(frozen=True)
class Pair:
    """A row of training data.

    Attributes:
        image: an RGB image. Consecutive pairs with the same image object share its features.
        caption: what the language model learns to write about it.
        patches: the encoder's tokens that the language model gets, in this order; None: all.
    """

    image: Image.Image
    caption: str
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """A row of training data that cannot be used, and the reason: `broken image` or `no caption`."""

    reason: str


@dataclass(frozen=True)
class PairSource(Iterable[Pair | Skipped]):
    """Image-caption pairs from files or a dataset; each iteration reads them again, in the same order.

    Attributes:
        data: a description of the source and its version, the same for the same pairs.
        rows: returns an iterator over cells of images and captions.
        limit: the number of rows that are read at most; None: all.
    """

    data: str
    rows: Callable[[], Iterator[tuple[Any, Any]]]
    limit: int | None

    def __iter__(self) -> Iterator[Pair | Skipped]:
        """Yield pairs; a row that has no caption or whose image cannot be opened becomes a `Skipped`.

        Images are opened ahead. Consecutive rows with the same path or web address share one image.
        """
        for image, captions in _ahead(islice(self.rows(), self.limit), _AHEAD):
            texts = (
                [captions] if isinstance(captions, str) else captions if isinstance(captions, list) else []
            )
            texts = [text for text in texts if isinstance(text, str) and text.strip()]
            if not texts:
                yield Skipped("no caption")
            elif image is None:
                yield Skipped("broken image")
            else:
                yield from (Pair(image, text) for text in texts)


def open_pairs(
    source: str | os.PathLike[str],
    *,
    image: str | None = None,
    caption: str | None = None,
    config: str | None = None,
    split: str = "train",
    limit: int | None = None,
    revision: str | None = None,
) -> PairSource:
    """Open image-caption pairs; they are streamed when they are iterated.

    Args:
        source: a folder with a `metadata.jsonl` (its lines have a `file_name` and a caption), a folder that Hugging
            Face datasets can read, a Parquet file, or a dataset on the hub.
        image: the column of images: pictures, their bytes, paths or web addresses. By default it is detected.
        caption: the column of captions; a list of captions in a row makes several pairs. By default it is detected.
        config: the configuration of a dataset.
        split: the split of a dataset.
        limit: read at most this many rows.
        revision: the revision of a dataset on the hub.

    Raises:
        CorpusError: there is no such data, it cannot be read, or a column is not found.
    """
    source = str(os.fspath(source))
    limit = None if limit is None else whole(limit, "limit", 1, error=CorpusError)
    path = Path(source).expanduser()
    for folder in (path, path / split):
        if (folder / METADATA).is_file():
            return _open_metadata((folder / METADATA).resolve(), image, caption, limit)
    stream, keys, version = _open_dataset(source, path, image, caption, config, split, revision)
    name = str(path.resolve()) if path.exists() else source
    chosen = "" if config is None else f" {config}"
    label = f"{name}{chosen}, {split}, version {version}, {keys[0]} and {keys[1]}"
    return PairSource(label + _only(limit), lambda: _dataset_rows(source, stream, *keys), limit)


def _only(limit: int | None) -> str:
    return "" if limit is None else f", first {limit:,} rows"


# -- images --------------------------------------------------------------------------------------


def _ahead(rows: Iterator[tuple[Any, Any]], count: int) -> Iterator[tuple[Image.Image | None, Any]]:
    """Yield rows in order with their images, which are opened in threads, `count` of them ahead."""
    with ThreadPoolExecutor(min(16, count)) as pool:
        waiting: deque[tuple[Future[Image.Image | None], Any]] = deque()
        before: str | None = None
        try:
            for cell, captions in rows:
                place = _place(cell)
                if place is None or place != before:
                    future = pool.submit(_picture, cell)
                before = place
                waiting.append((future, captions))
                if len(waiting) > count:
                    future, texts = waiting.popleft()
                    yield future.result(), texts
            while waiting:
                future, texts = waiting.popleft()
                yield future.result(), texts
        finally:
            for future, _ in waiting:
                future.cancel()


def _place(cell: Any) -> str | None:
    """Return the path or web address of a row's image, or None if the row holds the image itself."""
    if isinstance(cell, Mapping):
        cell = None if cell.get("bytes") else cell.get("path")
    return str(cell) if isinstance(cell, str | Path) else None


def _picture(cell: Any) -> Image.Image | None:
    """Return the image of a cell (a picture, bytes, a path or a web address), or None if it is broken or missing."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    try:
        if isinstance(cell, str) and cell.startswith(("http://", "https://")):
            cell = _fetched(cell)
        elif isinstance(cell, str):
            cell = from_base64(cell) or cell
        return open_image(cell) if isinstance(cell, str | Path | bytes | Image.Image) else None
    except (ImageError, OSError, ValueError):
        return None


def _fetched(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "latentbank"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        return cast(bytes, answer.read(_LARGEST))


# -- a folder with metadata.jsonl ----------------------------------------------------------------


def _open_metadata(file: Path, image: str | None, caption: str | None, limit: int | None) -> PairSource:
    version = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    keys = _columns(str(file), _first_keys(file), image or "file_name", caption)
    label = f"{file}, version {version}, {keys[1]}{_only(limit)}"
    return PairSource(label, lambda: _metadata_rows(file, *keys), limit)


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
                yield number, row
        except ValueError:
            raise CorpusError(
                f"{file}: each line must be a JSON object in UTF-8; correct the file."
            ) from None


def _first_keys(file: Path) -> dict[str, bool | None]:
    """Return the columns of the first rows, and whether each can hold captions; None: it has no value so far."""
    keys: dict[str, bool | None] = {}
    for _, row in islice(_lines(file), 100):
        for key, value in row.items():
            keys.setdefault(key)
            if value is not None:
                keys[key] = keys[key] or isinstance(value, str | list)
    if not keys:
        raise CorpusError(f"{file} is empty: write a line with file_name and caption for each image.")
    return keys


def _metadata_rows(file: Path, image: str, caption: str) -> Iterator[tuple[Any, Any]]:
    for number, row in _lines(file):
        name = row.get(image)
        if not isinstance(name, str):
            raise CorpusError(f"{file}, line {number}: it has no {image}; each line names an image.")
        yield file.parent / name, row.get(caption)


# -- datasets ------------------------------------------------------------------------------------


def _open_dataset(
    source: str,
    path: Path,
    image: str | None,
    caption: str | None,
    config: str | None,
    split: str,
    revision: str | None,
) -> tuple[Any, tuple[str, str], str]:
    """Return a stream that leaves images undecoded, its columns of images and captions, and a hash of its version."""
    import datasets

    with _reading(source):
        if path.is_file():
            if path.suffix.lower() != ".parquet":
                raise CorpusError(f"{source} is not a Parquet file: give one, a folder or a dataset's name.")
            files = str(path.resolve())
            builder = datasets.load_dataset_builder("parquet", data_files={split: files})
        else:
            builder = datasets.load_dataset_builder(
                str(path) if path.is_dir() else source, config, revision=revision
            )
        stream = builder.as_streaming_dataset(split=split)
        features = stream.features
        if features is None:
            features = datasets.Features.from_arrow_schema(
                next(iter(stream.with_format("arrow").iter(batch_size=1))).schema
            )
    found = image or next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    keys = _columns(source, {name: _holds_text(kind) for name, kind in features.items()}, found, caption)
    with _reading(source):
        stream = stream.select_columns(list(dict.fromkeys(keys)))
        if isinstance(features[keys[0]], datasets.Image):
            # Left undecoded, so that a broken image does not stop the stream.
            stream = stream.cast_column(keys[0], datasets.Image(decode=False))
    version = hashlib.blake2b(f"{builder.config_id} {builder.hash}".encode(), digest_size=8).hexdigest()
    return stream, keys, version


def _dataset_rows(source: str, stream: Any, image: str, caption: str) -> Iterator[tuple[Any, Any]]:
    with _reading(source):
        rows = iter(stream)
    while True:
        with _reading(source):
            row = next(rows, None)
        if row is None:
            return
        yield row[image], row[caption]


def _holds_text(kind: Any) -> bool | None:
    inner = getattr(kind, "feature", kind[0] if isinstance(kind, list) else kind)
    dtype = getattr(inner, "dtype", None)
    return None if dtype == "null" else dtype in ("string", "large_string")


def _columns(
    where: str, kinds: Mapping[str, bool | None], image: str | None, caption: str | None
) -> tuple[str, str]:
    """Return the columns of images and captions; `kinds` says for each column whether it holds text (None: unknown).

    A column named as captions are is taken even while it is empty. Addresses, ids and paths are no captions.
    """
    columns = listed(kinds)
    image = image or next((name for name in IMAGES if name in kinds), None)
    if image is None or image not in kinds:
        what = "no column of images" if image is None else f"no column {image!r}"
        raise CorpusError(f"{where} has {what}; its columns are {columns}: name one.", argument="image")
    texts = [name for name, text in kinds.items() if text is not False and name != image]
    named = next((name for name in CAPTIONS if name in texts), None)
    possible = [name for name in texts if not _NO_CAPTIONS.fullmatch(name)]
    caption = caption or named or (possible[0] if len(possible) == 1 else None)
    if caption is None or caption not in texts:
        what = "no column of captions" if caption is None else f"no column {caption!r} of text"
        raise CorpusError(f"{where} has {what}; its columns are {columns}: name one.", argument="caption")
    return image, caption


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn errors of `datasets` and its libraries into a CorpusError of one sentence, and silence their log."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:
        lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
        reason = ": ".join(lines[:2])[:300] or type(error).__name__
        raise CorpusError(
            f"{where} cannot be read as image-caption pairs ({reason}): give a folder with {METADATA}, a Parquet "
            "file or a dataset's name."
        ) from None
    finally:
        logger.setLevel(level)
