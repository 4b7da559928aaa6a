"""Datasets: folders and the hub, streamed by `datasets`. No copy is kept in a cache."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from latentbank.errors import CorpusError
from latentbank.ingest.sources.columns import find_column
from latentbank.ingest.sources.text import read_text
from latentbank.text import public_reason

if TYPE_CHECKING:
    import datasets

_BATCH = 1000  # records decoded at a time


def read_dataset(
    source: str, column: str | None, config: str | None, split: str, revision: str | None
) -> Iterator[str | None]:
    """Yield the cells of a dataset's text column in order; None is a null.

    Args:
        source: a folder, or the id of a dataset on the hub.
        column: the column that holds the sentences; None: it is found.
        config: its configuration; None: the default.
        split: its split.
        revision: its revision on the hub; None: the newest.

    Raises:
        CorpusError: the dataset cannot be loaded or read, or its column is not found.
    """
    import datasets
    from datasets.packaged_modules.text.text import TextConfig

    with plain_errors(source):
        builder = datasets.load_dataset_builder(source, config, revision=revision)
    settings = builder.config
    files = (settings.data_files or {}).get(split, ())
    plain = isinstance(settings, TextConfig) and settings.sample_by == "line"
    if not (plain and files and all(map(os.path.isfile, files))):
        yield from streamed(source, builder, split, column)
        return
    for file in files:  # a folder of text files: `datasets` would not say where the text is broken
        yield from read_text(file, None)


def streamed(
    where: str, builder: datasets.DatasetBuilder, split: str, column: str | None
) -> Iterator[str | None]:
    """Yield the text column of a dataset, streamed without its other columns.

    Args:
        where: the dataset, for messages.
        builder: the dataset.
        split: its split.
        column: the column that holds the sentences; None: it is found.

    Raises:
        CorpusError: the dataset cannot be read, or its column is not found.
    """
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    settings = builder.config
    if isinstance(settings, CsvConfig):
        settings.keep_default_na = False  # the sentence "NA" is text
    if isinstance(settings, ParquetConfig):
        settings.batch_size = _BATCH  # the default is a row group, which may be the whole file
    with plain_errors(where):
        stream = builder.as_streaming_dataset(split=split)
        features = stream.features
        if features is None:  # known only from the first records
            first = next(iter(stream.with_format("arrow").iter(batch_size=1)), None)
            features = None if first is None else datasets.Features.from_arrow_schema(first.schema)
    if features is None:
        return
    chosen = find_column(where, {name: _is_text(feature) for name, feature in features.items()}, column)
    with plain_errors(where):
        if isinstance(settings, ParquetConfig):
            settings.columns = [chosen]  # do not fetch the images that lie beside the captions
            stream = builder.as_streaming_dataset(split=split)
        elif isinstance(settings, CsvConfig):
            # Else pandas guesses the types anew for every block of the file.
            settings.features = datasets.Features({name: datasets.Value("string") for name in features})
            stream = builder.as_streaming_dataset(split=split)
        tables = iter(stream.select_columns([chosen]).with_format("arrow").iter(batch_size=_BATCH))
    while True:
        with plain_errors(where):
            table = next(tables, None)
            cells = None if table is None else table.column(chosen).to_pylist()
        if cells is None:
            return
        yield from cells


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


def _is_text(feature: object) -> bool:
    """Return whether a column of a dataset holds strings."""
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")
