"""This process's memory: returning what was freed, and measuring what a call takes."""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")

# Objects that Python makes between two looks for dead cycles among the newest; its own number is 700.
_NEW_OBJECTS = 50_000


def release_memory() -> None:
    """Return freed memory to the system.

    The C library keeps memory that was freed in small pieces for later use, hundreds of MB after a layer was indexed.
    Only glibc has a call for this; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def collect_rarely() -> None:
    """Let Python look for dead cycles of objects less often from now on, and not once more when the process ends.

    Importing torch and transformers makes some 600,000 objects, all of which stay. Looking through them again and again
    takes a third of the time of that import, and as much as a sixth of it again at the end of the process
    (benchmarks/start_up.py). For programs of our own: a library leaves this to the program that uses it.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


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
