"""This process's memory: returning what was freed, and measuring what a call takes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")


def release_memory() -> None:
    """Return freed memory to the system.

    The C library keeps memory that was freed in small pieces for later use, hundreds of MB after a layer was indexed.
    Only glibc has a call for this; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def with_peak(call: Callable[[], _Result]) -> tuple[_Result, int | None]:
    """Call a function; return its result, and by how many bytes resident memory rose above what it was before.

    The peak of a process is known, and can be forgotten, on Linux only; elsewhere the second value is None. What other
    threads take at the same time counts, too.
    """
    release_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = _status("VmRSS")
    except (OSError, LookupError, ValueError):
        return call(), None
    result = call()
    return result, max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Return an entry of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise LookupError(name)
