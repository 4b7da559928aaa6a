"""Filters translated to the engine's conditions, which have the same form in the embedded engine and the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import ModuleType
from typing import Any

from latentbank.bank.store.captions import Ids, engine_phrases
from latentbank.bank.where import All, Conditions, Filter, Not, Where
from latentbank.bank.where import Any as AnyOf
from latentbank.errors import QueryError

_TEXTS = ("corpus", "word", "image", "digest", "caption_contains")
_BOUNDS = {"_min": "gte", "_max": "lte"}
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Dialect:
    """The classes of one engine.

    Attributes:
        module: a module with Filter, FieldCondition, MatchValue, MatchAny and MatchPhrase.
        range_type: the engine's class for numeric ranges.
        has_ids: makes the condition that a point has one of some ids.
    """

    module: ModuleType
    range_type: Any
    has_ids: Callable[[list[str]], Any]


def conditions(where: Filter | None, dialect: Dialect) -> Any:
    """Return a filter as the engine's conditions; None is returned as None.

    Raises:
        QueryError: `where` is not a filter, or one without any condition.
    """
    engine = dialect.module
    if where is None:
        return None
    if isinstance(where, Conditions):
        return engine.Filter(must=_fields(where, dialect))
    if isinstance(where, All):
        return engine.Filter(must=[conditions(part, dialect) for part in where.parts])
    if isinstance(where, AnyOf):
        return engine.Filter(should=[conditions(part, dialect) for part in where.parts])
    if isinstance(where, Not):
        return engine.Filter(must_not=[conditions(where.part, dialect)])
    if isinstance(where, Ids):
        return engine.Filter(must=[dialect.has_ids(sorted(where.ids))])
    raise QueryError(f"A filter is built from Where with &, | and ~, not from {type(where).__name__}.")


def each_condition(where: Filter | Sequence[Filter | None] | None, count: int, dialect: Dialect) -> list[Any]:
    """Return the conditions of `count` queries, from one filter for all of them or one for each."""
    if not isinstance(where, Sequence):
        return [conditions(where, dialect)] * count
    made: dict[int, Any] = {}  # by identity: many queries have the same filter
    for part in where:
        if id(part) not in made:
            made[id(part)] = conditions(part, dialect)
    return [made[id(part)] for part in where]


def count_ids(where: Filter | Sequence[Filter | None] | None) -> int:
    """Return how many ids a filter has, or the one of several that has the most."""
    if isinstance(where, Sequence) and not isinstance(where, str):
        return max(map(count_ids, where), default=0)
    if isinstance(where, All | AnyOf):
        return sum(map(count_ids, where.parts))
    if isinstance(where, Not):
        return count_ids(where.part)
    return len(where.ids) if isinstance(where, Ids) else 0


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


def _fields(where: Conditions, dialect: Dialect) -> list[Any]:
    engine = dialect.module
    found: list[Any] = []
    for name, value in where.given().items():
        if name == "caption_contains":
            phrase = _plain(name, value)
            if not any(letter.isalnum() for letter in phrase):
                raise QueryError("caption_contains needs at least one word.")
            forms = [
                engine.FieldCondition(key="caption", match=engine.MatchPhrase(phrase=form))
                for form in engine_phrases(phrase)
            ]
            found.append(forms[0] if len(forms) == 1 else engine.Filter(should=forms))
        elif (side := _BOUNDS.get(name[-4:])) is not None:
            bound = dialect.range_type(**{side: float(_plain(name, value))})
            found.append(engine.FieldCondition(key=name[:-4], range=bound))
        elif isinstance(value, Iterable) and not isinstance(value, str):
            values = [_plain(name, item) for item in value]
            found.append(engine.FieldCondition(key=name, match=engine.MatchAny(any=values)))
        else:
            found.append(engine.FieldCondition(key=name, match=engine.MatchValue(value=_plain(name, value))))
    if not found:
        raise QueryError(
            f"{type(where).__name__}() without a condition is not a filter; name a field or leave it out."
        )
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
