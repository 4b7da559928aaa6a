"""Corpora of equal size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from latentbank.errors import CorpusError
from latentbank.ingest.corpus import corpus_from_sentences, open_corpus
from latentbank.ingest.equal_plans import TOLERANCE, equal_plans, spread
from latentbank.ingest.plan import PlanSettings
from latentbank.models.language.model import LanguageModel
from tests.ingest.conftest import Tiny
from tests.ingest.jobs import some_sentences

SETTINGS = PlanSettings(contexts_per_token=10_000)


@pytest.fixture
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


def test_the_larger_is_cut_to_the_smaller_evenly(model: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_text("\n".join(some_sentences(900)), encoding="utf-8")
    corpora = {
        "large": open_corpus("large", file),
        "small": corpus_from_sentences(
            "small", [f"Snow covers roof {i} of the village." for i in range(120)]
        ),
    }
    plans = equal_plans(corpora, model, tmp_path / "plans", settings=SETTINGS)
    assert plans["small"].sentences == 120
    assert plans["large"].sentences < 900
    assert plans["large"].contexts == pytest.approx(plans["small"].contexts, rel=TOLERANCE)
    numbers = sorted(int(sentence.caption.rsplit(maxsplit=1)[1]) for sentence in plans["large"].read())
    gaps = [after - before for before, after in pairwise(numbers)]
    assert max(gaps) < 3 * 900 / plans["large"].sentences
    again = equal_plans(corpora, model, tmp_path / "again", settings=SETTINGS)
    assert {name: plan.content_hash for name, plan in again.items()} == {
        name: plan.content_hash for name, plan in plans.items()
    }


def test_a_number_of_contexts_can_be_chosen(model: LanguageModel, tmp_path: Path) -> None:
    corpora = {
        name: corpus_from_sentences(name, some_sentences(count)) for name, count in (("a", 500), ("b", 300))
    }
    for target in (1000, 10**9):
        plans = equal_plans(corpora, model, tmp_path / str(target), contexts=target, settings=SETTINGS)
        sizes = [plan.contexts for plan in plans.values()]
        assert sizes[0] == pytest.approx(sizes[1], rel=2 * TOLERANCE)
        assert (sizes[0] == pytest.approx(1000, rel=TOLERANCE)) == (target == 1000)


def test_a_sentence_is_left_where_one_is_too_many(model: LanguageModel, tmp_path: Path) -> None:
    corpora = {"few": corpus_from_sentences("few", some_sentences(3))}
    plans = equal_plans(corpora, model, tmp_path, contexts=1, settings=SETTINGS)
    assert plans["few"].sentences == 1


def test_more_sentences_are_the_same_and_others() -> None:
    sentences = [str(i) for i in range(1000)]
    taken: set[str] = set()
    for count in (1, 2, 10, 333, 1000):
        some = spread(sentences, count)
        assert len(some) == count
        assert some == sorted(some, key=int)
        assert taken <= set(some)
        taken = set(some)
        assert max(b - a for a, b in pairwise([0, *map(int, some), 999])) <= max(1, 3 * 1000 // count)
    assert spread(sentences, 1000) == sentences


def test_a_corpus_without_contexts_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    corpora = {"a": corpus_from_sentences("a", some_sentences(20)), "b": corpus_from_sentences("b", ["A"])}
    with pytest.raises(CorpusError, match="'b' gives no context"):
        equal_plans(corpora, model, tmp_path)
