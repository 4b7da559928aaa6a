"""Freed memory, returned to the system."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def release_memory() -> None:
    """Return freed memory to the system.

    The C library keeps memory that was freed in small pieces for later use, hundreds of MB after a layer was indexed.
    Only glibc has a call for this; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
