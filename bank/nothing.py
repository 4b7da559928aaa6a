"""Why a search finds nothing: no corpus, none that is complete, or a filter that selects no context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from latentbank.bank.bank import Bank
from latentbank.bank.where import All, Filter, Where
from latentbank.text import listed


def why_nothing(bank: Bank, where: Filter | None) -> str:
    """Return in a sentence why a bank's readers find no context; "" if there are contexts to find.

    Args:
        bank: the bank.
        where: the filter of the search; None: there is none.
    """
    known, shown = bank.corpora, bank.shown_corpora
    if not known:
        return f"The bank '{bank.name}' holds no corpus yet; ingest one first."
    if not shown:
        return (
            f"The bank '{bank.name}' holds no complete corpus, and only complete ones are read: finish the ingestion "
            f"of {listed(known)}, or ask for incomplete corpora too."
        )
    if bank.count(where=where):
        return ""
    for part in _parts(where):
        if not bank.count(where=part):
            return _why_not(bank, part)
    return "No context passes all conditions of the filter at once."


def _parts(where: Filter | None) -> Iterator[Filter]:
    """Yield the conditions of a filter that must all hold."""
    if isinstance(where, All):
        for part in where.parts:
            yield from _parts(part)
    elif isinstance(where, Where):
        for name, value in where.given().items():
            given: dict[str, Any] = {name: value}
            yield Where(**given)
    elif where is not None:
        yield where


def _why_not(bank: Bank, part: Filter) -> str:
    """Return why no context passes one condition."""
    if not isinstance(part, Where):
        return "No context passes the filter."
    ((name, value),) = part.given().items()
    values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    if name == "corpus":
        return _why_no_corpus(bank, values)
    wanted = " or ".join(map(repr, values))
    if name == "word":
        forms = {form for word in map(str, values) for form in _forms(word)} - set(values)
        there = [form for form in sorted(forms) if bank.count(where=Where(word=form))]
        but = f"; words are compared letter by letter, and there is {' and '.join(map(repr, there))}"
        return f"No context has the word {wanted}{but if there else ''}."
    names = {"caption_contains": "a caption that contains", "position_min": "a position of at least"}
    names["position_max"] = "a position of at most"
    return f"No context has {names.get(name, f'the {name}')} {wanted}."


def _why_no_corpus(bank: Bank, names: Sequence[Any]) -> str:
    shown = bank.shown_corpora
    incomplete = [name for name in names if name in bank.corpora and name not in shown]
    if incomplete:
        return (
            f"The corpus {listed(incomplete)} is not complete, and only complete ones are read: finish its ingestion, "
            "or ask for incomplete corpora too."
        )
    return f"The bank '{bank.name}' has no corpus {listed(names)}; it has {listed(shown)}."


def _forms(word: str) -> set[str]:
    """Return how else a word may have been meant: in other cases, without spaces, quotes or signs around it."""
    plain = word.strip(" =:'\"“”")
    return {plain, plain.lower(), plain.capitalize(), plain.upper()} - {""}
