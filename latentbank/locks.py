"""Locks on files, so that one process or thread at a time does what others would disturb.

The system releases a lock when its holder ends, however it ends. Locks also hold between machines that share a file
system with locks (NFS from version 4 on, Lustre and CephFS mounted with them). On a file system without locks nothing
is held: what a lock protects must stay sound without it, only work may be done twice.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from latentbank.errors import LatentBankError
from latentbank.files import make_folder

log = logging.getLogger("latentbank")

# Seconds between two attempts, and before the message about waiting.
_PAUSE, _QUIET = 0.1, 0.5


class Locked(LatentBankError):
    """Another process, or another thread of this one, holds a lock."""


@contextmanager
def locked(path: Path, doing: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock that a file stands for during the block; the file is removed after it.

    Args:
        path: the lock file; its folder must exist.
        doing: what the holder does, such as "plans the corpus 'c'", for messages.
        wait: wait for another holder, and say so.

    Yields:
        Whether the lock is held; not so on a file system without locks.

    Raises:
        Locked: another holds it, and `wait` is not set.
        OSError: the file cannot be written.
    """
    file, held = _acquire(path, doing, wait=wait)
    try:
        yield held
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock is released: who opens the file later waits, or finds that it is gone
        _release(file)


@contextmanager
def alone_in(folder: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Let no other job that asks for it write to a folder during the block; the folder is made if it is missing.

    Args:
        folder: the folder.
        doing: what is done, such as "trains in runs/1", for messages.
        wait: wait for another job.

    Raises:
        Locked: another job has the folder, and `wait` is not set.
        LatentBankError: the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            make_folder(folder)
            stack.enter_context(locked(folder / ".lock", doing, wait=wait))
        except OSError as error:
            raise LatentBankError(
                f"The folder {folder} cannot be written ({error.strerror or error}); check it and the disk."
            ) from None
        yield


def hold_shared(path: Path) -> IO[bytes] | None:
    """Open a file that others must not remove, and keep it so until it is closed; None if it cannot be opened.

    See `is_free`, which tells others. On a file system without locks the file is open, but not held.
    """
    import portalocker

    try:
        file: IO[bytes] = path.open("rb", buffering=0)
    except OSError:
        return None
    with suppress(portalocker.LockException):
        portalocker.lock(file, portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
    return file


def is_free(path: Path) -> bool:
    """Return whether nobody holds a file with `hold_shared`; False where that cannot be known."""
    try:
        with path.open("r+b", buffering=0) as file:
            return _try(file) is True
    except OSError:
        return False


def _acquire(path: Path, doing: str, *, wait: bool) -> tuple[IO[bytes], bool]:
    started, told = time.monotonic(), False
    while True:
        file: IO[bytes] = path.open("a+b", buffering=0)
        try:
            held = _try(file)
            if held and not _is_still(file, path):  # its last holder has removed it
                _release(file)
                continue
            if held is not False:
                if held:
                    with suppress(OSError):  # on a full disk the message of others lacks the holder
                        file.truncate(0)
                        file.write(f"{os.getpid()} {socket.gethostname()}".encode())
                return file, held is True
            holder = _holder(file)
        except BaseException:
            file.close()
            raise
        file.close()
        if not wait:
            raise Locked(f"{holder} {doing}; wait for it to end, or end it.")
        if not told and time.monotonic() - started >= _QUIET:
            log.warning("%s %s; waiting for it.", holder, doing)
            told = True
        time.sleep(_PAUSE)


def _try(file: IO[bytes]) -> bool | None:
    """Try to lock a file: True, or False if another holds it; None on a file system without locks."""
    import portalocker

    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException:
        return None
    return True


def _release(file: IO[bytes]) -> None:
    import portalocker

    with suppress(portalocker.LockException):
        portalocker.unlock(file)  # closing is not enough where a child process has inherited the file
    file.close()


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _holder(file: IO[bytes]) -> str:
    """Return who holds a lock, such as "Another process (pid 4711 on gpu-3)"."""
    file.seek(0)
    pid, _, host = file.read().decode(errors="replace").partition(" ")
    here = host == socket.gethostname()
    if here and pid == str(os.getpid()):
        return "Another thread of this process"
    return (
        f"Another process (pid {pid}{'' if here else f' on {host}'})" if pid.isdigit() else "Another process"
    )
