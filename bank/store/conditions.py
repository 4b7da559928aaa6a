"""Filters translated to the engine's conditions, which have the same form in the embedded engine and the client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from types import ModuleType
from typing import Any

from latentbank.bank.where import All, Filter, Not, Where
from latentbank.bank.where import Any as AnyOf
from latentbank.errors import QueryError

_TEXTS = ("corpus", "word", "caption_contains")
_LARGEST = 2**63 - 1


def conditions(where: Filter | None, engine: ModuleType, range_type: Any) -> Any:
    """Return a filter as the engine's conditions.

    Args:
        where: the filter; None is returned as None.
        engine: a module with Filter, FieldCondition, MatchValue, MatchAny and MatchPhrase.
        range_type: the engine's class for numeric ranges.

    Raises:
        QueryError: `where` is not a filter, or a Where without any condition.
    """
    if where is None:
        return None
    if isinstance(where, Where):
        return engine.Filter(must=_fields(where, engine, range_type))
    if isinstance(where, All):
        return engine.Filter(must=[conditions(part, engine, range_type) for part in where.parts])
    if isinstance(where, AnyOf):
        return engine.Filter(should=[conditions(part, engine, range_type) for part in where.parts])
    if isinstance(where, Not):
        return engine.Filter(must_not=[conditions(where.part, engine, range_type)])
    raise QueryError(f"A filter is built from Where with &, | and ~, not from {type(where).__name__}.")


def each_condition(
    where: Filter | Sequence[Filter | None] | None, count: int, engine: ModuleType, range_type: Any
) -> list[Any]:
    """Return the conditions of `count` queries, from one filter for all of them or one for each."""
    if isinstance(where, Sequence):
        return [conditions(part, engine, range_type) for part in where]
    return [conditions(where, engine, range_type)] * count


def reads_captions(where: Filter | Sequence[Filter | None] | None) -> bool:
    """Return whether a filter, or one of several, has a condition on captions."""
    if isinstance(where, Sequence) and not isinstance(
        where, str
    ):  # a string is not a filter; `conditions` raises the error
        return any(map(reads_captions, where))
    if isinstance(where, All | AnyOf):
        return any(map(reads_captions, where.parts))
    if isinstance(where, Not):
        return reads_captions(where.part)
    return isinstance(where, Where) and where.caption_contains is not None


def _fields(where: Where, engine: ModuleType, range_type: Any) -> list[Any]:
    found: list[Any] = []
    for name, value in where.given().items():
        if name == "caption_contains":
            phrase = _plain(name, value)
            if not any(letter.isalnum() for letter in phrase):
                raise QueryError("caption_contains needs at least one word.")
            found.append(engine.FieldCondition(key="caption", match=engine.MatchPhrase(phrase=phrase)))
        elif name in ("position_min", "position_max"):
            bound = {"gte" if name == "position_min" else "lte": float(_plain(name, value))}
            found.append(engine.FieldCondition(key="position", range=range_type(**bound)))
        elif isinstance(value, Iterable) and not isinstance(value, str):
            values = [_plain(name, item) for item in value]
            found.append(engine.FieldCondition(key=name, match=engine.MatchAny(any=values)))
        else:
            found.append(engine.FieldCondition(key=name, match=engine.MatchValue(value=_plain(name, value))))
    if not found:
        raise QueryError("Where() without a condition is not a filter; name a field or leave it out.")
    return found


def _plain(name: str, value: object) -> Any:
    """Return one value of a condition as plain Python, after a check: the engine does not take numpy's integers."""
    if name in _TEXTS:
        if not isinstance(value, str):
            raise QueryError(f"{name} takes text, not {value!r}.")
        return value
    if not isinstance(value, Integral) or abs(int(value)) > _LARGEST:
        raise QueryError(f"{name} takes whole numbers, not {value!r}.")
    return int(value)
