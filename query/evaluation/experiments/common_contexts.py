"""The contexts that two banks have in common: a sample of words, with some contexts of each."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Neighbor, Stored
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch
from latentbank.progress import Progress
from latentbank.query.evaluation.experiments.similarity import Ints
from latentbank.text import listed, public_name

FEWEST = 100
"""The fewest common contexts that two banks are compared by."""
PER_WORD = 8
"""Contexts of one word that are taken, at most."""
_ASKED = 50  # words whose contexts are read at once


@dataclass(frozen=True)
class Common:
    """Contexts of two banks.

    Attributes:
        contexts: the contexts, word by word.
        words: the number of each context's word, int64 `[contexts]`; case makes no difference.
        names: the words by number.
        sampled: how many contexts of the first bank were looked for in the second.
    """

    contexts: Sequence[Neighbor]
    words: Ints
    names: Sequence[str]
    sampled: int

    @property
    def ids(self) -> list[str]:
        """The contexts' ids."""
        return [context.id for context in self.contexts]


def common_contexts(
    first: Bank, second: Bank, words: int, seed: int, progress: Progress | None = None
) -> Common:
    """Return contexts of random words of the first bank that the second holds, too.

    Words are drawn as often as the first bank has contexts of them. `progress` counts them.

    Raises:
        BankMismatch: the banks have too few contexts in common; the message says why.
    """
    corpora = _same_corpora(first, second)
    layer, by_word = first.layers[0], dict[str, list[Neighbor]]()
    drawn = itertools.islice(_random_words(first, layer, corpora, seed), words)
    while some := list(itertools.islice(drawn, _ASKED)):
        if progress is not None:
            progress.update(len(by_word), words)
        forms = tuple(form for _, spelled in some for form in spelled)
        for point in first.store.scroll(layer, Where(corpus=corpora, word=forms), payloads=True):
            if point.payload is not None:
                found = by_word.setdefault(point.payload["word"].casefold(), [])
                if len(found) < PER_WORD:
                    found.append(Neighbor.from_payload(point.id, layer, 1.0, point.payload))
    ids = [context.id for found in by_word.values() for context in found]
    there = second.store.present(second.layers[0], ids)
    if len(there) < FEWEST:
        raise BankMismatch(_why_few(first, second, corpora, len(there), len(ids)))
    kept = {
        word: contexts
        for word, found in by_word.items()
        if (contexts := [context for context in found if context.id in there])
    }
    numbers = [number for number, found in enumerate(kept.values()) for _ in found]
    return Common(list(itertools.chain(*kept.values())), np.array(numbers), list(kept), len(ids))


def _random_words(
    bank: Bank, layer: int, corpora: Sequence[str], seed: int
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield words that have a letter, each once, with the spellings that they are likely to have.

    Contexts are read in the order of their ids, which is a random one, from a random id on.
    """
    start = str(uuid.UUID(bytes=np.random.default_rng(seed).bytes(16)))
    seen: set[str] = set()
    for point in itertools.chain(_points(bank, layer, corpora, start), _points(bank, layer, corpora, None)):
        word = point.payload["word"] if point.payload is not None else ""
        key = word.casefold()
        if key not in seen and any(map(str.isalpha, word)):
            seen.add(key)
            yield key, tuple(dict.fromkeys((word, key, word.capitalize())))


def _points(bank: Bank, layer: int, corpora: Sequence[str], start: str | None) -> Iterator[Stored]:
    return bank.store.scroll(layer, Where(corpus=tuple(corpora)), payloads=True, start=start)


def _same_corpora(first: Bank, second: Bank) -> tuple[str, ...]:
    """Return the names that corpora of both banks are stored under.

    Raises:
        BankMismatch: there are none.
    """
    own, others = (_stored(bank) for bank in (first, second))
    if found := tuple(sorted(own.keys() & others.keys())):
        return found
    held = [listed(entries) or "none" for entries in (own, others)]
    raise BankMismatch(
        f"The banks have no complete corpus in common: '{first.name}' holds {held[0]}, '{second.name}' {held[1]}. "
        "Contexts are the same only in corpora of one name: ingest the same sentences under the same name."
    )


def _stored(bank: Bank) -> Mapping[str, CorpusEntry]:
    return {entry.stored: entry for entry in bank.shown_corpora.values() if entry.complete}


def _why_few(first: Bank, second: Bank, corpora: Sequence[str], there: int, sampled: int) -> str:
    """Return why two banks have too few contexts in common, and what to do."""
    begin = f"Of {sampled:,} contexts of '{first.name}', '{second.name}' holds {there:,}; a comparison needs {FEWEST:,}"
    entries = [(_stored(first)[name], _stored(second)[name]) for name in corpora]
    if any(a.content_hash != b.content_hash for a, b in entries):
        return f"{begin}. Their corpora {listed(corpora)} hold other sentences: ingest the same ones."
    if any(a.plan.get("bos") != b.plan.get("bos") for a, b in entries):
        return f"{begin}. One begins its sentences with a BOS and the other does not: ingest both in the same way."
    if not there:
        models = listed(public_name(bank.manifest.model) for bank in (first, second))
        return (
            f"{begin}. Their LLMs ({models}) have different tokenizers, or begin sentences in different ways. A "
            "context's id comes from the name of its corpus and its token ids, so only LLMs of one tokenizer can be "
            "compared context by context."
        )
    return f"{begin}. Ingest more of the same sentences into both, or more of their contexts."
