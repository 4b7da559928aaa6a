"""Parquet files.

They are read here rather than by `datasets`, which decodes a row group whole (845 MB for a file of 36 MB).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked, Kind, Table, TableFormat
from latentbank.ingest.sources.columns import COLUMNS, HEAD, is_arrow_text, kind_of
from latentbank.ingest.sources.lines import is_remote, open_remote

_BATCH = 1000  # records decoded at a time


@contextmanager
def open_parquet(path: str, asked: Asked) -> Iterator[Table]:
    """Open a Parquet file. The values of columns are looked at only where names and types do not tell enough.

    Raises:
        CorpusError: the file is damaged, also while reading.
    """
    import pyarrow.parquet as pq

    with open_remote(path) if is_remote(path) else nullcontext(path) as source:
        try:
            # No pre-buffering, and pages through a small buffer: memory does not grow with the row groups.
            with pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20) as file:
                kinds = arrow_kinds(file.schema_arrow)
                if asked.column is None and not any(name.casefold() in COLUMNS for name in kinds):
                    kinds |= _kinds_of_values(file, kinds)
                yield Table(kinds, lambda column: _cells(file, column))
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            if is_remote(path):
                raise  # perhaps the connection
            raise CorpusError(
                f"{path}: not a parquet file, or truncated or damaged; make or copy it again."
            ) from None


def arrow_kinds(schema: pa.Schema) -> dict[str, Kind]:
    """Return what the columns of an Arrow schema hold, as far as their types tell."""
    return {entry.name: _kind(entry.type) for entry in schema}


def _kind(type_: pa.DataType) -> Kind:
    if is_arrow_text(type_):
        return Kind.TEXT
    if pa.types.is_null(type_):
        return Kind.EMPTY
    return Kind.NESTED if pa.types.is_list(type_) or pa.types.is_large_list(type_) else Kind.OTHER


def _kinds_of_values(file: Any, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return what the first values of columns of strings and lists say."""
    names = [name for name, kind in kinds.items() if kind in (Kind.TEXT, Kind.NESTED)]
    batch = next(iter(file.iter_batches(HEAD, columns=names)), None) if names else None
    if batch is None:
        return {}
    found = {name: kind_of(batch.column(name).to_pylist()) for name in batch.schema.names if name in names}
    # A list without values yet is no column of text.
    return {
        name: kinds[name] if kind is Kind.EMPTY and kinds[name] is not Kind.TEXT else kind
        for name, kind in found.items()
    }


def _cells(file: Any, column: str) -> Iterator[str | None]:
    for batch in file.iter_batches(_BATCH, columns=[column]):
        yield from batch.column(0).to_pylist()


FORMAT = TableFormat((".parquet",), open_parquet)
