"""Readers see complete corpora by their own names, also while corpora are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.ledger import replacement_name, visible
from latentbank.bank.opening import open_bank
from latentbank.bank.where import Filter, Where
from latentbank.errors import LatentBankError, QueryError
from tests.bank.samples import Place, entry, fill, ids, payload, sample_bank, units
from tests.bank.servers import settings
from tests.wire.double import QdrantDouble


@pytest.fixture
def bank(place: Place) -> Iterator[Bank]:
    """30 contexts of `animals`, complete, 20 of `plants`, not complete, and 5 of `stray`, not in the ledger."""
    with sample_bank(place) as made:
        fill(made, 30)
        fill(made, 20, "plants", complete=False)
        for layer in made.layers:
            rows = units(5, seed=9)
            made.add(layer, ids(range(5), "stray"), rows, [payload(n, "stray") for n in range(5)])
        made.commit()
        yield made


def found(bank: Bank, where: Filter | None = None) -> dict[str, int]:
    """How many contexts of each corpus a search finds."""
    corpora = [item.corpus for item in bank.search(units(1), 4, 100, where)[0]]
    assert len(corpora) == bank.count(4, where)
    assert len(corpora) == sum(bank.words(where).values())
    return {name: corpora.count(name) for name in dict.fromkeys(sorted(corpora))}


def test_readers_see_complete_corpora_only(place: Place, bank: Bank) -> None:
    """Contexts of a corpus that is not in the ledger are shown if it hides nothing: searches then have no filter."""
    assert found(bank) == {"animals": 30}
    assert found(bank, Where(corpus="plants")) == {}
    assert found(bank, Where(corpus=["plants", "animals"])) == {"animals": 30}
    assert found(bank, ~Where(corpus="animals")) == {}
    assert list(bank.shown_corpora) == ["animals"]
    bank.record(replace(bank.corpora["plants"], complete=True))
    assert found(bank) == {"animals": 30, "plants": 20, "stray": 5}
    bank.record(replace(bank.corpora["animals"], complete=False))
    bank.close()
    with open_bank("bank", place.settings) as reader:
        assert found(reader) == {"plants": 20}
    with open_bank("bank", place.settings, include_incomplete=True) as reader:
        assert found(reader) == {"animals": 30, "plants": 20, "stray": 5}
        assert found(reader, Where(corpus="animals")) == {"animals": 30}
        assert set(reader.shown_corpora) == {"animals", "plants"}


def test_a_corpus_takes_anothers_place(place: Place, bank: Bank) -> None:
    """At every moment readers see one of the two, by the same name."""
    old = bank.corpora["animals"]
    name = replacement_name(old)
    assert name == "animals@2"
    fill(bank, 12, name, complete=False)
    bank.record(replace(bank.corpora[name], replaces="animals"))
    assert found(bank) == {"animals": 30}
    kept = bank.store.delete_corpus
    counts: list[dict[str, int]] = []

    def deleting(layer: int, corpus: str) -> None:
        counts.append(found(bank))
        kept(layer, corpus)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank.store, "delete_corpus", deleting)
        patch.setattr("latentbank.bank.removal.LEDGER_SECONDS", 0.0)
        bank.supersede(bank.corpora[name])
    assert counts == [{"animals": 12}] * 2
    assert found(bank) == {"animals": 12}
    assert found(bank, Where(corpus="animals")) == {"animals": 12}
    assert found(bank, ~Where(corpus=["animals", "none"]) | Where(corpus="animals")) == found(bank)
    assert {corpus.name: corpus.stored for corpus in bank.corpora.values()} == {
        "plants": "plants",
        "animals": "animals@2",
    }
    assert replacement_name(bank.corpora["animals"]) == "animals@3"
    assert bank.store.facet(8, "corpus") == {"plants": 20, "animals@2": 12, "stray": 5}
    with pytest.raises(LatentBankError, match="has no corpus 'animals@2'"):
        bank.drop_corpus("animals@2")
    assert bank.drop_corpus("animals") == 12
    assert found(bank) == {}  # no corpus is complete
    assert bank.drop_corpus("stray") == 5
    bank.record(replace(bank.corpora["plants"], complete=True))
    assert bank.verify() == []


def test_two_workers_that_complete_a_replacement_do_it_once(bank: Bank) -> None:
    """The second worker must not mistake the new corpus for the old one and delete it."""
    fill(bank, 12, "animals@2", complete=False)
    new = replace(bank.corpora["animals@2"], replaces="animals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentbank.bank.removal.LEDGER_SECONDS", 0.0)
        bank.supersede(new)
        bank.supersede(new)
    assert found(bank) == {"animals": 12}
    assert bank.corpora["animals"].obsolete == ()


def test_leftovers_of_a_replacement_are_hidden_reported_and_deleted(place: Place, bank: Bank) -> None:
    """The job was killed after readers got the new corpus, before the old one was deleted."""
    fill(bank, 12, "animals@2", complete=False)
    killed = pytest.MonkeyPatch()
    killed.setattr(bank, "forget_obsolete", lambda _: None)
    killed.setattr("latentbank.bank.removal.LEDGER_SECONDS", 0.0)
    bank.supersede(replace(bank.corpora["animals@2"], replaces="animals"))
    killed.undo()
    bank.close()
    with open_bank("bank", place.settings, include_incomplete=True) as again:
        assert found(again) == {"animals": 12, "plants": 20}
        assert any("'animals' was replaced, but its old contexts" in wrong for wrong in again.verify())
        assert not any("corpus 'animals', which is not in the ledger" in wrong for wrong in again.verify())
        again.forget_obsolete("animals")
        assert again.corpora["animals"].obsolete == ()
        assert again.store.count(4, Where(corpus="animals")) == 0
        assert found(again) == {"animals": 12, "plants": 20, "stray": 5}
        again.forget_obsolete("animals")
        again.forget_obsolete("nothing")


def test_a_wrong_filter_is_refused_whatever_the_ledger_hides(bank: Bank) -> None:
    renamed = replace(bank.corpora["animals"], stored_as="animals@2")
    bank.record(renamed)
    for wrong in (Where(), Where(corpus=5), Where(corpus=[5])):  # type: ignore[arg-type,list-item]
        with pytest.raises(QueryError):
            bank.count(4, wrong)


def test_a_ledger_that_hides_nothing_costs_no_filter() -> None:
    complete = {name: entry(name, 5) for name in ("a", "b")}
    assert visible(None, complete, incomplete=False) is None
    where = Where(word="dog")
    assert visible(where, complete, incomplete=False) is where
    assert visible(where, complete | {"c": entry("c", 5, complete=False)}, incomplete=True) is where


def test_a_reader_learns_of_what_others_do(shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("server", settings(shared))
    clock = [0.0]
    monkeypatch.setattr("latentbank.bank.view.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with sample_bank(place) as writer, open_bank("bank", place.settings) as reader:
        writer.record(entry("animals", 30, complete=False))
        clock[0] += 2.0
        fill(writer, 30, complete=False)
        assert reader.count() == 0
        fill(writer, 30)
        assert reader.count() == 0  # the ledger was read less than a second ago
        clock[0] += 2.0
        assert reader.count() == 30
        shared.requests.clear()
        for _ in range(5):
            reader.search(units(1), 4)
        # The manifest is read at most once a second.
        assert [request.operation for request in shared.requests].count("get_collection") == 0
