"""This process's memory: returning or keeping what was freed, and measuring what a call takes."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")

# Objects that Python makes between two looks for dead cycles among the newest; its own number is 700.
_NEW_OBJECTS = 50_000
# Bytes of freed memory that glibc keeps for later: by `keep_memory`, and at most by its own choice.
_KEPT, _USUALLY_KEPT = 256 << 20, 64 << 20
# Bytes from which it takes a block from the system alone and returns it alone; it allows no larger number.
_ALONE_FROM = 32 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_always_kept = False


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


def keep_memory() -> None:
    """Keep up to 256 MB of freed memory for what is computed next, from now on.

    Each block of a forward pass takes and frees tens of MB. By default they go back to the system, which clears them
    page by page when they are taken again: a tenth to a sixth of the time of a small VLM's forward passes
    (benchmarks/kept_memory.py; Intel Xeon, 2 cores, 2026-11-29). Only glibc has a call for this, and whoever sets its
    MALLOC_TRIM_THRESHOLD_ has chosen otherwise. For programs of our own; jobs in other programs use `memory_kept`.
    """
    global _always_kept
    _always_kept = True
    _keep(_KEPT)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory as `keep_memory` does while the block runs, then return it to the system."""
    if _always_kept:
        yield
        return
    _keep(_KEPT)
    try:
        yield
    finally:
        _keep(_USUALLY_KEPT)
        release_memory()


def _keep(most: int) -> None:
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        with suppress(OSError, AttributeError):  # another C library
            library = ctypes.CDLL("libc.so.6")
            library.mallopt(_M_MMAP_THRESHOLD, _ALONE_FROM)
            library.mallopt(_M_TRIM_THRESHOLD, most)


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
