"""Write files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentbank.errors import LatentBankError


def existing(name: str) -> Path | None:
    """Return the absolute path of the file or folder that a name means; None if there is none, or it cannot be one."""
    if not name.strip():
        return None
    try:
        path = Path(name).expanduser()
        return path.resolve() if path.exists() else None
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # a name that is too long, an unknown user's home, a null character
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; after the block, its file replaces `path` in one step.

    The file is synced to disk first. After a kill, `path` holds the old content or the new content, never a part of it.
    After an exception in the block, `path` is unchanged.

    Raises:
        LatentBankError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise LatentBankError(
            f"{path} cannot be written ({error.strerror or error}); check the folder and the disk."
        ) from None


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file whole, as `replacing` does, and return its path.

    Raises:
        LatentBankError: the file cannot be written.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)
    return path
