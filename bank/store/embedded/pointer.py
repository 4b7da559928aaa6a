"""Which version an embedded bank's plain name means: a small file beside the folders, replaced in one step.

`{data_dir}/{bank}@in-use` holds the name of the version's folder. Without it, the folder of the plain name is meant. No
bank and no version can have the file's name.
"""

from __future__ import annotations

from pathlib import Path

from latentbank.bank.settings import Settings
from latentbank.bank.store.names import in_use_name
from latentbank.bank.versions import stored_parts
from latentbank.errors import BankUnavailable, LatentBankError
from latentbank.files import remove, write_whole


def read_pointer(bank: str, settings: Settings) -> str:
    """Return the name of the folder that a bank's plain name means.

    Raises:
        BankUnavailable: the file cannot be read, or does not name a version of this bank.
    """
    path = _path(bank, settings)
    try:
        path.lstat()
    except OSError:
        return bank  # no file, or a folder that cannot be read: the store then says what is wrong with it
    try:
        stored = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return bank  # removed in the meantime
    except (OSError, UnicodeDecodeError) as error:
        how = getattr(error, "strerror", None) or "it is not text"
    else:
        parts = stored_parts(stored)
        if parts is not None and parts[0] == bank:
            return stored
        how = "it names no version of the bank"
    raise BankUnavailable(
        f"The file {path} cannot be used ({how}); put a version of '{bank}' in use to write it anew."
    )


def write_pointer(bank: str, stored: str, settings: Settings) -> None:
    """Make a bank's plain name mean the folder of a version.

    Raises:
        BankUnavailable: the file cannot be written.
    """
    try:
        write_whole(_path(bank, settings), f"{stored}\n".encode())
    except LatentBankError as error:
        raise BankUnavailable(str(error)) from None


def remove_pointer(bank: str, settings: Settings) -> None:
    """Make a bank's plain name mean the folder of that name again.

    Raises:
        BankUnavailable: the file cannot be removed.
    """
    path = _path(bank, settings)
    try:
        remove(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise BankUnavailable(
            f"The file {path} cannot be removed ({error.strerror}); correct its permissions."
        ) from None


def _path(bank: str, settings: Settings) -> Path:
    return settings.data_dir / in_use_name(bank)
