"""Centred banks: created, given their means once, filled, searched, and never mixed with others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import SCHEMA, UNIT_MEANS, checked_means
from latentbank.bank.opening import list_banks, open_bank
from latentbank.bank.rotation import rotate, unit
from latentbank.bank.settings import load_settings
from latentbank.errors import BankMismatch, LatentBankError, LayerNotFound, QueryError
from tests.bank.samples import (
    WIDTH,
    Floats,
    Place,
    fill,
    ids,
    is_one_sentence,
    nearest,
    put_head,
    sample_bank,
    units,
)

# Contexts lie far from zero, and queries in another place than text; centring removes both offsets.
TEXT = {layer: units(1, seed=50 + layer)[0] * 20 for layer in (4, 8)}
VISUAL = units(1, seed=70)[0] * 90


def around(layer: int) -> Floats:
    return units(60, seed=layer) + TEXT[layer]


def prepared(bank: Bank, states: Floats) -> Floats:
    """What the bank's means are means of: unit vectors, or in a bank of an earlier version states as they are."""
    return unit(states) if bank.manifest.unit_means else states


def mean_of(bank: Bank, states: Floats) -> Floats:
    return prepared(bank, states).mean(axis=0)


@pytest.fixture(params=[UNIT_MEANS, SCHEMA], ids=["unit means", "earlier version"])
def centred(place: Place, request: pytest.FixtureRequest) -> Any:
    with sample_bank(place, metric="centred") as bank:
        assert bank.manifest.unit_means
        put_head(bank.store, bank.manifest.head() | {"schema": request.param})
        bank.reload()
        assert bank.manifest.unit_means == (request.param == UNIT_MEANS)
        bank.fix_means({layer: mean_of(bank, around(layer)) for layer in bank.layers})
        fill(bank, 60, states=around)
        yield bank


def test_the_metric_is_kept(place: Place) -> None:
    with sample_bank(place, metric="centred") as made:
        assert made.metric == "centred"
        made.fix_means(TEXT)
    with open_bank("bank", place.settings) as opened:
        assert opened.metric == opened.info().manifest.metric == "centred"
        assert "centred, layers 4, 8" in repr(opened)
        for layer, mean in TEXT.items():
            np.testing.assert_array_equal(opened.text_mean(layer), mean)
    with (
        sample_bank(place) as same,
        pytest.raises(LayerNotFound, match=r"at layer 6; it knows that of 4, 8\."),
    ):
        same.text_mean(6)
    with sample_bank(place, "plain") as plain:
        assert plain.metric == "cosine"
        assert "cosine" not in repr(plain)


def test_a_setting_chooses_the_metric_of_new_banks_only(place: Place) -> None:
    given = place.settings.model_copy(update={"metric": "centred"})
    sample_bank(place, "old").close()
    for name, metric in (("old", "cosine"), ("new", "centred")):
        with sample_bank(Place(place.kind, given), name) as bank:
            assert bank.metric == metric
    with sample_bank(Place(place.kind, given), "plain", metric="cosine") as bank:
        assert bank.metric == "cosine"


def test_the_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBANK_METRIC", "centred")
    assert load_settings().metric == "centred"
    monkeypatch.setenv("LATENTBANK_METRIC", "euclid")
    with pytest.raises(LatentBankError, match="LATENTBANK_METRIC is wrong"):
        load_settings()


@pytest.mark.parametrize(("made", "requested"), [("cosine", "centred"), ("centred", "cosine")])
def test_another_metric_is_refused(place: Place, made: str, requested: str) -> None:
    sample_bank(place, metric=made).close()
    with pytest.raises(
        BankMismatch, match=f"made with metric '{made}', not '{requested}'; leave the metric out"
    ) as caught:
        sample_bank(place, metric=requested)
    assert is_one_sentence(caught.value)
    with sample_bank(place) as bank:
        assert bank.metric == made


def test_an_unknown_metric(place: Place) -> None:
    with pytest.raises(LatentBankError, match="metric is 'dot'; it can be 'cosine' or 'centred'"):
        sample_bank(place, metric="dot")
    assert list_banks(place.settings) == []


def test_what_is_stored_is_centred_unit_and_rotated(centred: Bank) -> None:
    row = {item: number for number, item in enumerate(ids(range(60)))}
    for layer in centred.layers:
        states = prepared(centred, around(layer))
        expected = rotate(unit(states - states.mean(axis=0)), centred.manifest.rotation_seed)
        for point in centred.store.scroll(layer, vectors=True):
            assert point.vector is not None
            np.testing.assert_allclose(point.vector, expected[row[point.id]], atol=2e-3)
    assert centred.verify() == []


@pytest.mark.parametrize("kind", ["one mean", "row by row", "a list"])
def test_queries_subtract_their_own_mean(centred: Bank, kind: str) -> None:
    """Queries are 30 % off a context and in another place: their direction from their own mean finds the context."""
    rows = [7, 31, 59]
    queries = units(60, seed=8)[rows] + 0.3 * units(3, seed=99) + VISUAL
    own = mean_of(centred, units(60, seed=8) + VISUAL)
    mean: Any = {"one mean": own, "row by row": np.tile(own, (3, 1)), "a list": own.tolist()}[kind]
    found = centred.search(queries, 8, 3, exact=True, query_mean=mean)
    contexts = prepared(centred, around(8))
    order, cosines = nearest(contexts - contexts.mean(axis=0), prepared(centred, queries) - own, 3)
    known = ids(range(60))
    assert order[:, 0].tolist() == rows
    for neighbors, best, near in zip(found, order, cosines, strict=True):
        assert [n.id for n in neighbors] == [known[i] for i in best]
        assert [n.cosine for n in neighbors] == pytest.approx(near.tolist(), abs=2e-3)


