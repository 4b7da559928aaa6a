"""What may be wrong with embedded banks: each look at one thing, for `Backend.checks`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from latentbank.bank.check import Check, looked
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Machine
from latentbank.bank.store.embedded.scratch import RESERVE_BYTES
from latentbank.bank.store.embedded.store import EmbeddedStore
from latentbank.errors import BankBusy, BankUnavailable

_ENGINE = "qdrant-edge-py"


def folder_checks(settings: Settings, bank: str | None) -> Iterator[Check]:
    """Yield what is seen of the folder of embedded banks, and of one of them by its stored name."""
    yield from looked("engine", _engine)
    yield from looked("folder", partial(_folder, settings.data_dir))
    yield from looked("disk", partial(_disk, settings.data_dir))
    if bank is not None:
        yield from looked("lock", partial(_lock, settings, bank))


def this_machine(folder: Path) -> Machine:
    """Return the memory that programs can still have on this machine, and the free room on a folder's disk."""
    return Machine(_free_memory(), shutil.disk_usage(_existing(folder)).free)


def _engine() -> Check:
    import qdrant_edge  # noqa: F401 (whether it can be loaded here)

    return Check("engine", "ok", f"{_ENGINE} {importlib.metadata.version(_ENGINE)}")


def _folder(folder: Path) -> Check:
    there = _existing(folder)
    if not os.access(there, os.R_OK | os.X_OK):
        return Check(
            "folder", "wrong", f"{folder} cannot be read", "Correct its rights, or LATENTBANK_DATA_DIR."
        )
    if not os.access(there, os.W_OK):
        return Check(
            "folder",
            "warning",
            f"{folder} can only be read",
            "Make it writable to fill banks, or set LATENTBANK_DATA_DIR to a folder that is.",
        )
    return Check("folder", "ok", str(folder) if folder.is_dir() else f"{folder}, which the first bank makes")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(_existing(folder)).free
    seen = f"{free / 1e9:,.1f} GB free"
    if free < RESERVE_BYTES:
        return Check("disk", "wrong", seen, "Make room: nothing can be added to a bank.")
    return Check("disk", "ok", seen)


def _lock(settings: Settings, bank: str) -> Check:
    """Open the bank for a moment, as a command does."""
    try:
        EmbeddedStore(bank, settings).close()
    except BankBusy as error:
        return Check("lock", "warning", str(error), "Close the bank there before a command here uses it.")
    except BankUnavailable as error:
        return Check("lock", "wrong", str(error))
    return Check("lock", "ok", "no other process has the bank open")


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _free_memory() -> int | None:
    """Return the bytes of memory that are free or only cache files (Linux); elsewhere all of it, if known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
