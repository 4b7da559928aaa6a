"""Image-caption pairs: what a projector is trained on, and where they come from."""

from __future__ import annotations

import hashlib
import json
import logging
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
from latentbank.models.vision.images import open_image

CAPTIONS = ("caption", "text", "captions", "sentence", "description")
IMAGES = ("image", "jpg", "png", "webp", "image_url", "url")
METADATA = "metadata.jsonl"
_AHEAD = 32  # images that are fetched or opened ahead of the encoder
_TIMEOUT = 20.0  # seconds for an image on the web
_LARGEST = 64 << 20  # bytes of an image on the web


@dataclass(frozen=True)
class Pair:
    """One row of training data.

    Attributes:
        image: in RGB. Pairs that follow each other and hold the very same image object share its features.
        caption: what the language model learns to say about it.
        patches: which of the encoder's tokens alone are shown to the language model, in this order; None: all.
    """

    image: Image.Image
    caption: str
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """A row of training data that cannot be used, and why: `broken image` or `no caption`."""

    reason: str


@dataclass(frozen=True)
class PairSource(Iterable[Pair | Skipped]):
    """Image-caption pairs from files or a dataset; each iteration reads them anew, in the same order.

    Attributes:
        data: where they are from and which version, the same for the same pairs.
    """

    data: str
    rows: Callable[[], Iterator[tuple[Any, Any]]]
    limit: int | None

    def __iter__(self) -> Iterator[Pair | Skipped]:
        """Open images ahead; what cannot be opened or has no caption is skipped, and says why.

        Rows that follow each other with the same path or web address share one image.
        """
        for image, captions in _ahead(islice(self.rows(), self.limit), _AHEAD):
            said = [captions] if isinstance(captions, str) else captions if isinstance(captions, list) else []
            said = [text for text in said if isinstance(text, str) and text.strip()]
            if not said:
                yield Skipped("no caption")
            elif image is None:
                yield Skipped("broken image")
            else:
                yield from (Pair(image, text) for text in said)


def open_pairs(
    source: str,
    *,
    image: str | None = None,
    caption: str | None = None,
    config: str | None = None,
    split: str = "train",
    limit: int | None = None,
    revision: str | None = None,
) -> PairSource:
    """Open image-caption pairs, which are then streamed.

    Args:
        source: a folder with a `metadata.jsonl` (its lines have a `file_name` and a caption), a folder that
            Hugging Face datasets can read, a Parquet file, or a dataset on the hub.
        image: the column of images: pictures, their bytes, paths or web addresses. By default it is found.
        caption: the column of captions; a row with a list of them makes several pairs. By default it is found.
        config: configuration of a dataset.
        split: split of a dataset.
        limit: read only the first so many rows.
        revision: revision of a dataset on the hub.

    Raises:
        CorpusError: there is no such data, it cannot be read, or its columns are not found.
    """
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
    """Open the images of `rows` in threads, `count` of them ahead, and keep their order."""
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
                    future, said = waiting.popleft()
                    yield future.result(), said
            while waiting:
                future, said = waiting.popleft()
                yield future.result(), said
        finally:
            for future, _ in waiting:
                future.cancel()


def _place(cell: Any) -> str | None:
    """The path or web address of a row's image; None if the image itself is in the row."""
    if isinstance(cell, Mapping):
        cell = None if cell.get("bytes") else cell.get("path")
    return str(cell) if isinstance(cell, str | Path) else None


def _picture(cell: Any) -> Image.Image | None:
    """An image from what a row holds: a picture, bytes, a path, a web address; None if it is broken or missing."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    try:
        if isinstance(cell, str) and cell.startswith(("http://", "https://")):
            cell = _fetched(cell)
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
            raise CorpusError(f"{file}: not one JSON object in UTF-8 on each line; mend it.") from None


def _first_keys(file: Path) -> dict[str, bool]:
    """The columns of the first rows, and whether they may hold captions."""
    keys: dict[str, bool] = {}
    for _, row in islice(_lines(file), 100):
        for key, value in row.items():
            keys[key] = keys.get(key, False) or isinstance(value, str | list)
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
    """A stream that leaves images as they are stored, its two columns, and a hash of its version."""
    import datasets

    with _reading(source):
        if path.is_file():
            if path.suffix.lower() != ".parquet":
                raise CorpusError(f"{source} is no Parquet file: give one, a folder or a dataset's name.")
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
            # Undecoded, so that a broken one stops nothing.
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


def _holds_text(kind: Any) -> bool:
    inner = getattr(kind, "feature", kind[0] if isinstance(kind, list) else kind)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _columns(
    where: str, kinds: Mapping[str, bool], image: str | None, caption: str | None
) -> tuple[str, str]:
    """The columns of images and captions; `kinds` says which columns hold text."""
    listed = ", ".join(kinds)
    image = image or next((name for name in IMAGES if name in kinds), None)
    if image is None or image not in kinds:
        what = "no column of images" if image is None else f"no column {image!r}"
        raise CorpusError(f"{where} has {what}: name one of these with --image-column: {listed}.")
    texts = [name for name, text in kinds.items() if text and name != image]
    named = next((name for name in CAPTIONS if name in texts), None)
    caption = caption or named or (texts[0] if len(texts) == 1 else None)
    if caption is None or caption not in texts:
        what = "no column of captions" if caption is None else f"no column {caption!r} of text"
        raise CorpusError(f"{where} has {what}: name one of these with --caption-column: {listed}.")
    return image, caption


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what `datasets` and its libraries raise into one sentence, and keep their log lines back."""
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
