"""Plan corpora of equal size: sentences are taken evenly from each, so that all plans have about as many contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentbank.errors import CorpusError
from latentbank.ingest.corpus import Corpus, Counts, corpus_from_sentences, read_sentences
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress
from latentbank.values import whole

TOLERANCE = 0.02
"""Relative difference to the target number of contexts that a plan may have."""
# The golden ratio: the fractional parts of its multiples are spread more evenly than those of any other number.
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

    Every corpus is planned whole first. From a corpus with more contexts than the smallest one (or than `contexts`),
    only some sentences are taken, evenly spread and the same in each call. The texts of all corpora are in memory.

    Args:
        corpora: by name.
        model: the LLM.
        directory: gets a folder for each plan.
        contexts: the most that a plan may have; None: as many as the smallest corpus has.
        settings: how contexts are chosen.
        progress: counts sentences planned.

    Returns:
        The plan of each corpus, to be stored as it is.

    Raises:
        CorpusError: a corpus cannot be read, or has no context.
    """
    if contexts is not None:
        contexts = whole(contexts, "contexts", 1, error=CorpusError)
    texts = {name: list(read_sentences(corpus, Counts())) for name, corpus in corpora.items()}
    plans = {
        name: _plan(name, sentences, model, directory, settings, progress)
        for name, sentences in texts.items()
    }
    target = min(plan.contexts for plan in plans.values())
    if contexts is not None:
        target = min(target, contexts)
    for name, sentences in texts.items():
        few, many = 0, len(sentences)  # `few` sentences have too few contexts, `many` too many
        taken = many
        while abs((found := plans[name].contexts) / target - 1) > TOLERANCE and many - few > 1:
            few, many = (taken, many) if found < target else (few, taken)
            taken = max(1, min(max(round(taken * target / found), few + 1), many - 1))
            plans[name] = _plan(name, spread(sentences, taken), model, directory, settings, progress)
    return plans


def spread(sentences: Sequence[str], count: int) -> list[str]:
    """Return `count` sentences, evenly spread, in their order; a larger count returns these and others."""
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