def test_each_row_may_have_a_mean_of_its_own(centred: Bank) -> None:
    offsets = np.stack([VISUAL, -3 * VISUAL])
    means = np.stack([mean_of(centred, units(60, seed=4) + offset) for offset in offsets])
    found = centred.search(units(60, seed=4)[[5, 6]] + offsets, 4, 1, exact=True, query_mean=means)
    assert [n.id for (n,) in found] == ids([5, 6])


def test_a_centred_bank_must_be_told_the_mean_of_queries(centred: Bank) -> None:
    for unique in (None, "word"):
        with pytest.raises(QueryError, match=r"is centred.*text_mean\(LAYER\)") as caught:
            centred.search(units(2), unique=unique)  # type: ignore[arg-type]  # a literal, but in a loop
        assert is_one_sentence(caught.value)


def test_a_plain_bank_takes_no_mean(place: Place) -> None:
    with sample_bank(place) as plain:
        fill(plain, 10)
        with pytest.raises(QueryError, match=r"not centred.*leave query_mean out") as caught:
            plain.search(units(2), query_mean=VISUAL)
        assert is_one_sentence(caught.value)
        with pytest.raises(QueryError, match="it has no means"):
            plain.text_mean(4)
        with pytest.raises(BankMismatch, match="it has no means"):
            plain.fix_means(TEXT)


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (np.ones(WIDTH - 1), r"has shape \[31\]; it must be \[32\], or one for each of them, \[2, 32\]"),
        (np.ones((3, WIDTH)), r"has shape \[3, 32\]"),
        (np.full(WIDTH, np.inf), "not finite"),
        (["a"], "must be an array of numbers"),
        (units(2)[1], "Row 1 of the queries equals its mean"),
    ],
)
def test_malformed_means(centred: Bank, mean: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        centred.search(units(2), query_mean=mean)
    assert is_one_sentence(caught.value)


def test_no_context_without_means(place: Place) -> None:
    with sample_bank(place, metric="centred") as bank:
        with pytest.raises(BankMismatch, match="its means are not fixed yet"):
            fill(bank, 3, states=around)
        assert [bank.count(layer) for layer in bank.layers] == [0, 0]
        axis = np.eye(WIDTH, dtype=np.float32)[0]
        bank.fix_means(dict.fromkeys(bank.layers, axis))
        with pytest.raises(QueryError, match="Row 1 of the hidden states equals its mean"):
            bank.add(4, ids([1, 2]), np.stack([VISUAL, 3 * axis]), [{}, {}])  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "means",
    [{4: TEXT[4]}, TEXT | {12: TEXT[4]}, TEXT | {8: TEXT[8][1:]}, TEXT | {8: TEXT[8] * np.nan}],
    ids=["one missing", "one too many", "too short", "not finite"],
)
def test_means_must_fit_the_bank(place: Place, means: Any) -> None:
    with sample_bank(place, metric="centred") as bank:
        with pytest.raises(BankMismatch, match="a mean of 32 finite numbers for each of its layers 4, 8"):
            bank.fix_means(means)
        assert bank.info().manifest.means == {}


def test_means_are_fixed_once(centred: Bank) -> None:
    before = {layer: centred.text_mean(layer) for layer in centred.layers}
    centred.fix_means({layer: mean * 2 for layer, mean in before.items()})
    for layer, mean in before.items():
        np.testing.assert_array_equal(centred.text_mean(layer), mean)
    assert centred.corpora["animals"].contexts == 60
    centred.drop_corpus("animals")
    centred.reload()
    np.testing.assert_array_equal(centred.text_mean(4), before[4])


def test_two_jobs_that_fix_means_at_the_same_moment(place: Place) -> None:
    """The job whose means were overwritten notices before it completes its corpus."""
    with sample_bank(place, metric="centred") as bank:
        bank.fix_means(TEXT)
        other = bank.manifest.head()
        other["means"] = dict(zip(other["means"], reversed(other["means"].values()), strict=True))
        put_head(bank.store, other)
        with pytest.raises(BankMismatch, match=r"fixed other means.*drop the corpus of this one") as caught:
            fill(bank, 60, states=around)
        assert is_one_sentence(caught.value)


def test_of_workers_that_fix_means_at_the_same_moment_the_first_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sample_bank(place, metric="centred") as bank:
        other = {layer: mean * 2 for layer, mean in TEXT.items()}

        def checked(*given: Any) -> dict[int, str]:
            """Check this worker's means, and let another one be faster before they are stored."""
            monkeypatch.undo()
            bank.fix_means(other)
            return checked_means(*given)

        monkeypatch.setattr("latentbank.bank.changes.checked_means", checked)
        bank.fix_means(TEXT)
        np.testing.assert_array_equal(bank.text_mean(4), other[4])
        fill(bank, 60, states=around)


def test_lost_means_are_found(centred: Bank, place: Place) -> None:
    put_head(centred.store, centred.manifest.head() | {"means": {}})
    with pytest.raises(BankMismatch):
        centred.verify()
    centred.close()
    with open_bank("bank", place.settings) as opened:
        assert opened.verify() == [
            "The bank 'bank' is centred, but its means are lost; restore its manifest from a backup."
        ]


def test_a_bank_of_unit_means_is_refused_by_versions_that_do_not_know_them(place: Place) -> None:
    with sample_bank(place, "plain") as plain, sample_bank(place, metric="centred") as bank:
        assert (plain.manifest.head()["schema"], bank.manifest.head()["schema"]) == (SCHEMA, UNIT_MEANS)
        put_head(bank.store, bank.manifest.head() | {"schema": 4})
        with pytest.raises(
            BankMismatch, match=r"manifest schema 4, this latentbank reads schema 1 or 3; use"
        ):
            bank.reload()
