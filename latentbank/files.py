"""Write files whole or not at all, and move them so that a power loss does not undo it."""

from __future__ import annotations

import mimetypes
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentbank.errors import LatentBankError, QueryError


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


def own_name(path: Path) -> Path:
    """Return a path beside another that no other process, thread or machine uses: hidden, with the other's name."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; after the block, its file replaces `path` in one step.

    File and folder are synced to disk. After a kill or a power loss, `path` holds the old content or the new content,
    never a part of it. After an exception in the block, `path` is unchanged.

    Raises:
        LatentBankError: the file cannot be written.
    """
    unfinished = own_name(path)
    try:
        make_folder(path.parent)
        try:
            yield unfinished
            move(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise LatentBankError(
            f"{path} cannot be written ({error.strerror or error}); check the folder and the disk."
        ) from None


def require_suffix(path: Path, suffixes: tuple[str, ...], what: str) -> None:
    """Check that a file's name does not promise another format than the one that is written.

    A suffix that stands for no format is taken: "reading 1.5" has one, and so may what a script makes of a name.

    Args:
        path: the file.
        suffixes: those of the format, such as `(".png",)`; the first is recommended.
        what: what is written and as what, such as "A reading is drawn as PNG".

    Raises:
        QueryError: it does.
    """
    if path.suffix.lower() not in suffixes and mimetypes.guess_type(f"file{path.suffix}")[0] is not None:
        raise QueryError(f"{what}; let the name of {path} end in {suffixes[0]}.")


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file whole, as `replacing` does, and return its path.

    Raises:
        LatentBankError: the file cannot be written.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)
    return path


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name, in the place of a file of that name, so that a power loss does not undo it.

    A file's content is synced first, of a folder only the names in it: its files must be on the disk already.

    Raises:
        OSError: it cannot be moved.
    """
    if source.is_dir():
        sync_folders(source)
    else:
        sync(source)
    os.replace(source, target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


def remove(path: Path) -> None:
    """Remove a file so that a power loss does not bring it back.

    Raises:
        OSError: it cannot be removed, or there is none.
    """
    path.unlink()
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and those above it, where they are missing, so that a power loss does not take them away.

    Raises:
        OSError: one cannot be created.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
    path.mkdir(exist_ok=True)  # fails if a file has that name


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk; for folders nothing happens where a system cannot do so.

    Raises:
        OSError: the file cannot be written.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    elif os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def sync_folders(path: Path) -> None:
    """Write the names in a folder, and in those below it, to the disk."""
    for folder, _, _ in os.walk(path, topdown=False):
        sync(Path(folder))
