from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score

from latentbank.errors import QueryError
from latentbank.query.judging.agreement import Agreement, _compared, agreements, items_of
from latentbank.query.judging.draws import drawn_statistics
from latentbank.query.judging.page import disagreements_html
from latentbank.query.judging.votes import Vote, read_votes

# The votes of the LatentLens authors' human study; see NOTICE.
VOTES = Path(__file__).with_name("human-votes.csv")


def _of(found: list[Agreement], **about: str) -> Agreement:
    (row,) = [row for row in found if all(getattr(row, name) == value for name, value in about.items())]
    return row


@pytest.fixture(scope="module")
def published() -> list[Agreement]:
    return agreements(items_of(read_votes([VOTES])), draws=50)


@pytest.mark.parametrize(
    ("study", "items", "accuracy", "kappa"),
    [("words", 360, 0.8472, 0.6586), ("sentences", 300, 0.8300, 0.6604)],
)
def test_the_published_votes_agree_as_published(
    published: list[Agreement], study: str, items: int, accuracy: float, kappa: float
) -> None:
    row = _of(published, study=study, between="judge", model="all", kind="any")
    assert row.items == items
    assert row.accuracy.value is not None
    assert row.kappa.value is not None
    assert round(row.accuracy.value, 4) == accuracy
    assert round(row.kappa.value, 4) == kappa
    for estimate in (row.accuracy, row.kappa, row.spearman, row.alpha):
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high


def test_each_model_and_each_kind_is_compared(published: list[Agreement]) -> None:
    words = [row for row in published if (row.study, row.between) == ("words", "judge")]
    kinds = ["any", "concrete", "abstract", "global"]
    models = list(dict.fromkeys(row.model for row in words))
    assert models[0] == "all"
    assert len(models) == 10
    for model in models:
        assert [row.kind for row in words if row.model == model] == kinds
    assert sum(row.items for row in words if row.model != "all" and row.kind == "any") == 360


@given(
    st.lists(
        st.tuples(st.lists(st.booleans(), min_size=1, max_size=4), st.booleans()), min_size=2, max_size=12
    )
)
def test_statistics_are_those_of_scikit_learn_and_scipy(rows: list[tuple[list[bool], bool]]) -> None:
    votes = [
        Vote(f"m/{i}/0", rater, vote)
        for i, (people, verdict) in enumerate(rows)
        for rater, vote in [*((f"person {n}", v) for n, v in enumerate(people)), ("judge", verdict)]
    ]
    row = _of(agreements(items_of(votes), draws=0), between="judge", model="all", kind="any")
    shares = np.array([np.mean(people) for people, _ in rows])
    verdicts = np.array([verdict for _, verdict in rows])
    majority = shares >= 0.5
    assert row.accuracy.value == pytest.approx(accuracy_score(majority, verdicts))
    if len(np.unique([majority, verdicts])) > 1:
        assert row.kappa.value == pytest.approx(cohen_kappa_score(majority, verdicts))
    else:
        assert row.kappa.value is None
    if np.ptp(shares) > 0 and 0 < verdicts.mean() < 1:
        assert row.spearman.value == pytest.approx(spearmanr(shares, verdicts).statistic)
    else:
        assert row.spearman.value is None


def test_people_are_compared_in_pairs_whoever_comes_first() -> None:
    votes = [Vote("m/1/0", "Ada", True), Vote("m/1/0", "Bo", False), Vote("m/2/0", "Ada", True)]
    votes += [Vote("m/2/0", "Bo", True), Vote("m/3/0", "Ada", False)]
    found = agreements(items_of(votes))
    row = _of(found, between="people", model="all", kind="any")
    assert (row.items, row.votes, row.accuracy.value) == (2, 4, 0.5)
    assert found == agreements(items_of(reversed(votes)))


