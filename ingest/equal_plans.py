"""Corpora of one size: sentences taken evenly from each, until all plans hold about the same number of contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentbank.ingest.corpus import Corpus, Counts, corpus_from_sentences, read_sentences
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress

# How far from the wanted number of contexts a plan may be.
TOLERANCE = 0.02
# The multiples of the golden ratio, without what is before the point, are spread more evenly than any others.
_GOLDEN = (5**0.5 - 1) / 2


def equal_plans(
    corpora: Mapping[str, Corpus],
    model: LanguageModel,
    directory: Path,
    *,
    contexts: int | None = None,
    settings: PlanSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Plan]:
    """Plan corpora so that each stores about the same number of contexts.

    Every corpus is planned whole first. Of each that has more than the smallest (or than `contexts`) only some
    sentences are taken, evenly spread over it and always the same ones. All corpora's texts are held in memory.

    Args:
        corpora: by name.
        model: the LLM.
        directory: gets a folder for each plan.
        contexts: how many are wanted at most; None: as many as the smallest corpus gives.
        settings: how contexts are chosen.
        progress: told sentences planned.

    Returns:
        The plan of each corpus, to be run as it is.

    Raises:
        CorpusError: a corpus cannot be read, or gives no context.
    """
    texts = {name: list(read_sentences(corpus, Counts())) for name, corpus in corpora.items()}
    plans = {
        name: _plan(name, sentences, model, directory, settings, progress)
        for name, sentences in texts.items()
    }
    wanted = min(plan.contexts for plan in plans.values())
    if contexts is not None:
        wanted = min(wanted, contexts)
    for name, sentences in texts.items():
        few, many = 0, len(sentences)  # too few contexts come of `few` sentences, too many of `many`
        taken = many
        while abs((found := plans[name].contexts) / wanted - 1) > TOLERANCE and many - few > 1:
            few, many = (taken, many) if found < wanted else (few, taken)
            taken = max(1, min(max(round(taken * wanted / found), few + 1), many - 1))
            plans[name] = _plan(name, spread(sentences, taken), model, directory, settings, progress)
    return plans


def spread(sentences: Sequence[str], count: int) -> list[str]:
    """Take `count` sentences, evenly spread, in their order; whoever takes more of them takes these among others."""
    order = sorted(range(len(sentences)), key=lambda i: (i * _GOLDEN) % 1)
    return [sentences[i] for i in sorted(order[:count])]


def _plan(
    name: str,
    sentences: Sequence[str],
    model: LanguageModel,
    directory: Path,
    settings: PlanSettings | None,
    progress: Progress | None,
) -> Plan:
    return make_plan(corpus_from_sentences(name, sentences), model, directory / name, settings, progress)
