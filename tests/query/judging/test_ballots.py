"""Votes of people and verdicts of judges together: who the judge is, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentbank.errors import QueryError
from latentbank.query.judging.agreement import items_of
from latentbank.query.judging.annotations import Annotations
from latentbank.query.judging.ballots import read_ballots
from latentbank.query.judging.pictures import pictures_of
from latentbank.query.judging.questions import find_questions
from latentbank.query.judging.verdicts import Verdict, save_verdicts
from tests.query.judging.asked import readings_in


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Answers of a person, verdicts of two judges, and the readings; one verdict cannot be read."""
    _, readings = readings_in(tmp_path, images=2)
    questions = find_questions([readings], study="sentences", controls=0).asked
    answers = Annotations(tmp_path / "a.jsonl")
    verdicts = []
    for number, question in enumerate(questions):
        answers.save(question, "Ada", ["concrete", ""])
        for judge in ("gpt", "qwen"):
            word = question.candidates[0].word
            state = "answered" if number else "unreadable"
            verdicts.append(Verdict.of(question, judge, state=state, concrete=(word,) if number else ()))
    return answers.path, save_verdicts(tmp_path / "v.parquet", verdicts), readings


def test_a_judge_of_several_is_named_and_the_others_are_no_people(study: tuple[Path, Path, Path]) -> None:
    answers, verdicts, _ = study
    with pytest.raises(QueryError, match="verdicts of gpt, qwen; name the judge"):
        read_ballots([answers, verdicts])
    with pytest.raises(QueryError, match="no rater gpt-5; there are gpt, qwen, Ada"):
        read_ballots([answers, verdicts], "gpt-5")
    ballots = read_ballots([verdicts, answers], "qwen")
    assert (ballots.judge, ballots.left_out) == ("qwen", 1)
    items = items_of(ballots.votes, ballots.judge)
    assert {vote.rater for item in items for vote in item.people} == {"Ada"}
    assert [item.judge is None for item in items].count(True) == 1
    assert all(item.disagreement == "" for item in items)
    vote = next(item.judge for item in items if item.judge)
    assert (vote.rater, vote.kinds) == ("qwen", ("concrete", ""))
    assert read_ballots([answers]).judge is None


def test_items_are_drawn_from_their_readings(study: tuple[Path, Path, Path], tmp_path: Path) -> None:
    answers, _, readings = study
    items = items_of(read_ballots([answers]).votes, None)
    found = pictures_of(items, [readings])
    assert found.keys() == {item.name for item in items}
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in found.values())
    assert len(set(found.values())) == 2  # an image has one box
    _, other = readings_in(tmp_path / "other", images=1, model="another/model")
    with pytest.raises(QueryError, match="None of the items is about these readings"):
        pictures_of(items, [other])
