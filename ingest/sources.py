"""The records of one source, as they are: a file, lines of a stream, or a dataset.

Files are read here rather than by `datasets`, which cannot say which line of which file is broken,
takes the sentence "NA" for a missing one and dates for timestamps, settles on types after the
first block of a file, and decodes a parquet file's row group whole (845 MB for a file of 36 MB).
JSON documents, dataset folders and the hub go through `datasets`, streamed.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from latentbank.errors import CorpusError

if TYPE_CHECKING:
    import datasets

COLUMNS = ("text", "sentence", "caption", "content")
"""Names of a text column that are taken where several columns hold strings, best first."""
FORMATS = ".txt, .csv, .tsv, .jsonl, .ndjson (each also .gz or .zst), .json or .parquet"
"""The kinds of files, for messages."""

_LINE_FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_SECRETS = re.compile(r"\w+://\S+|\bhf_\w+")
_LONGEST_LINE = 4 << 20  # bytes; keeps a file without line ends from being read into memory whole
_HEAD = 100  # records looked at to find the text column
_BATCH = 1000  # records decoded at a time


def known_format(path: str) -> tuple[str, str | None] | None:
    """Suffix and compression ("gzip", "zstd", None) of a file; None if its kind cannot be read."""
    stem, suffix = os.path.splitext(path.lower())
    compression = _COMPRESSIONS.get(suffix)
    if compression is not None:
        suffix = os.path.splitext(stem)[1]
    if suffix in _LINE_FORMATS or (suffix in (".json", ".parquet") and compression is None):
        return suffix, compression
    return None


def read_file(path: str, column: str | None) -> Iterator[str | None]:
    """The cells of a file's text column (the lines of a .txt file) in order; None is a null.

    Args:
        path: a file of a known format.
        column: the column that holds the sentences; None: found.

    Raises:
        CorpusError: the file cannot be read, is damaged or no text, or its column is not found.
    """
    suffix, compression = known_format(path) or ("", None)
    if suffix == ".parquet":
        return _parquet_cells(path, column)
    if suffix == ".json":
        return _json_document(path, column)
    return _line_file(path, suffix, compression, column)


def read_lines(where: str, stream: BinaryIO | io.BufferedReader) -> Iterator[tuple[int, str]]:
    r"""Number (from 1) and text of each line, its \n kept; nothing else ends a line.

    Args:
        where: what the stream is, for messages.
        stream: bytes in UTF-8; a byte order mark at the start is dropped.

    Raises:
        CorpusError: a line is not UTF-8, holds a NUL or is endless, or the stream breaks off.
    """
    number = 0
    while True:
        try:
            raw = stream.readline(_LONGEST_LINE)
        except OSError:
            raise CorpusError(
                f"{where}, after line {number}: the file is truncated or damaged; make or copy it again."
            ) from None
        if not raw:
            return
        number += 1
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in raw:
            raise CorpusError(f"{where}, line {number}: it holds a NUL byte; give a text file in UTF-8.")
        if len(raw) == _LONGEST_LINE and not raw.endswith(b"\n"):
            raise CorpusError(
                f"{where}, line {number}: longer than {_LONGEST_LINE >> 20} MiB; put one sentence on a line."
            )
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError:
            raise CorpusError(
                f"{where}, line {number}: not valid UTF-8; convert the file to UTF-8 "
                "(or give a text file if this is a binary one)."
            ) from None


def read_dataset(
    source: str, column: str | None, config: str | None, split: str, revision: str | None
) -> Iterator[str | None]:
    """The cells of a dataset's text column in order; None is a null. No copy is kept in a cache.

    Args:
        source: a folder, or the id of a dataset on the hub.
        column: the column that holds the sentences; None: found.
        config: its configuration; None: the default.
        split: its split.
        revision: its revision on the hub; None: the newest.

    Raises:
        CorpusError: the dataset cannot be had or read, or its column is not found.
    """
    import datasets
    from datasets.packaged_modules.text.text import TextConfig

    with _reading(source):
        builder = datasets.load_dataset_builder(source, config, revision=revision)
    settings = builder.config
    files = (settings.data_files or {}).get(split, ())
    plain = isinstance(settings, TextConfig) and settings.sample_by == "line"
    if not (plain and files and all(map(os.path.isfile, files))):
        yield from _streamed(source, builder, split, column)
        return
    for file in files:  # a folder of text files: `datasets` would not say where the text is broken
        yield from _line_file(file, ".txt", (known_format(file) or ("", None))[1], None)


# -- files ---------------------------------------------------------------------------------------


def _line_file(path: str, suffix: str, compression: str | None, column: str | None) -> Iterator[str | None]:
    """The records of a file that is read line by line."""
    try:
        # Arrow notices a truncated zstd file, which the zstandard package's own reader does not.
        raw = pa.input_stream(path, compression=compression)
    except OSError as error:
        raise CorpusError(f"{path} cannot be opened ({error.strerror or 'unreadable'}); check it.") from None
    with io.BufferedReader(raw, 1 << 20) as stream:
        lines = read_lines(path, stream)
        if suffix in (".csv", ".tsv"):
            yield from _csv_cells(path, lines, "," if suffix == ".csv" else "\t", column)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _json_values(path, lines, column)
        else:
            for _, line in lines:
                yield line


def _csv_cells(
    path: str, lines: Iterable[tuple[int, str]], delimiter: str, column: str | None
) -> Iterator[str | None]:
    """The cells of the text column; the first row names the columns, every cell is text as it stands."""
    # strict: a stray quote is an error, where the lenient reader would swallow lines or drop the quote.
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise CorpusError(
                f"{path}, line {reader.line_num}: {error}; put quotes around cells that hold quotes, "
                "delimiters or line ends, and double the quotes in them."
            ) from None

    numbered = rows()
    header = next(numbered, (0, list[str]()))[1]
    if not header:
        return
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise CorpusError(f"{path}: its columns are not separated by {delimiter!r}; convert it.")
    head = list(islice(numbered, _HEAD))
    kinds: dict[str, bool | None] = {}
    for place, name in enumerate(header):
        cells = [row[place] for _, row in head if len(row) > place and row[place].strip()]
        # A column of numbers is not found by itself but may be named: every CSV cell is text.
        kinds[name] = None if all(map(_is_number, cells)) else True
    place = header.index(_find_column(path, kinds, column))
    for number, row in chain(head, numbered):
        if row and len(row) != len(header):
            raise CorpusError(
                f"{path}, line {number}: {len(row)} cells where the header has {len(header)}; "
                "put quotes around cells that hold the delimiter."
            )
        yield row[place] if row else None


def _json_values(path: str, lines: Iterable[tuple[int, str]], column: str | None) -> Iterator[str | None]:
    """The values of the text column of JSON lines; a missing key is a null."""
    decode = json.JSONDecoder().raw_decode

    def rows() -> Iterator[tuple[int, dict[str, object]]]:
        for number, line in lines:
            text = line.strip()
            try:
                row, end = decode(text) if text else ({}, 0)
            except (ValueError, RecursionError):
                row, end = None, 0
            if end != len(text) or not isinstance(row, dict):
                raise CorpusError(f"{path}, line {number}: not a JSON object; put one object on each line.")
            yield number, row

    numbered = rows()
    head = list(islice(numbered, _HEAD))
    kinds: dict[str, bool | None] = {}
    for _, row in head:
        for name, value in row.items():
            if value is not None:
                kinds[name] = isinstance(value, str) and kinds.get(name) is not False
            else:
                kinds.setdefault(name)
    if not kinds:
        return
    chosen = _find_column(path, kinds, column)
    for number, row in chain(head, numbered):
        value = row.get(chosen)
        if value is not None and not isinstance(value, str):
            what = type(value).__name__
            raise CorpusError(f"{path}, line {number}: column {chosen!r} holds {what}, not text; convert it.")
        yield value


def _parquet_cells(path: str, column: str | None) -> Iterator[str | None]:
    """The cells of the text column of a parquet file."""
    import pyarrow.parquet as pq

    try:
        # No pre-buffering, and pages through a small buffer: memory does not grow with the row groups.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            kinds: dict[str, bool | None] = {
                entry.name: _is_arrow_text(entry.type) for entry in file.schema_arrow
            }
            chosen = _find_column(path, kinds, column)
            for batch in file.iter_batches(_BATCH, columns=[chosen]):
                yield from batch.column(0).to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        raise CorpusError(
            f"{path}: not a parquet file, or truncated or damaged; make or copy it again."
        ) from None


def _json_document(path: str, column: str | None) -> Iterator[str | None]:
    """The text column of a .json file: a list of objects or strings, or JSON lines after all."""
    if os.path.getsize(path) == 0:
        return  # `datasets` stops with an error that says nothing
    import datasets

    with _reading(path):
        # `datasets` takes file names for globs.
        builder = datasets.load_dataset_builder("json", data_files=glob.escape(os.path.abspath(path)))
    yield from _streamed(path, builder, "train", column)


# -- datasets ------------------------------------------------------------------------------------


def _streamed(
    where: str, builder: datasets.DatasetBuilder, split: str, column: str | None
) -> Iterator[str | None]:
    """The text column of a dataset, streamed without its other columns."""
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    settings = builder.config
    if isinstance(settings, CsvConfig):
        settings.keep_default_na = False  # the sentence "NA" is text
    if isinstance(settings, ParquetConfig):
        settings.batch_size = _BATCH  # the default is a row group, which may be the whole file
    with _reading(where):
        stream = builder.as_streaming_dataset(split=split)
        features = stream.features
        if features is None:  # known only from the first records
            first = next(iter(stream.with_format("arrow").iter(batch_size=1)), None)
            features = None if first is None else datasets.Features.from_arrow_schema(first.schema)
    if features is None:
        return
    chosen = _find_column(where, {name: _is_text(feature) for name, feature in features.items()}, column)
    with _reading(where):
        if isinstance(settings, ParquetConfig):
            settings.columns = [chosen]  # do not fetch the images that lie beside the captions
            stream = builder.as_streaming_dataset(split=split)
        elif isinstance(settings, CsvConfig):
            # Else pandas guesses the types anew for every block of the file.
            settings.features = datasets.Features({name: datasets.Value("string") for name in features})
            stream = builder.as_streaming_dataset(split=split)
        tables = iter(stream.select_columns([chosen]).with_format("arrow").iter(batch_size=_BATCH))
    while True:
        with _reading(where):
            table = next(tables, None)
            cells = None if table is None else table.column(chosen).to_pylist()
        if cells is None:
            return
        yield from cells


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what `datasets` and its libraries raise into one sentence, and keep their log lines back."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
        # Two lines: `datasets` lists the configurations to choose from on the second.
        reason = _SECRETS.sub("...", ": ".join(lines[:2]))[:400] or type(error).__name__
        if isinstance(error, OSError) and not os.path.exists(where):
            raise CorpusError(
                f"{where} is no file here, nor a dataset the hub gives out ({reason}); "
                "check its name, your access and the connection."
            ) from None
        raise CorpusError(f"{where}: Hugging Face datasets cannot read it ({reason}); check it.") from None
    finally:
        logger.setLevel(level)


# -- columns -------------------------------------------------------------------------------------


def _find_column(where: str, kinds: dict[str, bool | None], column: str | None) -> str:
    """The text column among those of `kinds` (True: text, False: not text, None: perhaps)."""
    listed = ", ".join(kinds) or "none"
    if column is not None:
        if column not in kinds:
            raise CorpusError(f"{where} has no column {column!r}; choose one of these: {listed}.")
        if kinds[column] is False:
            raise CorpusError(f"{where}: column {column!r} is not text; choose one of these: {listed}.")
        return column
    texts = [name for name, kind in kinds.items() if kind]
    if len(texts) == 1:
        return texts[0]
    for name in COLUMNS:
        if kinds.get(name, False) is not False:
            return name
    if len(kinds) == 1 and None in kinds.values():
        return next(iter(kinds))
    if False in kinds.values() and len(set(kinds.values())) == 1:
        raise CorpusError(f"{where}: none of its columns holds text ({listed}); convert it.")
    raise CorpusError(f"{where}: cannot tell which column holds the sentences; name one of these: {listed}.")


def _is_text(feature: object) -> bool:
    """Whether a column of a dataset holds strings."""
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")


def _is_arrow_text(kind: pa.DataType) -> bool:
    """Whether an Arrow column holds strings, perhaps as a dictionary (pandas' categories)."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(kind in (pa.string(), pa.large_string(), pa.string_view()))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
