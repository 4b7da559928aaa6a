"""Where files lie that the engine syncs many times a second."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def quick_folder() -> Path | None:
    """Return a folder in memory with enough room, or None if there is none."""
    shared = Path("/dev/shm")
    usable = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 << 30
    return shared if usable else None
