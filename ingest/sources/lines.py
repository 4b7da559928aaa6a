"""Files that are read line by line, compressed or not, here, on standard input or on the hub."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, cast

import pyarrow as pa

from latentbank.errors import CorpusError

LONGEST_LINE = 4 << 20
"""Bytes; keeps a file without line ends from being read into memory whole."""
STANDARD_INPUT = "-"
"""The path that means standard input."""

_POINTER = b"version https://git-lfs.github.com/spec/"
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def compression_of(path: str) -> str | None:
    """Return the compression of a file by its name: "gzip", "zstd" or None."""
    return _COMPRESSIONS.get(os.path.splitext(path.lower())[1])


def is_remote(path: str) -> bool:
    """Return whether a path is an address that fsspec opens, such as a file of a hub dataset."""
    return "://" in path


def where_of(path: str) -> str:
    """Return what messages call a path."""
    return "standard input" if path == STANDARD_INPUT else path


@contextmanager
def open_remote(path: str) -> Iterator[BinaryIO]:
    """Open a file on the hub, as it is. Errors are those of fsspec and the hub's library."""
    import fsspec

    with fsspec.open(path, "rb") as file:
        yield cast("BinaryIO", file)


@contextmanager
def open_bytes(path: str) -> Iterator[io.BufferedReader]:
    """Open a file, compressed or not, or standard input, and give its bytes.

    Raises:
        CorpusError: the file cannot be opened.
    """
    if path == STANDARD_INPUT:
        yield cast("io.BufferedReader", sys.stdin.buffer)
        return
    with ExitStack() as stack:
        file = pa.PythonFile(stack.enter_context(open_remote(path)), "r") if is_remote(path) else path
        try:
            # Arrow notices a truncated zstd file, which the zstandard package's own reader does not.
            raw = pa.input_stream(file, compression=compression_of(path))
        except OSError as error:
            if is_remote(path):
                raise
            raise CorpusError(
                f"{path} cannot be opened ({error.strerror or 'unreadable'}); check it."
            ) from None
        yield stack.enter_context(io.BufferedReader(raw, 1 << 20))


def refuse_pointer(path: str) -> None:
    """Check that a file here is not the pointer that Git keeps in place of a large file.

    Raises:
        CorpusError: it is one.
    """
    if path == STANDARD_INPUT or is_remote(path):
        return
    with suppress(OSError), open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CorpusError(
                f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`."
            )


@contextmanager
def open_lines(path: str) -> Iterator[Iterator[tuple[int, str]]]:
    """Open a file, compressed or not, or standard input ("-"), and give its numbered lines as `read_lines` does.

    Raises:
        CorpusError: the file cannot be opened; while reading, see `read_lines`.
    """
    with open_bytes(path) as stream:
        yield read_lines(where_of(path), stream)


def read_lines(
    where: str, stream: BinaryIO | io.BufferedReader, begun: Sequence[bytes] = ()
) -> Iterator[tuple[int, str]]:
    r"""Yield number (from 1) and text of each line.

    Only \n ends a line, and it stays part of it. In a file without any \n, \r does.

    Args:
        where: what the stream is, for messages.
        stream: bytes in UTF-8; a byte order mark at the start is dropped.
        begun: the lines that were read of the stream before.

    Raises:
        CorpusError: a line is not UTF-8, holds a NUL or is longer than 4 MiB, or the stream breaks off.
    """
    number = 0
    while True:
        raw = begun[number] if number < len(begun) else next_line(where, stream, number)
        if not raw:
            return
        number += 1
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if b"\r" in raw and not raw.endswith(b"\n"):
                yield from _ended_by_returns(where, stream, raw)
                return
        yield number, decoded(where, number, raw)


def next_line(where: str, stream: BinaryIO | io.BufferedReader, number: int) -> bytes:
    """Return the bytes of the next line, or as much of it as a line may have; b"" at the end.

    Raises:
        CorpusError: the stream breaks off; the message names line `number` as the last one read.
    """
    try:
        return stream.readline(LONGEST_LINE)
    except OSError:
        if is_remote(where):
            raise  # the connection, not the file
        raise damaged(where, f"after line {number}") from None


def damaged(where: str, place: str) -> CorpusError:
    """Return the error for a file that breaks off."""
    return CorpusError(f"{where}, {place}: the file is truncated or damaged; make or copy it again.")


def decoded(where: str, number: int, raw: bytes) -> str:
    """Return the text of a line.

    Raises:
        CorpusError: it is not UTF-8, holds a NUL or is too long.
    """
    if b"\0" in raw:
        raise CorpusError(f"{where}, line {number}: it holds a NUL byte; give a text file in UTF-8.")
    if len(raw) >= LONGEST_LINE and not raw.endswith((b"\n", b"\r")):
        raise CorpusError(
            f"{where}, line {number}: longer than {LONGEST_LINE >> 20} MiB; put one sentence on a line."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CorpusError(
            f"{where}, line {number}: not valid UTF-8; convert the file to UTF-8 "
            "(or give a text file if this is a binary one)."
        ) from None


def _ended_by_returns(
    where: str, stream: BinaryIO | io.BufferedReader, raw: bytes
) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a file whose first bytes hold no \n but a \r."""
    number = 0
    while raw:
        *lines, rest = raw.split(b"\r")
        for line in lines:
            number += 1
            yield number, decoded(where, number, line + b"\r")
        more = next_line(where, stream, number)
        if b"\n" in more:
            raise CorpusError(
                f"{where}, line 1: longer than {LONGEST_LINE >> 20} MiB; put one sentence on a line."
            )
        if not more and rest:
            number += 1
            yield number, decoded(where, number, rest)
        raw = more and rest + more
        if len(rest) >= LONGEST_LINE:
            decoded(where, number + 1, rest)
