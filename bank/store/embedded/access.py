"""What this process may do with an embedded bank's folder: write to it, or only read it; and the lock that it holds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from latentbank.bank.store.embedded.lock import LOCK, BankLock, ReadLock
from latentbank.bank.store.embedded.manifest_file import MANIFEST
from latentbank.bank.store.embedded.scratch import may_use, remove_abandoned
from latentbank.errors import BankUnavailable
from latentbank.files import make_folder

# Errors of a lock file that cannot be opened for writing, in a folder that may still be readable.
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


class Access:
    """Access to a version's folder until `close`.

    Attributes:
        there: the folder exists.
        lock: the lock of a process that may write; None: this one may only read, or there is no folder.
    """

    def __init__(self, bank: str, folder: Path, *, create: bool) -> None:
        """Take the folder's lock, as a writer if the folder can be written to, else as a reader.

        Args:
            bank: the bank's name, for messages.
            folder: the folder.
            create: make the folder; it will be written to.

        Raises:
            BankUnavailable: the folder cannot be made, read or, with `create`, written to.
            BankBusy: another process has the bank open.
        """
        self._bank = bank
        self._folder = folder
        self._closed = False
        try:
            if create:
                make_folder(folder)
            self.there = folder.is_dir()
        except OSError as error:
            raise _unusable(folder, error.strerror) from None
        self._obstacle = _obstacle(folder) if self.there else None
        if create:
            self.require_writable()
        self.lock: BankLock | None = None
        self._read_lock: ReadLock | None = None
        if self._obstacle:
            remove_abandoned()
            self._read_lock = ReadLock(folder / LOCK, bank)
        elif self.there:
            self.lock = BankLock(folder / LOCK, bank)

    def require_open(self) -> None:
        """Raise BankUnavailable if the bank is closed."""
        if self._closed:
            raise BankUnavailable(f"The bank '{self._bank}' is closed; open it again.")

    def require_writable(self) -> None:
        """Raise BankUnavailable if the bank is closed, or its folder cannot be written to."""
        self.require_open()
        if self._obstacle:
            raise BankUnavailable(
                f"The bank '{self._bank}' can be read, but not changed: {self._folder} cannot be written "
                f"({self._obstacle}); make it writable, or copy it to a folder that is."
            )

    def close(self) -> None:
        """Release the lock."""
        self._closed = True
        for lock in (self.lock, self._read_lock):
            if lock is not None:
                lock.release()
        self.lock = self._read_lock = None


def _obstacle(folder: Path) -> str | None:
    """Return why a bank's folder can be read but not written to; None: it can be written to.

    Raises:
        BankUnavailable: it cannot be read either.
    """
    if not may_use(folder, os.R_OK | os.X_OK):
        raise _unusable(folder, os.strerror(errno.EACCES))
    lock = folder / LOCK
    try:
        with lock.open("ab"):
            pass
    except OSError as error:
        if error.errno in _UNWRITABLE:
            return error.strerror
        raise BankUnavailable(f"The bank's lock {lock} cannot be opened: {error.strerror}.") from None
    parts = (folder, folder / MANIFEST, *folder.glob("L*"), *folder.glob("L*/segments"))
    if all(may_use(part, os.W_OK) for part in parts if part.exists()):
        return None
    return os.strerror(errno.EACCES)


def _unusable(folder: Path, reason: str | None) -> BankUnavailable:
    return BankUnavailable(f"The folder {folder} cannot be used ({reason}); set LATENTBANK_DATA_DIR.")
