from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score

from latentbank.errors import QueryError
from latentbank.query.judging.agreement import Agreement, agreements, items_of
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
    assert [row.kind for row in words if row.model == "all"] == ["any", "concrete", "abstract", "global"]
    models = [row for row in words if row.model != "all"]
    assert len(models) == 9
    assert sum(row.items for row in models) == 360


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
    row = _of(found, between="people", model="all")
    assert (row.items, row.votes, row.accuracy.value) == (2, 4, 0.5)
    assert found == agreements(items_of(reversed(votes)))


def test_votes_without_a_second_rater_are_refused() -> None:
    with pytest.raises(QueryError, match="No item has votes of two raters"):
        agreements(items_of([Vote("m/1/0", "Ada", True), Vote("m/2/0", "judge", True)]))


def test_the_page_lists_what_raters_disagree_on_and_nothing_else() -> None:
    votes = [
        Vote("m/1/same", "Ada", True, frozenset({"concrete"})),
        Vote("m/1/same", "judge", True),
        Vote("m/1/<other>", "Ada", False),
        Vote("m/1/<other>", "judge", True, frozenset({"global", "abstract"})),
    ]
    page = disagreements_html(items_of(votes))
    assert "1 of 2 items" in page
    assert "m/1/&lt;other&gt;" in page
    assert "yes (abstract, global)" in page
    assert "same" not in page
