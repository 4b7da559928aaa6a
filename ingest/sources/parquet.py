"""Parquet files.

They are read here rather than by `datasets`, which decodes a row group whole (845 MB for a file of 36 MB).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked, Table, TableFormat
from latentbank.ingest.sources.columns import HEAD, arrow_kinds, kinds_to_look_at, kinds_with_values
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
                looked_at = kinds_to_look_at(kinds, asked)
                if looked_at:
                    kinds = kinds_with_values(kinds, _head(file, looked_at))
                yield Table(kinds, lambda column: _cells(file, column))
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            if is_remote(path):
                raise  # perhaps the connection
            raise CorpusError(
                f"{path}: not a parquet file, or truncated or damaged; make or copy it again."
            ) from None


def _head(file: Any, columns: list[str]) -> dict[str, list[Any]]:
    batch = next(iter(file.iter_batches(HEAD, columns=columns)), None)
    return {} if batch is None else {name: batch.column(name).to_pylist() for name in columns}


def _cells(file: Any, column: str) -> Iterator[str | None]:
    for batch in file.iter_batches(_BATCH, columns=[column]):
        yield from batch.column(0).to_pylist()


FORMAT = TableFormat((".parquet",), open_parquet)
