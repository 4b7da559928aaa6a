"""The kind of bank that a function was given: an open one, or only a bank's name."""

from __future__ import annotations

import os

from latentbank.errors import QueryError


def require_bank(bank: object) -> None:
    """Check that a bank is an open one.

    Raises:
        QueryError: it is only a bank's name, or something else.
    """
    if isinstance(bank, str | os.PathLike):
        raise QueryError(f"The bank is only a name, {os.fspath(bank)}; open it with open_bank.")
    if not hasattr(bank, "require_model"):
        raise QueryError(f"The bank is of type {type(bank).__name__}; give one that open_bank returns.")
