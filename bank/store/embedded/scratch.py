"""Scratch folders: a layer that can be loaded although its own folder cannot be written to.

The engine writes while it loads and searches: it opens payloads, the payload indexes of new points, the flags of
deleted points and vectors that are not indexed yet for writing. These files are copied. Indexed vectors, their codes
and graphs, and the payload indexes of indexed points are only read, and links to them are enough.

A scratch folder is removed when its layer is closed. Its lock tells whether its process still lives: what a killed one
left is removed the next time a scratch folder is needed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

import portalocker

from latentbank.errors import BankUnavailable

# Kept free on the disk. The engine writes through memory maps, and the system kills a process that touches a mapped
# page for which no disk is left, so we stop before that. Loading a layer writes too: 56 MiB the first time after it was
# indexed, when the engine adds a segment for new points.
RESERVE_BYTES = 64 << 20
# Files that the engine (0.9.0) opens only for reading. Any other file is copied.
_LINKED = frozenset(
    {
        "matrix.dat",
        "quantized.data",
        "graph.bin",
        "links.bin",
        "links_compressed.bin",
        "id_tracker.mappings",
        "point_to_values.bin",
        "values_to_points.bin",
        "data.bin",
        "postings.dat",
        "vocab.dat",
        "point_to_tokens_count.dat",
    }
)
_PREFIX = "latentbank-scratch-"
_LOCK = "lock"
# Bytes copied at once; where all of them are zero, the copy has a hole.
_BLOCK = 1 << 16
# What a lock says once it was held. One that says nothing may be held in a moment.
_HELD = b"held"
# Seconds after which a scratch folder whose lock was never held was left by a killed process, not made a moment ago.
_OLD = 60.0


class ScratchLayer:
    """A layer's folder, linked and copied to a scratch folder.

    Attributes:
        path: the folder to load the layer from.
    """

    def __init__(self, source: Path, bank: str) -> None:
        """Link and copy a layer's folder.

        Raises:
            BankUnavailable: no folder for temporary files has room for the copies.
            OSError: a file cannot be read or written.
        """
        remove_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_root(_bytes_to_copy(source), bank)))
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            self._lock = (folder / _LOCK).open("wb", buffering=0)
            portalocker.lock(self._lock, portalocker.LockFlags.EXCLUSIVE)  # others hold it only to try it
            self._lock.write(_HELD)
            self.path = folder / source.name
            _fill(source, self.path)
        except BaseException:
            self._remove()
            raise

    def remove(self) -> None:
        """Remove the folder; the layer must be closed."""
        self._remove()
        self._lock.close()


def remove_abandoned() -> None:
    """Remove the scratch folders of processes that were killed."""
    for root in _roots():
        with suppress(OSError):
            for folder in root.glob(f"{_PREFIX}*"):
                with suppress(OSError):
                    if _is_abandoned(folder):
                        shutil.rmtree(folder, ignore_errors=True)


def may_use(path: Path, mode: int) -> bool:
    """Return whether this process may use a file or folder, as `os.access` says for its effective user."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _is_abandoned(folder: Path) -> bool:
    try:
        lock: IO[bytes] = (folder / _LOCK).open("rb", buffering=0)
    except FileNotFoundError:
        return _is_old(folder)
    with lock:
        try:
            portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.LockException:
            return False
        was_held = lock.read() == _HELD
        portalocker.unlock(lock)
    return was_held or _is_old(folder)


def _is_old(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime > _OLD


def _roots() -> list[Path]:
    """Return the folders for temporary files: the one that TMPDIR names or the system has, then others on Linux."""
    folders = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir() and may_use(folder, os.W_OK)]


def _root(needed: int, bank: str) -> Path:
    roots = _roots()
    for root in roots:
        if shutil.disk_usage(root).free >= needed + RESERVE_BYTES:
            return root
    tried = ", ".join(map(str, roots)) or tempfile.gettempdir()
    raise BankUnavailable(
        f"The bank '{bank}' is on a disk that cannot be written or is full, and reading it takes "
        f"{(needed + RESERVE_BYTES) >> 20} MiB elsewhere, which {tried} does not have; make room, or set TMPDIR to a "
        "folder with room."
    )


def _bytes_to_copy(source: Path) -> int:
    found = 0
    for folder, _, files in os.walk(source):
        for file in files:
            if file not in _LINKED:
                state = os.stat(os.path.join(folder, file))
                found += (
                    min(state.st_size, state.st_blocks * 512)
                    if hasattr(state, "st_blocks")
                    else state.st_size
                )
    return found


def _fill(source: Path, target: Path) -> None:
    for name, _, files in os.walk(source):
        folder = target / Path(name).relative_to(source)
        folder.mkdir()
        for file in files:
            original = Path(name, file)
            if file not in _LINKED or not _link(original, folder / file):
                _copy(original, folder / file)


def _link(original: Path, link: Path) -> bool:
    try:
        link.symlink_to(original.resolve())
    except OSError:  # Windows permits it to few users
        return False
    return True


def _copy(original: Path, copy: Path) -> None:
    """Copy a file; the engine's files are mostly zeros, which take no room in the copy."""
    nothing = bytes(_BLOCK)
    with original.open("rb", buffering=0) as source, copy.open("wb", buffering=0) as target:
        while block := source.read(_BLOCK):
            if block == nothing:
                target.seek(_BLOCK, os.SEEK_CUR)
            else:
                target.write(block)
        target.truncate(original.stat().st_size)
