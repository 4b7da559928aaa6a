"""Numbers and names as callers give them, of numpy, torch or pandas as well as plain ones, made plain at the door."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Iterable
from typing import Any, SupportsFloat, SupportsIndex

from latentbank.errors import LatentBankError, LayerNotFound, QueryError

Layers = SupportsIndex | Iterable[SupportsIndex]
"""One layer or several: a number, a list, a tuple, a range, a set, an array or a tensor of whole numbers."""


def whole(
    value: object, name: str, least: int | None = None, *, error: type[LatentBankError] = QueryError
) -> int:
    """Return a whole number as a plain int. Those of numpy and torch are taken; True and 2.0 are not.

    Args:
        value: the number.
        name: the argument's name, for the message.
        least: the smallest number allowed; None: any.
        error: what is raised.

    Raises:
        LatentBankError: it is not a whole number, or below `least`.
    """
    number = _index(value)
    if number is None or (least is not None and number < least):
        kind = "" if number is not None else "a whole number" + (", " if least is not None else "")
        bound = "" if least is None else f"{least:,} or more"
        raise error(f"{name} is {shown(value)}; it must be {kind}{bound}.", argument=name)
    return number


def layers_of(layers: Any, name: str = "layers") -> list[int]:
    """Return one layer or several (`Layers`) as plain numbers, each once, in the order given.

    Args:
        layers: one layer or several.
        name: the argument's name, for the message.

    Raises:
        LayerNotFound: they are not whole numbers.
    """
    if (one := _index(layers)) is not None:
        return [one]
    try:
        numbers = None if isinstance(layers, str | bytes) else [_index(layer) for layer in layers]
    except TypeError:
        numbers = None
    if numbers is None or None in numbers:
        raise LayerNotFound(
            f"{name} is {shown(layers)}; give whole numbers, such as 8 or [8, 16].", argument=name
        )
    return [number for number in dict.fromkeys(numbers) if number is not None]


def real(
    value: SupportsFloat,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    error: type[LatentBankError] = QueryError,
) -> float:
    """Return a number as a plain float.

    Args:
        value: the number.
        name: the argument's name, for the message.
        low: the smallest number allowed.
        high: the largest number allowed.
        error: what is raised.

    Raises:
        LatentBankError: it is not a number, not finite, or not from `low` to `high`.
    """
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        bounds = "a finite number" if math.isinf(low) else f"{low:g} or more"
        bounds = bounds if math.isinf(high) else f"from {low:g} to {high:g}"
        raise error(f"{name} is {shown(value)}; it must be {bounds}.", argument=name)
    return number


def names_of(names: str | Iterable[str]) -> list[str]:
    """Return one name or several, of numpy as well, as plain strings."""
    return [str(names)] if isinstance(names, str) else [str(name) for name in names]


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, and not long."""
    single = getattr(value, "item", None) if getattr(value, "ndim", None) == 0 else None
    return " ".join(reprlib.repr(value if single is None else single()).split())


def _index(value: Any) -> int | None:
    """Return a whole number as an int; None if it is not one."""
    # A mask is no list of layers; torch counts its True as 1.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
