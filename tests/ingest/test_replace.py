"""A corpus is replaced while others read: they see the old one, then, when it is complete, only the new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.where import Where
from latentbank.errors import CorpusError
from latentbank.ingest.job import store_plan
from latentbank.ingest.plan import Plan
from latentbank.ingest.workers.shares import Share
from latentbank.models.language.model import LanguageModel
from tests.ingest.conftest import Tiny, assert_same_bank, contents
from tests.ingest.jobs import BATCH, LAYERS, Place, some_sentences
from tests.real_server import serving

OLD = some_sentences(15)
NEW = [*OLD[:5], *some_sentences(30)[20:]]


@pytest.fixture
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


@pytest.fixture(params=["embedded", "server"])
def place(
    request: pytest.FixtureRequest, tiny_dir: Callable[..., Path], quick_folder: Path
) -> Iterator[Place]:
    made = Place(tiny_dir(), quick_folder)
    if request.param == "embedded":
        yield made
        return
    with serving() as server:
        yield replace(made, url=server.url, grpc_port=server.grpc_port)


def new_plan(place: Place, bank: Bank, model: LanguageModel, sentences: list[str] = NEW) -> Plan:
    return place.plan(bank, model, sentences, replace=True)


def captions(bank: Bank, model: LanguageModel) -> set[str]:
    """Return the sentences that a reader's search finds, and check that all are of one corpus."""
    (state,) = model.hidden_states([[5, 6]], [2])
    found = bank.search(state[2][1:].numpy(), 2, 10_000)[0]
    assert {neighbor.corpus for neighbor in found} == {"c"}
    assert len(found) == bank.count(2) == bank.count(2, Where(corpus="c"))
    return {neighbor.caption for neighbor in found}


def test_readers_see_the_old_corpus_and_then_the_new_one(
    place: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, quick_folder: Path
) -> None:
    place.job(model, OLD)
    with place.bank(model) as bank:
        with pytest.raises(CorpusError, match="replace the old one, or drop it first"):
            place.plan(bank, model, NEW)
        old = captions(bank, model)
        assert old <= set(OLD)
        plan = new_plan(place, bank, model)

        def killed(layer: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(bank.store, "index", killed)
            with pytest.raises(KeyboardInterrupt):
                store_plan(bank, plan, model, batch=BATCH, replace=True)
        assert captions(bank, model) == old
        assert {name: entry.complete for name, entry in bank.corpora.items()} == {"c": True, "c@2": False}
    with place.bank(model) as bank:
        assert captions(bank, model) == old
        report = store_plan(bank, new_plan(place, bank, model), model, batch=BATCH, replace=True)
        assert (report.corpus, report.found, report.contexts) == ("c", plan.contexts, plan.contexts)
        assert captions(bank, model) <= set(NEW)
        assert bank.count(2) == plan.contexts
        assert list(bank.corpora) == ["c"]
        assert bank.verify() == []
        assert [bank.store.count(layer) for layer in LAYERS] == [plan.contexts] * len(LAYERS)

        # Storing the plan again changes nothing, with `replace` or without.
        for replace in (True, False):
            again = store_plan(bank, place.plan(bank, model, NEW), model, replace=replace)
            assert (again.encoded, again.contexts) == (0, plan.contexts)

        # The bank equals one that never had another corpus, except for the names.
        fresh = Place(place.model, quick_folder / "fresh")
        with fresh.bank(model) as other:
            store_plan(other, fresh.plan(other, model, NEW), model, batch=BATCH)
            expected = contents(other)
        stored = contents(bank)
        for layer in LAYERS:
            assert {payload["corpus"] for payload, _ in stored[layer].values()} == {"c@2"}
            for points in (stored, expected):
                named = {
                    f"{payload['sentence']} {payload['position']}": (
                        payload | {"corpus": "c"},  # type: ignore[operator]
                        vector,
                    )
                    for payload, vector in points[layer].values()
                }
                assert len(named) == plan.contexts
                points[layer] = named
        assert_same_bank(stored, expected)


def test_a_replacement_of_a_replacement_that_is_killed_before_it_deletes(
    place: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.job(model, OLD)
    with place.bank(model) as bank:
        store_plan(bank, new_plan(place, bank, model), model, batch=BATCH, replace=True)
        plan = new_plan(place, bank, model, OLD)

        def killed(corpus: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(bank, "forget_obsolete", killed)
            with pytest.raises(KeyboardInterrupt):
                store_plan(bank, plan, model, batch=BATCH, replace=True)
        assert captions(bank, model) <= set(OLD)
        assert bank.store.count(2) > plan.contexts
    with place.bank(model) as bank:
        assert store_plan(bank, plan, model, batch=BATCH, replace=True).encoded == 0
        assert bank.corpora["c"].stored == "c@3"
        assert bank.store.count(2) == plan.contexts
        assert bank.verify() == []


def test_another_replacement_that_is_not_complete(place: Place, model: LanguageModel) -> None:
    place.job(model, OLD)
    with place.bank(model) as bank:
        plan = new_plan(place, bank, model)
        store_plan(bank, plan, model, batch=BATCH, share=Share(0, 2), replace=True)
        other = new_plan(place, bank, model, NEW[:5])
        with pytest.raises(CorpusError, match=r"another replacement of 'c' .*drop the corpus 'c@2'"):
            store_plan(bank, other, model, batch=BATCH, replace=True)
        bank.drop_corpus("c@2")
        store_plan(bank, other, model, batch=BATCH, replace=True)
        assert captions(bank, model) <= set(NEW[:5])
        assert bank.verify() == []


def test_nothing_to_replace(place: Place, model: LanguageModel) -> None:
    with place.bank(model) as bank:
        plan = new_plan(place, bank, model)
        assert store_plan(bank, plan, model, batch=BATCH, replace=True).encoded == plan.contexts
        assert bank.corpora["c"].stored == "c"
        assert bank.verify() == []


def test_shares_of_a_replacement(place: Place, model: LanguageModel) -> None:
    place.job(model, OLD)
    with place.bank(model) as bank:
        old = captions(bank, model)
        plan = new_plan(place, bank, model)
        first = store_plan(bank, plan, model, batch=BATCH, share=Share(1, 2), replace=True)
        assert not first.complete
        assert captions(bank, model) == old
        assert store_plan(bank, plan, model, batch=BATCH, share=Share(0, 2), replace=True).complete
        assert captions(bank, model) <= set(NEW)
        assert bank.verify() == []
        assert store_plan(bank, plan, model, batch=BATCH, share=Share(1, 2), replace=True).encoded == 0
        assert bank.verify() == []


def test_an_old_corpus_is_announced_before_its_first_context(
    place: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server, a writer gives readers time to read the new ledger before it stores the first context."""
    waits: list[float] = []
    with place.bank(model) as bank:
        plan = place.plan(bank, model, NEW)

        def sleep(seconds: float) -> None:
            if seconds > 500:
                assert not bank.corpora["c"].complete
                waits.append(bank.store.count(2))

        with monkeypatch.context() as patch:
            patch.setattr("latentbank.ingest.job.LEDGER_SECONDS", 1000.0)
            patch.setattr("latentbank.ingest.job.time.sleep", sleep)
            store_plan(bank, plan, model, batch=BATCH)
        assert waits[:1] == ([0] if place.url else [])
