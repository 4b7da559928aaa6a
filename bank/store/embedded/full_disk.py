"""A last sentence where another program fills a disk while the engine writes.

The engine writes through memory maps. Where a mapped page has no room on the disk, the system sends the process SIGBUS,
which ends it without a word. Room is checked before each step, but another program may take it in the meantime. So the
signal gets a handler that says what is wrong and ends the process with exit code 2; nothing that was committed is lost.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Less room than this is a full disk.
_FULL_BYTES = 32 << 20

_watched: list[Path] = []
_guard = threading.Lock()
_handler: Any = None  # kept, because the system calls it


def watch(folder: Path) -> None:
    """Have the process say so if it is ended because the disk of this folder is full; not on Windows."""
    global _handler
    with _guard:
        if folder not in _watched:
            _watched.append(folder)
        if _handler is None and os.name == "posix":
            _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_signal)
            _set(_handler)


@contextmanager
def unwatched() -> Iterator[None]:
    """Let the signal end the process at once during the block, in which the engine writes in threads of its own.

    They do not hold Python's lock, so the handler would wait for it, for ever.
    """
    if _handler is not None:
        _set(None)
    try:
        yield
    finally:
        if _handler is not None:
            _set(_handler)


def _set(handler: Any) -> None:
    """Install a handler that runs in the thread that wrote, at once; None: the system's own.

    Python's own handlers run later, in the main thread; here the write would be tried again, for ever. The engine holds
    Python's lock while it writes, in the thread that called it, so a handler in Python can run there.
    """
    with suppress(OSError, AttributeError):
        install = ctypes.CDLL(None).signal
        install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        install(int(signal.SIGBUS), None if handler is None else ctypes.cast(handler, ctypes.c_void_p))


def _on_signal(_number: int) -> None:
    for folder in _watched:
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if free < _FULL_BYTES:
                text = (
                    f"\nlatentbank: The disk of {folder} is full ({free >> 20} MiB free); make room and run the "
                    "command again, it continues where it stopped.\n"
                )
                os.write(2, text.encode("utf-8", "backslashreplace"))
                os._exit(2)
    _set(None)  # another reason: the system ends the process when it tries again
