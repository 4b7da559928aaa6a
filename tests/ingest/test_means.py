"""Means of a centred bank: means of a plan's contexts, the same after a kill, and kept for every corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import latentbank.ingest.means
from latentbank.bank.bank import Bank
from latentbank.bank.rotation import rotate, unit
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.encode import encode
from latentbank.ingest.job import store_plan
from latentbank.ingest.means import text_means
from latentbank.ingest.plan import Plan
from latentbank.ingest.planning import make_plan
from latentbank.models.language.model import LanguageModel
from tests.ingest.conftest import Tiny, assert_same_bank, contents
from tests.ingest.jobs import BATCH, LAYERS, Place, some_sentences

SENTENCES = some_sentences(60)
Means = dict[int, npt.NDArray[np.float32]]


@pytest.fixture
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


@pytest.fixture
def plan(model: LanguageModel, tmp_path: Path) -> Plan:
    return make_plan(corpus_from_sentences("c", SENTENCES), model, tmp_path / "plan")


@pytest.fixture
def place(tiny_dir: Callable[..., Path], tmp_path: Path) -> Place:
    return Place(tiny_dir(), tmp_path, metric="centred")


def states_of(model: LanguageModel, plan: Plan) -> Means:
    pieces = list(encode(model, plan.corpus, plan.read(), LAYERS))
    return {layer: np.concatenate([piece.states[layer] for piece in pieces]) for layer in LAYERS}


def test_a_small_plan_is_used_whole(model: LanguageModel, plan: Plan) -> None:
    found, earlier = text_means(plan, model, LAYERS), text_means(plan, model, LAYERS, units=False)
    for layer, states in states_of(model, plan).items():
        assert found[layer].dtype == earlier[layer].dtype == np.float32
        np.testing.assert_allclose(found[layer], unit(states).mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(earlier[layer], states.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("sample", [30, 100])
def test_a_sample_is_spread_over_the_plan(
    model: LanguageModel, plan: Plan, monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    """The sample has about the requested size, does not depend on the batch, and its mean is near the true one."""
    monkeypatch.setattr(latentbank.ingest.means, "SAMPLE", sample)
    read: list[int] = []
    original = Plan.sample

    def spied(self: Plan, count: int) -> object:
        for sentence in original(self, count):
            read.append(len(sentence.positions))
            yield sentence

    monkeypatch.setattr(Plan, "sample", spied)
    first, other = text_means(plan, model, LAYERS), text_means(plan, model, LAYERS, batch=40)
    assert 0.5 * sample < sum(read) / 2 < 1.6 * sample < plan.contexts
    for layer, states in states_of(model, plan).items():
        np.testing.assert_allclose(first[layer], other[layer], atol=1e-5)
        off = np.linalg.norm(first[layer] - states.mean(axis=0))
        assert 1e-4 < off < 4 * np.linalg.norm(states.std(axis=0)) / np.sqrt(sum(read) / 2)


def test_sample_gives_evenly_spread_sentences(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = list(plan.read())
    assert list(plan.sample(plan.planned_sentences)) == list(plan.sample(10**9)) == everything
    assert list(plan.sample(3)) == [everything[i * len(everything) // 3] for i in range(3)]
    assert list(plan.sample(1)) == everything[:1]


def test_a_sample_reaches_into_every_batch_of_a_plan(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.ingest.planning._BATCH", 7)
    plan = make_plan(corpus_from_sentences("c", SENTENCES), model, tmp_path / "small batches")
    assert list(plan.sample(20)) == [list(plan.read())[i * plan.planned_sentences // 20] for i in range(20)]


def fill(bank: Bank, place: Place, model: LanguageModel, corpus: str = "c", count: int = 60) -> None:
    store_plan(bank, place.plan(bank, model, some_sentences(count), corpus), model, batch=BATCH)


def test_a_job_centres_what_it_stores(place: Place, model: LanguageModel) -> None:
    with place.bank(model) as bank:
        plan = place.plan(bank, model, SENTENCES)
        store_plan(bank, plan, model, batch=BATCH)
        assert bank.verify() == []
        expected = {}
        for piece in encode(model, "c", plan.read(), LAYERS):
            for layer, states in piece.states.items():
                rows = rotate(unit(unit(states) - bank.text_mean(layer)), bank.manifest.rotation_seed)
                expected |= {(layer, id_): row for id_, row in zip(piece.ids, rows, strict=True)}
        stored = {
            (layer, id_): row for layer, found in contents(bank).items() for id_, (_, row) in found.items()
        }
        assert stored.keys() == expected.keys()
        for key, row in stored.items():
            np.testing.assert_allclose(row, expected[key], atol=2e-3)
        for layer in LAYERS:  # what remains of the mean
            assert np.linalg.norm(np.mean([v for (at, _), v in stored.items() if at == layer], axis=0)) < 0.2


def test_every_corpus_is_centred_by_the_first(place: Place, model: LanguageModel) -> None:
    with place.bank(model) as bank:
        fill(bank, place, model)
        first = dict(bank.manifest.means)
        assert sorted(first) == list(LAYERS)
        fill(bank, place, model, "other", 30)
        fill(bank, place, model)
        assert bank.manifest.means == first
        bank.drop_corpus("c")
        fill(bank, place, model)
        assert bank.manifest.means == first
        assert bank.verify() == []


class Killed(BaseException):
    """An exception that ends a job at a chosen step, as abruptly as a signal."""


def test_a_job_that_is_killed_while_it_estimates(
    place: Place, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored without means, and the next job estimates the same ones."""
    unbroken = Place(place.model, tmp_path / "unbroken", metric="centred")
    with unbroken.bank(model) as bank:
        fill(bank, unbroken, model)
        means, kept = dict(bank.manifest.means), contents(bank)
    forward, left = model._run, [2]

    def dying(*given: object) -> object:
        left[0] -= 1
        if not left[0]:
            raise Killed
        return forward(*given)  # type: ignore[arg-type]

    with place.bank(model) as bank:
        plan = place.plan(bank, model, SENTENCES)
        with monkeypatch.context() as patch:
            patch.setattr(model, "_run", dying)
            with pytest.raises(Killed):
                store_plan(bank, plan, model, batch=BATCH)
        assert bank.info().manifest.means == {}
        assert bank.corpora == {}
    with place.bank(model) as bank:
        fill(bank, place, model)
        assert bank.manifest.means == means
        assert_same_bank(contents(bank), kept)


