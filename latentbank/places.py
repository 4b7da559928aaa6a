"""Where this machine keeps banks, and what it remembers beside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_data_dir() -> Path:
    """Return the folder for embedded banks: the platform's folder for a program's data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "latentbank"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "latentbank"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "latentbank"


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of embedded banks: the one given, that of `LATENTBANK_DATA_DIR`, or the platform's."""
    from dotenv import dotenv_values

    name = "LATENTBANK_DATA_DIR"
    if given is None:
        try:
            given = os.environ.get(name) or dotenv_values(".env").get(name)
        except (OSError, UnicodeDecodeError):  # the settings of banks say what is wrong with the file
            given = None
    return Path(given).expanduser() if given else default_data_dir()