def test_votes_without_a_second_rater_are_refused() -> None:
    with pytest.raises(QueryError, match="No item has votes of two raters"):
        agreements(items_of([Vote("m/1/0", "Ada", True), Vote("m/2/0", "judge", True)]))


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=4), min_size=2, max_size=8), st.integers(1, 3))
def test_draws_have_the_statistics_of_the_items_they_hold(items: list[list[bool]], images: int) -> None:
    """A draw of some images is as if there were only those, each as often as it was drawn."""
    votes = [
        Vote(f"m/{i % images}/{i}", f"person {n}", vote)
        for i, people in enumerate(items)
        for n, vote in enumerate(people)
    ]
    found = items_of(votes)
    drawn = [item for item in found for _ in range(int(item.image) + 1)]  # image 0 once, image 1 twice
    row = _of(agreements(drawn, draws=0), kind="any")
    compared = _compared(
        found, [np.array([v.interpretable for v in i.people], float) for i in found], "people", "any"
    )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(item.image for item in found))}
    weights = np.array([[float(image) + 1 for image in numbers]])
    statistics = drawn_statistics(
        weights,
        compared.image_of_pair,
        compared.shares,
        compared.votes,
        compared.image_of_item,
        compared.counts,
    )
    for name, given_by_libraries in (
        ("accuracy", row.accuracy), ("kappa", row.kappa), ("spearman", row.spearman), ("alpha", row.alpha)
    ):  # fmt: skip
        (value,) = statistics[name]
        if given_by_libraries.value is None:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(given_by_libraries.value)


def test_draws_of_a_judge_against_shares_have_its_statistics() -> None:
    shares, verdicts = [0.0, 1 / 3, 0.5, 1.0, 1.0], [False, True, True, True, False]
    one = np.zeros(5, dtype=int)
    counts = np.array([[2 - (s >= 0.5) - v, (s >= 0.5) + v] for s, v in zip(shares, verdicts, strict=True)])
    found = drawn_statistics(np.array([[2.0]]), one, np.array(shares), np.array(verdicts), one, counts)
    twice = [one_share for one_share in shares for _ in range(2)], [v for v in verdicts for _ in range(2)]
    assert found["spearman"][0] == pytest.approx(spearmanr(*twice).statistic)
    assert found["kappa"][0] == pytest.approx(cohen_kappa_score(np.array(twice[0]) >= 0.5, twice[1]))


def test_controls_are_compared_by_themselves() -> None:
    votes = [
        Vote(
            f"m/{image}/{control}",
            rater,
            not control,
            frozenset({"concrete"} - {control and "concrete"}),
            "",
            control,
        )
        for image in range(3)
        for control in ("", "other image")
        for rater in ("Ada", "Bo", "judge")
    ]
    found = agreements(items_of(votes), draws=0)
    assert {row.items for row in found} == {3}
    assert {(row.control, row.kind) for row in found} == {
        *(("", kind) for kind in ("any", "concrete", "abstract", "global")), ("other image", "any"),
    }  # fmt: skip
    assert [row.yes for row in found if row.control] == [0, 0]  # of the judge, and of people


def test_votes_on_other_words_are_not_compared() -> None:
    votes = [
        Vote("m/1/0", "Ada", True, words=("dog", "cat")),
        Vote("m/1/0", "judge", True, words=("dog", "cow")),
        Vote("m/1/0", "Bo", True),
    ]
    with pytest.raises(QueryError, match=r"m/1/0 were shown other words \(dog, cat; dog, cow\)"):
        items_of(votes)
    assert len(items_of([votes[0], votes[2]])) == 1


def test_the_page_lists_what_raters_disagree_on_and_nothing_else() -> None:
    votes = [
        Vote("m/1/same", "Ada", True, frozenset({"concrete"})),
        Vote("m/1/same", "judge", True),
        Vote("m/1/<other>", "Ada", False),
        Vote("m/1/<other>", "judge", True, frozenset({"global", "abstract"})),
    ]
    votes += [
        Vote("m/2/people", "Ada", False, words=("dog", "cat"), kinds=("", ""), shown=("A **dog**!", "A cat")),
        Vote("m/2/people", "Bo", True, frozenset({"concrete"}), words=("dog", "cat"), kinds=("concrete", "")),
        Vote("m/2/people", "judge", True, words=("dog", "cat"), kinds=("concrete+global", "")),
    ]
    page = disagreements_html(items_of(votes), {"m/2/people": "data:image/jpeg;base64,AAAA"})
    assert "2 of 3 items" in page
    assert "the judge and the people&#x27;s majority differ on 1 items" in page
    assert "people differ among themselves on 1 items" in page
    assert "m/1/&lt;other&gt;" in page
    assert "yes (abstract, global)" in page
    assert "<td>A <mark>dog</mark>!</td><td>–</td><td>concrete</td><td>concrete, global</td>" in page
    assert page.count("<img") == 1
    assert "same" not in page
