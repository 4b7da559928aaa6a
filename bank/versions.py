"""Names of banks and of their versions: `name` means the version in use, `name@2` the second version.

Version 1 is stored under the bank's plain name, so a bank that never had another version is its own version 1. Which
version is in use is recorded beside the versions (bank/store/server/aliases.py, bank/store/embedded/pointer.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from latentbank.errors import LatentBankError
from latentbank.text import listed

LONGEST_NAME = 64
"""Letters of a bank's name at most."""
_NAME = re.compile(r"(?P<bank>[a-zA-Z0-9](?!.*--)[a-zA-Z0-9._-]{0,63})(@(?P<version>[1-9]\d{0,5}))?")


@dataclass(frozen=True)
class Versions:
    """A bank's versions, ascending; `in_use` is the one that its plain name means, None if that does not exist."""

    bank: str
    versions: tuple[int, ...]
    in_use: int | None


def check_name(name: str) -> None:
    """Check the name of a bank or of a version.

    Raises:
        LatentBankError: it is not a valid name.
    """
    split_name(name)


def split_name(name: str) -> tuple[str, int | None]:
    """Return a bank's plain name, and the version number in a name; None if it means the version in use.

    Raises:
        LatentBankError: it is not a valid name.
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if not match:
        raise LatentBankError(
            f"'{name}' cannot name a bank: use 1 to 64 letters, digits, '.', '_' and single '-', "
            "starting with a letter or a digit; a version follows as in name@2."
        )
    version = match["version"]
    return match["bank"], int(version) if version else None


def stored_name(bank: str, version: int) -> str:
    """Return the name that a version of a bank is stored under."""
    return bank if version == 1 else f"{bank}@{version}"


def stored_parts(stored: str) -> tuple[str, int] | None:
    """Return the bank and version stored under a name; None if it cannot be the name of a version."""
    match = _NAME.fullmatch(stored)
    if not match or match["version"] == "1":
        return None
    return match["bank"], int(match["version"] or 1)


def version_of(stored: str) -> int:
    """Return the number of a version by the name it is stored under."""
    return split_name(stored)[1] or 1


def listed_versions(bank: str, versions: Iterable[int]) -> str:
    """Return the names of versions for a sentence: "bank@1, bank@2"."""
    return listed(f"{bank}@{version}" for version in sorted(versions))
