"""A word as a vector: the mean of its contexts in a bank, or what the LLM makes of it in sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.ledger import visible
from latentbank.bank.search import prepared
from latentbank.bank.vectors import stored_vectors
from latentbank.bank.where import Filter, Where
from latentbank.errors import QueryError
from latentbank.query.reading.text import planned_with_bos
from latentbank.text import check_text

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.language.model import LanguageModel

Floats = npt.NDArray[np.float32]

CONTEXTS = 50
"""Contexts of a word whose mean is taken, at most: as many as a corpus holds of a token by default."""


TEMPLATES = (
    "There is a {} in this picture.",
    "A photo of a {}.",
    "You can see the {} here.",
    "She drew a {} on a sheet of paper.",
    "A close-up of the {}.",
    "They found the {} behind the house.",
    "This is what a {} looks like.",
    "He pointed at the {} in the background.",
)
"""Sentences into which a word is put that the bank lacks."""


@dataclass(frozen=True, eq=False)
class Term:
    """What is looked for, as a vector in each bank layer.

    Attributes:
        text: the word or words, as they were given.
        vectors: for each bank layer the mean of unit vectors, rotated as the bank's, float32 `[hidden]`.
        contexts: of how many contexts it is the mean.
        source: where they come from, for people.
    """

    text: str
    vectors: dict[int, Floats]
    contexts: int
    source: str


def term_of_bank(
    bank: Bank, text: str, layers: Sequence[int], where: Filter | None = None, most: int = CONTEXTS
) -> Term | None:
    """Return a word, or several that follow each other, as the mean of its contexts in a bank.

    Of a word of several tokens, and of several words, the last token counts: it alone has seen the whole. Case makes no
    difference.

    Args:
        bank: a bank of plain cosine.
        text: the word or words.
        layers: the bank layers.
        where: only contexts that this filter selects.
        most: contexts, at most; ids are hashes, so the first are a random choice.

    Returns:
        The term; None if the bank has no context of it.
    """
    check_text(text, "word")
    found = _occurrences(bank, text, layers[0], where, most)
    if not found:
        return None
    vectors = {layer: _mean(stored_vectors(bank, layer, found)) for layer in layers}
    return Term(text, vectors, len(found), f"{len(found):,} contexts of the bank")


def term_of_sentence(
    bank: Bank, model: LanguageModel, sentence: str, token: str, layers: Sequence[int]
) -> Term:
    """Return a word in one sentence as its hidden states, which the LLM computes now.

    Args:
        bank: a bank of this LLM, whose rotation and way to begin a sentence are used.
        model: the LLM.
        sentence: the whole sentence.
        token: a word, or several, of the sentence; of its tokens the last one counts.
        layers: the bank layers.

    Raises:
        BankMismatch: the bank belongs to another model.
        QueryError: the sentence does not hold the word, or it begins with it and has no context.
    """
    bank.require_model(model.name, model.identity())
    rows = _states(bank, model, [sentence], token, layers)
    if not rows:
        raise QueryError(
            f"'{sentence}' does not hold '{token}' after its first token; give a word that follows others.",
            argument="token",
        )
    vectors = {layer: _mean(states) for layer, states in rows.items()}
    return Term(token, vectors, 1, f"'{token}' in “{sentence}”")


def term_of_templates(bank: Bank, model: LanguageModel, text: str, layers: Sequence[int]) -> Term:
    """Return a word that the bank lacks as the mean of its hidden states in a few plain sentences.

    Args:
        bank: a bank of this LLM.
        model: the LLM.
        text: the word or words.
        layers: the bank layers.

    Raises:
        BankMismatch: the bank belongs to another model.
    """
    check_text(text, "word")
    bank.require_model(model.name, model.identity())
    sentences = [template.format(text) for template in TEMPLATES]
    vectors = {
        layer: _mean(states) for layer, states in _states(bank, model, sentences, text, layers).items()
    }
    return Term(text, vectors, len(sentences), f"{len(sentences)} sentences made for it")


def _occurrences(bank: Bank, text: str, layer: int, where: Filter | None, most: int) -> list[str]:
    """Return the ids of contexts that end an occurrence of a text in their captions."""
    words = text.split()
    if not words:
        raise QueryError("The word is empty; give one.", argument="word")
    last = words[-1]
    spelled = tuple(dict.fromkeys([last, last.lower(), last.capitalize(), last.upper()]))
    asked: Filter = Where(word=spelled)
    if len(words) > 1:
        asked &= Where(caption_contains=text)
    shown = visible(asked if where is None else asked & where, bank.shown_corpora, incomplete=True)
    ends = _ending(text)
    found = []
    for point in bank.store.scroll(layer, shown, payloads=True):
        payload = point.payload
        if payload is not None and payload["end"] in ends(payload["caption"]):
            found.append(point.id)
            if len(found) == most:
                break
    return found


def _ending(text: str) -> Callable[[str], set[int]]:
    """Return a function that gives the places where a text ends in a caption, as whole words."""
    parts = r"\s+".join(map(re.escape, text.split()))
    pattern = re.compile(rf"(?<!\w){parts}(?!\w)", re.IGNORECASE)
    return lambda caption: {match.end() for match in pattern.finditer(caption)}


def _states(
    bank: Bank, model: LanguageModel, sentences: Sequence[str], token: str, layers: Sequence[int]
) -> dict[int, Floats]:
    """Return the tokens that end a text in sentences that hold it, as the bank stores contexts, `[tokens, hidden]`."""
    always_bos = planned_with_bos(bank)
    special, ends = set(model.tokenizer.all_special_ids), _ending(token)
    rows, places = [], []
    for sentence in sentences:
        ids = model.encode(sentence, always_bos=always_bos)
        spans = model.spans(sentence, always_bos=always_bos)
        real = [place for place, id_ in enumerate(ids) if id_ not in special]
        wanted = ends(sentence)
        # The first token has no context.
        own = [place for place in real[1:] if spans[place][1] in wanted and spans[place][0] < spans[place][1]]
        if own:
            rows.append(ids)
            places.append(own[0])
    if not rows:
        return {}
    states = model.hidden_states(rows, layers)
    return {
        layer: prepared(
            bank.manifest,
            np.stack([one[layer][at].float().cpu().numpy() for one, at in zip(states, places, strict=True)]),
            "hidden states",
            bank.manifest.mean(layer),
        )
        for layer in layers
    }


def _mean(units: Floats) -> Floats:
    mean: Floats = units.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
