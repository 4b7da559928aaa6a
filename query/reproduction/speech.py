"""Parts of speech by spaCy, where it is installed with its small English model, as the authors used it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from latentbank.query.reproduction.neighbors import Tag

MODEL = "en_core_web_sm"
_NAMES = {
    "NOUN": "noun",
    "PROPN": "proper noun",
    "VERB": "verb",
    "AUX": "verb",
    "ADJ": "adjective",
    "ADV": "adverb",
    "ADP": "adposition",
    "DET": "determiner",
    "PRON": "pronoun",
    "NUM": "number",
    "CCONJ": "conjunction",
    "SCONJ": "conjunction",
}


def tagger() -> Tag | None:
    """Return a function that tags words, each by itself; None if spaCy or its model is not installed."""
    if importlib.util.find_spec("spacy") is None or importlib.util.find_spec(MODEL) is None:
        return None
    import spacy

    pipeline = spacy.load(MODEL, disable=["parser", "ner", "lemmatizer"])

    def tag(words: Sequence[str]) -> list[str]:
        return [_kind(document) for document in pipeline.pipe(words)]

    return tag


def _kind(document: Any) -> str:
    """Return the part of speech of a word; of several tokens, that of the last one that is no punctuation."""
    tokens = [token for token in document if not token.is_punct and not token.is_space]
    return _NAMES.get(tokens[-1].pos_, "other") if tokens else "other"
