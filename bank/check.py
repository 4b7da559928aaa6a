"""One thing that is looked at when something may be wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from latentbank.errors import LatentBankError
from latentbank.text import first_line

State: TypeAlias = Literal["ok", "warning", "wrong", "unknown"]


@dataclass(frozen=True)
class Check:
    """What was seen of one thing.

    Attributes:
        name: what was looked at.
        state: "ok"; "warning": it works, but not well or not for long; "wrong": it does not work; "unknown": it could
            not be seen.
        seen: what was seen.
        remedy: what to do about it, a sentence; empty if there is nothing to do.
    """

    name: str
    state: State
    seen: str
    remedy: str = ""


Look: TypeAlias = Callable[[], "Check | Iterable[Check]"]


def looked(name: str, look: Look) -> Iterator[Check]:
    """Yield what a look finds; if it fails itself, that this could not be seen."""
    try:
        found = look()
        yield from [found] if isinstance(found, Check) else list(found)
    except LatentBankError as error:
        yield Check(name, "unknown", str(error))
    except Exception as error:
        yield Check(
            name, "unknown", f"it could not be seen ({type(error).__name__}: {first_line(error)[:120]})"
        )
