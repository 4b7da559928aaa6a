"""Files that are read line by line, compressed or not."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from latentbank.errors import CorpusError

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
# Bytes; keeps a file without line ends from being read into memory whole.
_LONGEST_LINE = 4 << 20


def compression_of(path: str) -> str | None:
    """Return the compression of a file by its name: "gzip", "zstd" or None."""
    return _COMPRESSIONS.get(os.path.splitext(path.lower())[1])


@contextmanager
def open_lines(path: str) -> Iterator[Iterator[tuple[int, str]]]:
    """Open a file, compressed or not, and give its numbered lines as `read_lines` does.

    Raises:
        CorpusError: the file cannot be opened; while reading, see `read_lines`.
    """
    try:
        # Arrow notices a truncated zstd file, which the zstandard package's own reader does not.
        raw = pa.input_stream(path, compression=compression_of(path))
    except OSError as error:
        raise CorpusError(f"{path} cannot be opened ({error.strerror or 'unreadable'}); check it.") from None
    with io.BufferedReader(raw, 1 << 20) as stream:
        yield read_lines(path, stream)


def read_lines(where: str, stream: BinaryIO | io.BufferedReader) -> Iterator[tuple[int, str]]:
    r"""Yield number (from 1) and text of each line. Only \n ends a line, and it stays part of it.

    Args:
        where: what the stream is, for messages.
        stream: bytes in UTF-8; a byte order mark at the start is dropped.

    Raises:
        CorpusError: a line is not UTF-8, holds a NUL or is longer than 4 MiB, or the stream breaks off.
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
