"""Arrow files: IPC files and streams, such as `save_to_disk` of `datasets` writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import Asked, Table, TableFormat
from latentbank.ingest.sources.columns import HEAD, arrow_kinds, kinds_to_look_at, kinds_with_values
from latentbank.ingest.sources.lines import is_remote, open_remote


@contextmanager
def open_arrow(path: str, asked: Asked) -> Iterator[Table]:
    """Open an Arrow file. The values of columns are looked at only where names and types do not tell enough.

    Raises:
        CorpusError: the file is damaged, also while reading.
    """
    with open_remote(path) if is_remote(path) else nullcontext() as remote:
        try:
            with pa.PythonFile(remote, "r") if remote else pa.OSFile(path) as file:
                kinds = arrow_kinds(_reader(file).schema)
                looked_at = kinds_to_look_at(kinds, asked)
                if looked_at:
                    kinds = kinds_with_values(kinds, _head(file, looked_at))
                yield Table(kinds, lambda column: _cells(file, column))
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            if remote:
                raise  # perhaps the connection
            raise CorpusError(
                f"{path}: not an Arrow file, or truncated or damaged; make or copy it again."
            ) from None


def _reader(file: Any, columns: list[str] | None = None) -> Any:
    """Return a reader of a file or a stream from its start, of some columns or of all."""
    file.seek(0)
    options = pa.ipc.IpcReadOptions()
    if columns is not None:
        schema = _reader(file).schema
        options.included_fields = [schema.get_field_index(name) for name in columns]
        file.seek(0)
    try:
        return pa.ipc.open_stream(file, options=options)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_file(file, options=options)


def _batches(file: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    reader = _reader(file, columns)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _head(file: Any, columns: list[str]) -> dict[str, list[Any]]:
    batch = next(_batches(file, columns), None)
    return {} if batch is None else {name: batch.column(name)[:HEAD].to_pylist() for name in columns}


def _cells(file: Any, column: str) -> Iterator[str | None]:
    for batch in _batches(file, [column]):
        yield from batch.column(0).to_pylist()


FORMAT = TableFormat((".arrow",), open_arrow)
