"""Standard streams and arguments as a command finds them: in any encoding, full, or closed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from latentbank.errors import LatentBankError
from latentbank.text import is_unicode


class OutputError(LatentBankError):
    """Standard output cannot be written."""


class ReaderEnded(OutputError):
    """The program that reads standard output has ended, as `head` does. That is no error of the command."""


class _Output:
    """A standard stream that raises OutputError where it cannot be written; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with suppress(AttributeError):
            # A character that the encoding lacks is written as an escape.
            cast(Any, stream).reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text."""
        with _plain_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with _plain_errors():
            self._stream.flush()


class _Log(_Output):
    """Standard error: what cannot be written there is lost, and ends no job."""

    def write(self, text: str) -> int:
        """Write text where that is possible."""
        with suppress(OutputError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered where that is possible."""
        with suppress(OutputError):
            super().flush()


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard the standard streams while a command runs, and write all of its output before the block ends.

    A stream that is closed is opened on the null device: otherwise a file that the command opens takes its place.

    Raises:
        ReaderEnded: the reader of standard output has ended.
        OutputError: standard output is closed, or its disk is full.
    """
    given = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = given[0] or _nothing(0, "r")
    sys.stdout = cast(TextIO, _Output(given[1] or _nothing(1, "w")))
    sys.stderr = cast(TextIO, _Log(given[2] or _nothing(2, "w")))
    try:
        if given[1] is None:
            raise OutputError("Standard output is closed; let it go to a file, or to /dev/null.")
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError:
        _discard(sys.stdout)
        raise
    finally:
        sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = given


def complain(text: str) -> None:
    """Print an error or a remark on one line of standard error, where that is possible."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print("latentbank:", *text.splitlines(), file=sys.stderr, flush=True)


def check_arguments(words: Sequence[str]) -> None:
    """Check that arguments are text; a path to what exists may have any bytes.

    Raises:
        LatentBankError: one is not; the message shows it with escapes.
    """
    for word in words:
        if not is_unicode(word) and not os.path.exists(word):
            raise LatentBankError(
                f"The argument {word!a} is no text in {sys.getfilesystemencoding()}; check the encoding of the "
                "terminal or script (LC_ALL)."
            )


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderEnded("The reader of standard output has ended.") from None
    except (OSError, ValueError) as error:  # ValueError: it was closed
        why = getattr(error, "strerror", None) or "it is closed"
        raise OutputError(f"Standard output cannot be written ({why}); the rest of it is lost.") from None


def _nothing(number: int, mode: str) -> TextIO:
    """Return a file on the null device, which has the stream's own number if that is free."""
    with suppress(OSError):
        os.fstat(number)
        return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))
    file = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    if file != number:
        os.dup2(file, number)
        os.close(file)
    return cast(TextIO, open(number, mode, encoding="utf-8"))


def _discard(stream: TextIO) -> None:
    """Send what is still buffered nowhere: Python would try to write it at its end, and fail again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
