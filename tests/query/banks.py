"""Small banks of a tiny LLM, filled by real jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentbank.bank.bank import Bank
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import LanguageModel

SENTENCES = [
    "The dog chased a cat in the garden.",
    "A red apple lies on the wooden table.",
    "The bank of the river was muddy.",
    "She went to the bank to deposit money.",
    "My dog is called Rex and likes the garden.",
    "The fire truck is red and loud.",
]
ONE_CORPUS = {"c": SENTENCES}
TWO = {"first": SENTENCES[:4], "second": SENTENCES[4:]}


def fill(
    name: str,
    folder: Path,
    model: LanguageModel,
    corpora: Mapping[str, Sequence[str]],
    layers: Iterable[int] = (1, 2),
    **given: Any,
) -> Bank:
    """Return an open embedded bank in `folder` that holds the corpora; `given` goes to `create_bank`."""
    bank = create_bank(name, model, layers, data_dir=folder, url="", **given)
    for corpus, sentences in corpora.items():
        plan = plan_for(
            bank, corpus_from_sentences(corpus, sentences), model, folder / ".plans" / name / corpus
        )
        store_plan(bank, plan, model)
    return bank