def test_a_job_that_is_killed_after_the_means_were_fixed(
    place: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.bank(model) as bank:
        plan = place.plan(bank, model, SENTENCES)
        with monkeypatch.context() as patch:
            patch.setattr(bank.store, "change_entry", lambda *_: (_ for _ in ()).throw(Killed()))
            with pytest.raises(Killed):
                store_plan(bank, plan, model, batch=BATCH)
        means = dict(bank.info().manifest.means)
    with place.bank(model) as bank:
        # Other means would now be wrong for the contexts that are stored.
        monkeypatch.setattr(latentbank.ingest.means, "SAMPLE", 5)
        fill(bank, place, model)
        assert bank.manifest.means == means != {}
        assert bank.verify() == []


def test_a_plain_bank_estimates_nothing(
    place: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "latentbank.ingest.job.text_means", lambda *_, **__: pytest.fail("means were estimated")
    )
    plain = Place(place.model, tmp_path / "plain")
    with plain.bank(model) as bank:
        fill(bank, plain, model)
        assert bank.manifest.means == {}


def test_progress_of_centring_and_of_the_job(place: Place, model: LanguageModel) -> None:
    updates: list[tuple[str, float]] = []

    class Recorder:
        what = ""

        def stage(self, what: str, unit: str) -> None:
            self.what = f"{what} {unit}"

        def update(self, done: float, total: float | None = None) -> None:
            updates.append((self.what, done / (total or 1)))

    with place.bank(model) as bank:
        store_plan(bank, place.plan(bank, model, SENTENCES), model, Recorder(), batch=BATCH)
    stages = list(dict.fromkeys(what for what, _ in updates))
    assert stages == ["centring contexts", "ingesting contexts", "indexing layers"]
    assert [max(share for what, share in updates if what == stage) for stage in stages[:2]] == [1.0, 1.0]
