"""Datasets of the hub, and folders that `datasets` describes or reads. No copy is kept in a cache."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from latentbank.errors import CorpusError, LatentBankError
from latentbank.ingest.sources.base import Asked, LeftOut, Table
from latentbank.ingest.sources.columns import HEAD, arrow_kinds, kinds_to_look_at, kinds_with_values
from latentbank.ingest.sources.folder import no_split
from latentbank.ingest.sources.registry import format_of
from latentbank.text import listed, public_reason

if TYPE_CHECKING:
    import datasets

_BATCH = 1000  # records decoded at a time
# Builders whose files are read here, and their settings that do not change what is in a file.
_OURS = ("arrow", "csv", "json", "parquet", "text")
_HARMLESS = ("name", "version", "data_dir", "data_files", "description", "features")


@dataclass(frozen=True)
class Dataset:
    """A dataset's split."""

    builder: datasets.DatasetBuilder
    """Reads it, if there are no `files`."""
    files: tuple[str, ...]
    """Paths or addresses of its files, if they can be read one by one."""
    names: tuple[str, ...]
    """What its files are called, after the dataset's name; the dataset's own name if it is made of none."""
    left_out: tuple[LeftOut, ...]
    """The files of its other splits."""


def open_dataset(
    source: str, config: str | None, split: str, revision: str | None, files: Sequence[str] = ()
) -> Dataset:
    """Find the files of a dataset's split.

    Args:
        source: a folder, or the id of a dataset on the hub.
        config: its configuration; None: the default.
        split: its split.
        revision: its revision on the hub; None: the newest.
        files: the files of the folder that make up the split, as paths inside it; none: found.

    Raises:
        CorpusError: the dataset cannot be loaded, or has no such split.
    """
    import datasets

    with plain_errors(source):
        given = {split: [glob.escape(os.path.abspath(os.path.join(source, file))) for file in files]}
        builder = datasets.load_dataset_builder(
            source, config, revision=revision, data_files=given if files else None
        )
    found: dict[str, list[str]] = {
        str(name): list(of) for name, of in (builder.config.data_files or {}).items()
    }
    if found and split not in found:
        raise no_split(source, split, listed(found))
    paths = tuple(found.pop(split, ()))
    left = tuple(
        LeftOut(f"{len(of):,} {'file' if len(of) == 1 else 'files'}", f"of the split {name}")
        for name, of in found.items()
    )
    module = type(builder).__module__.rpartition(".")[2]
    ours = module in _OURS and _by_default(builder.config) and all(map(format_of, paths))
    names = tuple(file_in(source, file) for file in paths)
    if not names:
        names = (os.path.basename(os.path.realpath(source)) if os.path.isdir(source) else source,)
    return Dataset(builder, paths if ours else (), names, left)


def file_in(source: str, file: str) -> str:
    """Return the path of a file inside its dataset, after the dataset's name."""
    if os.path.isdir(source):
        name = os.path.basename(os.path.realpath(source))
        return os.path.join(name, os.path.relpath(file, source))
    return f"{source}/{re.split(r'@[^/]+/', file, maxsplit=1)[-1]}"


@contextmanager
def open_stream(where: str, builder: datasets.DatasetBuilder, split: str, asked: Asked) -> Iterator[Table]:
    """Open a dataset that only `datasets` can read, streamed without the columns that are not needed.

    Args:
        where: the dataset, for messages.
        builder: the dataset.
        split: its split.
        asked: the column asked for.

    Raises:
        CorpusError: the dataset cannot be read.
    """
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    settings = builder.config
    if isinstance(settings, CsvConfig):
        settings.keep_default_na = False  # the sentence "NA" is text
    with plain_errors(where):
        stream = builder.as_streaming_dataset(split=split)
        features = stream.features
        if features is None:  # known only from the first records
            first = next(iter(stream.with_format("arrow").iter(batch_size=1)), None)
            features = (
                datasets.Features() if first is None else datasets.Features.from_arrow_schema(first.schema)
            )
        if isinstance(settings, CsvConfig):
            # Else pandas guesses the types anew for every block of the file.
            settings.features = datasets.Features({name: datasets.Value("string") for name in features})
            stream = builder.as_streaming_dataset(split=split)
        kinds = arrow_kinds(features.arrow_schema)
        looked_at = kinds_to_look_at(kinds, asked)
        if looked_at and (head := next(_tables(stream, looked_at, HEAD), None)) is not None:
            kinds = kinds_with_values(kinds, {name: head.column(name).to_pylist() for name in looked_at})
        yield Table(kinds, lambda column: _cells(where, stream, column))


def _cells(where: str, stream: Any, column: str) -> Iterator[str | None]:
    if not column:
        return
    for table in _tables(stream, [column], _BATCH):
        for cell in table.column(column).to_pylist():
            if cell is not None and not isinstance(cell, str):
                what = type(cell).__name__
                raise CorpusError(f"{where}: column {column!r} holds {what}, not text; convert it.")
            yield cell


def _tables(stream: Any, columns: list[str], batch: int) -> Iterator[Any]:
    return iter(stream.select_columns(columns).with_format("arrow").iter(batch_size=batch))


@contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Turn what `datasets` and its libraries raise into a CorpusError of one sentence, and silence their logs.

    Args:
        where: the file or dataset, for the message.

    Raises:
        CorpusError: anything was raised in the block.
    """
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except LatentBankError:
        raise
    except Exception as error:
        reason = public_reason(error)
        if isinstance(error, OSError) and not os.path.exists(where):
            raise CorpusError(
                f"{where} is neither a file here nor a dataset that the hub provides ({reason}); "
                "check its name, your access and the connection."
            ) from None
        raise CorpusError(f"{where}: Hugging Face datasets cannot read it ({reason}); check it.") from None
    finally:
        logger.setLevel(level)


def _by_default(settings: Any) -> bool:
    """Return whether a builder's settings are the default ones, apart from where its files are."""
    return all(
        getattr(settings, entry.name) == (default() if callable(default) else default)
        for entry in fields(settings)
        for default in (entry.default if entry.default is not MISSING else entry.default_factory,)
        if entry.name not in _HARMLESS
    )
