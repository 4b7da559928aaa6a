"""Parquet files.

They are read here rather than by `datasets`, which decodes a row group whole (845 MB for a file of 36 MB).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Format
from latentbank.ingest.sources.columns import find_column, is_arrow_text

_BATCH = 1000  # records decoded at a time


def read_parquet(path: str, column: str | None) -> Iterator[str | None]:
    """Yield the cells of the text column.

    Raises:
        CorpusError: the file is damaged, or the column is not found.
    """
    import pyarrow.parquet as pq

    try:
        # No pre-buffering, and pages through a small buffer: memory does not grow with the row groups.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            kinds = {entry.name: is_arrow_text(entry.type) for entry in file.schema_arrow}
            chosen = find_column(path, kinds, column)
            for batch in file.iter_batches(_BATCH, columns=[chosen]):
                yield from batch.column(0).to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        raise CorpusError(
            f"{path}: not a parquet file, or truncated or damaged; make or copy it again."
        ) from None


FORMAT = Format((".parquet",), read_parquet)
