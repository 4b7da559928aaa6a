"""Filters in plain Python: `Where(word="dog") & ~Where(corpus="concepts")`, translated by the stores."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from latentbank.errors import QueryError
from latentbank.text import check_text, listed
from latentbank.values import whole


class Filter:
    """A condition that selects contexts; combine filters with `&` (and), `|` (or) and `~` (not)."""

    def __and__(self, other: Filter) -> Filter:
        return All((self, other))

    def __or__(self, other: Filter) -> Filter:
        return Any((self, other))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        """Refuse `and`, `or` and `not`, which would leave conditions out.

        Raises:
            QueryError: always.
        """
        raise QueryError(
            "A filter is neither true nor false; combine filters with &, | and ~, not with and, or, not."
        )


@dataclass(frozen=True)
class Conditions(Filter):
    """Conditions on single fields, all of which must hold; a sequence means any of its values."""

    def __post_init__(self) -> None:
        """Keep texts, numbers and sequences of numpy and others as plain ones.

        Raises:
            QueryError: a text holds half a surrogate pair.
        """
        for name, value in self.given().items():
            if isinstance(value, Iterable) and not isinstance(value, str | bytes):
                value = tuple(map(_plain, value))
            object.__setattr__(self, name, _plain(value))

    def given(self) -> dict[str, object]:
        """Return the conditions that are set, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class Where(Conditions):
    """Contexts for which all conditions given are true; a sequence means any of its values.

    Args:
        corpus: name of the corpus.
        word: the whole word that the token belongs to, exactly as written.
        token_id: the token's id in the LLM's vocabulary.
        sentence: index of the sentence in its corpus.
        position_min: first position in the sentence (inclusive).
        position_max: last position in the sentence (inclusive).
        caption_contains: whole words that follow each other in the caption ("fire truck"); case, accents and Unicode's
            normal forms make no difference. Scripts without spaces are cut into words by Qdrant's tokenizer.

    Examples:
        >>> import latentbank as lb
        >>> animals = lb.Where(word=["dog", "cat"]) & ~lb.Where(caption_contains="hot dog")
        >>> with lb.open_bank("captions") as bank:
        ...     found = bank.count(where=animals)
    """

    corpus: str | Sequence[str] | None = None
    word: str | Sequence[str] | None = None
    token_id: int | Sequence[int] | None = None
    sentence: int | Sequence[int] | None = None
    position_min: int | None = None
    position_max: int | None = None
    caption_contains: str | None = None


@dataclass(frozen=True)
class WhereImage(Conditions):
    """Visual tokens in a bank of images for which all conditions given are true; a sequence means any of its values.

    Args:
        corpus: name of the corpus of images.
        image: name of the image, as the bank lists it.
        digest: digest of the image's file.
        word: the word that was stored for the visual token, exactly as written.
        tile: 0 for the view of the whole image, 1 and more for its parts.
        token: number of the visual token in its image, from 0.
        row_min: first row of the grid (inclusive), from 0 at the top.
        row_max: last row (inclusive).
        column_min: first column of the grid (inclusive), from 0 at the left.
        column_max: last column (inclusive).
    """

    corpus: str | Sequence[str] | None = None
    image: str | Sequence[str] | None = None
    digest: str | Sequence[str] | None = None
    word: str | Sequence[str] | None = None
    tile: int | Sequence[int] | None = None
    token: int | Sequence[int] | None = None
    row_min: int | None = None
    row_max: int | None = None
    column_min: int | None = None
    column_max: int | None = None


@dataclass(frozen=True)
class All(Filter):
    """Contexts that every part selects."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Any(Filter):
    """Contexts that at least one part selects."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not(Filter):
    """Contexts that `part` does not select."""

    part: Filter


def _plain(value: typing.Any) -> object:
    """Return a text as a str and a whole number as an int; anything else as it is, for the store to refuse."""
    if isinstance(value, str):
        check_text(value, "filter")
        return str(value)
    try:
        return whole(value, "value")
    except QueryError:
        return value


_INTEGERS = {"token_id", "sentence", "tile", "token"}
_SINGLE = {"caption_contains"}
_BOUNDS = ("_min", "_max")


def parse_where(conditions: Sequence[str], kind: type[Conditions] = Where) -> Filter | None:
    """Return the filter that conditions in text form describe; all of them must hold. None if there are none.

    Each condition is `field=value`, `field!=value`, `field=a|b` (any of the values), or several of these joined by
    commas: `word=dog|cat,corpus!=news`. A comma or bar inside a value is written `\\,` or `\\|`. `kind` is the class
    whose fields they name.

    Raises:
        QueryError: a condition is malformed, a field is unknown, or a number is expected.
    """
    parts = [
        _parse(text.strip(), kind)
        for given in conditions
        for text in re.split(r"(?<!\\),", given)
        if text.strip()
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _parse(text: str, kind: type[Conditions]) -> Filter:
    match = re.fullmatch(r"(\w+)\s*(!?=)\s*(.*)", text, re.DOTALL)
    names = [f.name for f in fields(kind)]
    if not match or match[1] not in names:
        raise QueryError(f"'{text}' is not a condition: write FIELD=VALUE with one of {listed(names)}.")
    name, operator, value = match.groups()
    bound = name.endswith(_BOUNDS)
    raw = [value] if bound or name in _SINGLE else re.split(r"(?<!\\)\|", value)
    texts = [re.sub(r"\\([,|])", r"\1", t) for t in raw]
    values: list[str] | list[int] = texts
    if bound or name in _INTEGERS:
        try:
            values = [int(t) for t in texts]
        except ValueError:
            raise QueryError(f"'{text}': {name} takes whole numbers.") from None
    given: dict[str, typing.Any] = {name: values[0] if len(values) == 1 else tuple(values)}
    return Not(kind(**given)) if operator == "!=" else kind(**given)
