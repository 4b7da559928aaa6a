"""The lock of an embedded bank, which one process at a time may have open, or many that may only read it.

The lock belongs to the job that opened the bank. Processes that the job starts to index a layer or to write to it (see
`optimizing` and `writers`) inherit it, so that no process opens the bank while they still write, even if the job was
killed. The lock file names the holders:

    4711                    the job
    4711 indexing           it is about to start a process that indexes a layer, or has processes that write to layers
    4711 indexing 4712      a process that indexes, which has added its own number

Holders only append to the line or cut it off, so that a reader never finds a mixture.

Processes that may not write to the bank's folder share the lock, where the file system lets them, and leave the line as
it is: none of them meets a writer, and no writer meets them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import portalocker

from latentbank.errors import BankBusy, BankUnavailable

log = logging.getLogger("latentbank")

# Seconds between two attempts while an orphaned indexing process ends, and before the first message about it.
_PAUSE, _QUIET = 0.02, 2.0
# Seconds after which such a process is no longer expected to end by itself. It was killed with its job on Linux, but on
# a loaded machine may take long to be gone; elsewhere it finishes its layer first.
_LONGEST_WAIT = 600.0
_INDEXING = " indexing"

LOCK = "lock"
"""The name of the lock file in a bank's folder."""


class BankLock:
    """The lock on an embedded bank's folder, held until `release`."""

    def __init__(self, path: Path, bank: str) -> None:
        """Take the lock, waiting for a process that still indexes the bank for a job that has ended.

        Raises:
            BankUnavailable: the lock file cannot be opened.
            BankBusy: another process, or this one, has the bank open; the message names it.
        """
        try:
            self._file: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as error:
            raise BankUnavailable(f"The bank's lock {path} cannot be opened: {error.strerror}.") from None
        try:
            _take(self._file, bank, portalocker.LockFlags.EXCLUSIVE)
        except BaseException:
            self._file.close()
            raise
        self._name = str(os.getpid()).encode()
        self._lent = 0
        self._guard = threading.Lock()
        with suppress(OSError):  # on a full disk the holder's number is missing, but the lock is held
            self._file.truncate(0)
            self._file.write(self._name)

    @contextmanager
    def lend(self) -> Iterator[int]:
        """Provide the descriptor that another process must inherit; it ends before the block does."""
        self._note(1)
        try:
            yield self._file.fileno()
        finally:
            self._note(-1)

    def _note(self, change: int) -> None:
        """Count the processes that have the lock, and write down whether there are any."""
        with self._guard, suppress(OSError):
            before, self._lent = self._lent, self._lent + change
            if change < 0:  # the other process's own number goes, too
                self._file.truncate(len(self._name) + (len(_INDEXING) if self._lent else 0))
            elif before == 0:
                self._file.write(_INDEXING.encode())

    def release(self) -> None:
        """Release the lock, and take this process's name off it."""
        with suppress(OSError):
            self._file.truncate(0)
        portalocker.unlock(self._file)
        self._file.close()


class ReadLock:
    """A reader's share of the lock on an embedded bank's folder that it may not write to, held until `release`."""

    def __init__(self, path: Path, bank: str) -> None:
        """Share the lock, waiting for a process that still indexes the bank for a job that has ended.

        Without a lock file, or on a file system without locks, nothing is held.

        Raises:
            BankBusy: another process has the bank open for writing; the message names it.
        """
        self._file: IO[bytes] | None = None
        with suppress(OSError):
            self._file = path.open("rb", buffering=0)
        if self._file is None:
            return
        try:
            _take(self._file, bank, portalocker.LockFlags.SHARED)
        except BaseException:
            self._file.close()
            raise

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()


def record_indexer(descriptor: int) -> None:
    """Add this process, which has inherited a bank's lock in order to index a layer, to the lock's holders."""
    with suppress(OSError):
        os.write(descriptor, f" {os.getpid()}".encode())


@dataclass(frozen=True)
class _Holders:
    """What a lock file says about its holders: the job, and the processes that index for it."""

    job: int | None = None
    indexing: bool = False
    indexers: tuple[int, ...] = ()

    @classmethod
    def read(cls, file: IO[bytes]) -> _Holders:
        file.seek(0)
        job, *rest = file.read().decode(errors="replace").split() or [""]
        return cls(
            int(job) if job.isdigit() else None,
            bool(rest),
            tuple(int(one) for one in rest[1:] if one.isdigit()),
        )

    def orphaned(self) -> bool:
        """Return whether an indexing process still holds the lock although its job has ended."""
        if not self.indexing or self.job is None or not _has_ended(self.job):
            return False
        return not self.indexers or any(map(_exists, self.indexers))  # without: it has only just been started

    def describe(self) -> str:
        """Return who holds the lock, as the end of the sentence "the bank is …"."""
        if self.job == os.getpid():
            return "open in this process already; close it there"
        if self.orphaned():
            running = next(filter(_exists, self.indexers), "?")
            return (
                f"still being indexed by a process (pid {running}) whose job (pid {self.job}) has ended; "
                "wait for that process to end, end it"
            )
        if self.job is None or _exists(self.job):
            return f"open in another process (pid {self.job or '?'}); close it there"
        return (
            f"still held by a process that the job which opened it (pid {self.job}, ended) has started, or by one that "
            "may only read it; end that process"
        )


def _take(file: IO[bytes], bank: str, kind: portalocker.LockFlags) -> None:
    """Lock a file, waiting while an orphaned indexing process holds it."""
    started, announced = time.monotonic(), False
    while not _try_lock(file, kind):
        holders, waited = _Holders.read(file), time.monotonic() - started
        if waited < _LONGEST_WAIT and holders.orphaned():
            if waited >= _QUIET and not announced:
                log.warning("The bank '%s' is %s.", bank, holders.describe().partition(";")[0])
                announced = True
            time.sleep(_PAUSE)
        elif _try_lock(file, kind):  # it has ended since the last attempt
            return
        else:
            raise BankBusy(
                f"The embedded bank '{bank}' is {holders.describe()}, or share the bank through a Qdrant server."
            )


def _try_lock(file: IO[bytes], kind: portalocker.LockFlags) -> bool:
    try:
        portalocker.lock(file, kind | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException:
        return kind is portalocker.LockFlags.SHARED  # a file system without locks: only a writer needs one
    return True


def _exists(pid: int) -> bool:
    """Return whether there is a process with this number; True where that cannot be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _has_ended(pid: int) -> bool:
    """Return whether a process is gone, or has ended and was not waited for by its parent yet (Linux)."""
    if not _exists(pid):
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] == ["Z"]
