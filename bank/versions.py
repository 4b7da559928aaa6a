"""Names of banks and of their versions: `name` is the version in use, `name@2` the second, however it is stored.

Version 1 is stored under the bank's plain name, so a bank that never had another one is its own version 1. What readers
of `name` are led to is said beside the versions (bank/store/server/aliases.py, bank/store/embedded/pointer.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from latentbank.errors import LatentBankError

_NAME = re.compile(r"(?P<bank>[a-zA-Z0-9](?!.*--)[a-zA-Z0-9._-]{0,63})(@(?P<version>[1-9]\d{0,5}))?")


@dataclass(frozen=True)
class Versions:
    """A bank's versions, ascending; `in_use` is the one that its plain name means, None if that is not there."""

    bank: str
    versions: tuple[int, ...]
    in_use: int | None


def check_name(name: str) -> None:
    """Refuse what can name neither a bank nor a version of one.

    Raises:
        LatentBankError: the name is none.
    """
    split_name(name)


def split_name(name: str) -> tuple[str, int | None]:
    """Give a bank's plain name and the version that a name asks for; None if it asks for the one in use.

    Raises:
        LatentBankError: the name is none.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise LatentBankError(
            f"'{name}' cannot name a bank: use 1 to 64 letters, digits, '.', '_' and single '-', "
            "starting with a letter or a digit; a version follows as in name@2."
        )
    version = match["version"]
    return match["bank"], int(version) if version else None


def stored_name(bank: str, version: int) -> str:
    """Give the name under which a version of a bank is stored."""
    return bank if version == 1 else f"{bank}@{version}"


def stored_parts(stored: str) -> tuple[str, int] | None:
    """Give bank and version of what is stored under a name; None if no version of any bank is."""
    match = _NAME.fullmatch(stored)
    if not match or match["version"] == "1":
        return None
    return match["bank"], int(match["version"] or 1)


def version_of(stored: str) -> int:
    """Give the number of a version by the name it is stored under."""
    return split_name(stored)[1] or 1


def listed_versions(bank: str, versions: Iterable[int]) -> str:
    """Name versions in a sentence."""
    return ", ".join(f"{bank}@{version}" for version in sorted(versions))
