"""Memory that was freed and that the system should have back."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Return freed memory to the system.

    The C library keeps what was freed in small pieces for later, after indexing a layer hundreds of MB. Only glibc
    has a call for this; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
