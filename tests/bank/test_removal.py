"""Corpora that are replaced or dropped, by a job that is killed between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from latentbank.bank import corpora
from latentbank.bank.bank import Bank
from latentbank.bank.corpora import CorpusContent
from latentbank.bank.opening import open_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.store.server.ledger import Ledger
from latentbank.bank.where import Where
from latentbank.errors import CorpusError, LatentBankError
from tests.bank.samples import Place, entry, fill, is_one_sentence, sample_bank, units
from tests.bank.servers import make_old, settings

OLD, NEW = 9, 4
SETTINGS = {"bos": "tokenizer", "skip": 1, "contexts_per_token": 50}


class Killed(BaseException):
    """The end of a process."""


@pytest.fixture(params=["ledger", "metadata", "embedded"])
def where(request: pytest.FixtureRequest) -> Place:
    """Each place where a bank's entries are, with a bank of one corpus in one layer."""
    if request.param == "embedded":
        place = Place("embedded", load_settings(data_dir=request.getfixturevalue("data_dir")))
    else:
        place = Place(request.param, settings(request.getfixturevalue("shared")))
    with sample_bank(place, layers=[4]) as bank:
        fill(bank, OLD)
    if request.param == "metadata":
        make_old(request.getfixturevalue("shared"))
    return place


@contextmanager
def killed(bank: Bank, moment: int) -> Iterator[list[int]]:
    """End the process before one of the steps that change something; yields how many are left, from `moment` down."""
    left = [moment]

    def counting(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **more: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return do(*given, **more)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in ("change_entry", "delete_corpus", "write_shares"):
            patch.setattr(bank.store, name, counting(getattr(bank.store, name)))
        patch.setattr(Ledger, "change", counting(Ledger.change))
        yield left


def content(contexts: int) -> CorpusContent:
    return CorpusContent("animals", f"hash of {contexts}", contexts // 5, contexts * 2, contexts, SETTINGS)


def ingest(bank: Bank, contexts: int) -> None:
    """Do what a job does with `--replace`: announce, store what is missing, complete, or finish a killed job's work."""
    slot = corpora.find_slot(bank, content(contexts), replace=True)
    if slot.entry and slot.entry.complete and bank.stored_contexts(slot.stored) == {contexts}:
        bank.forget_obsolete(slot.entry.name)
        return
    begun = corpora.announce(bank, content(contexts), slot, alone=True)
    store(bank, contexts, begun.stored)
    corpora.complete(bank, begun, contexts)


def store(bank: Bank, contexts: int, stored: str) -> None:
    if bank.stored_contexts(stored) != {contexts}:
        before = bank.corpora[stored]
        fill(bank, contexts, stored, complete=False)
        bank.record(before)


@pytest.fixture
def animals(where: Place) -> Place:
    """The bank, whose corpus has an entry as a job makes it."""
    with open_bank("bank", where.settings) as bank:
        bank.change_entry("animals", lambda old: old and replace(old, content_hash=f"hash of {OLD}"))
    return where


def test_a_killed_replacement_is_sound_at_every_step(animals: Place) -> None:
    """Readers see the old corpus, then the new one, whole; the job goes on from each step."""
    seen = set()
    for moment in range(30):
        with open_bank("bank", animals.settings) as bank:
            known = bank.corpora["animals"]
            contexts = NEW if known.contexts == OLD else OLD
            slot = corpora.find_slot(bank, content(contexts), replace=True)
            begun = corpora.announce(bank, content(contexts), slot, alone=True)
            store(bank, contexts, begun.stored)
            assert read(bank) == known.contexts
            with killed(bank, moment) as left, suppress(Killed):
                bank.supersede(begun)
            seen.add(read(bank))
            ingest(bank, contexts)
            assert bank.corpora == {"animals": replace(bank.corpora["animals"], obsolete=(), complete=True)}
            assert read(bank) == contexts == bank.store.count(4)
            assert bank.verify() == []
            if left[0]:
                break
    assert moment > 3
    assert seen == {OLD, NEW}


def read(bank: Bank) -> int:
    """How many contexts a reader finds in an open bank, all of them of `animals`."""
    bank.reload()
    found = bank.search(units(1), "all", 100)[0]
    assert {neighbor.corpus for neighbor in found} <= {"animals"}
    assert bank.count(where=Where(corpus="animals")) == len(found)
    return len(found)


def test_a_killed_drop_is_sound_at_every_step(animals: Place) -> None:
    """Readers see the corpus whole or not at all; it can be dropped again, or ingested."""
    seen = set()
    for moment in range(30):
        for after in ("dropped", "ingested"):
            with open_bank("bank", animals.settings) as bank:
                with killed(bank, moment) as left, suppress(Killed):
                    bank.drop_corpus("animals")
                seen.add(read(bank))
                if after == "dropped" and bank.corpora:
                    bank.drop_corpus("animals")
                    assert bank.corpora == {}
                    assert bank.store.count(4) == 0
                ingest(bank, OLD)
                assert read(bank) == OLD
        if left[0]:
            break
    assert moment > 2
    assert seen == {OLD, 0}


# -- others at the same moment ---------------------------------------------------------------------------


def test_a_corpus_that_is_dropped_while_it_is_ingested_does_not_come_back(animals: Place) -> None:
    with open_bank("bank", animals.settings) as bank:
        begun = corpora.announce(bank, content(OLD), corpora.find_slot(bank, content(OLD)), alone=True)
        bank.drop_corpus("animals")
        fill(bank, OLD, complete=False)
        bank.change_entry("animals", lambda _: None)
        with pytest.raises(
            LatentBankError, match="was dropped from bank 'bank' while it was ingested"
        ) as caught:
            corpora.complete(bank, begun, OLD)
        assert is_one_sentence(caught.value)
        assert bank.corpora == {}


def test_a_replacement_that_is_dropped_takes_nobodys_place(animals: Place) -> None:
    with open_bank("bank", animals.settings) as bank:
        slot = corpora.find_slot(bank, content(NEW), replace=True)
        begun = corpora.announce(bank, content(NEW), slot, alone=True)
        store(bank, NEW, begun.stored)
        bank.change_entry("animals@2", lambda _: None)
        with pytest.raises(LatentBankError, match="was dropped"):
            corpora.complete(bank, begun, NEW)
        assert bank.corpora["animals"].contexts == OLD


def test_two_jobs_announce_other_corpora_by_one_name(animals: Place) -> None:
    with open_bank("bank", animals.settings) as bank:
        ours = replace(content(3), name="plants")
        slot = corpora.find_slot(bank, ours)
        bank.record(entry("plants", 5, complete=False))
        with pytest.raises(CorpusError) as caught:
            corpora.announce(bank, ours, slot, alone=True)
        assert is_one_sentence(caught.value)
        assert bank.corpora["plants"].contexts == 5


def test_a_corpus_that_another_job_has_completed_stays_complete(animals: Place) -> None:
    with open_bank("bank", animals.settings) as bank:
        ours = replace(content(5), name="plants")
        slot = corpora.find_slot(bank, ours)
        fill(bank, 5, "plants")
        bank.change_entry("plants", lambda old: old and replace(old, content_hash=ours.content_hash))
        assert corpora.announce(bank, ours, slot, alone=True).complete
        assert bank.corpora["plants"].complete


def test_what_was_announced_anew_while_it_is_dropped_stays(
    animals: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_bank("bank", animals.settings) as bank:
        kept = bank.store.delete_corpus

        def meanwhile(layer: int, corpus: str) -> None:
            kept(layer, corpus)
            bank.change_entry(
                "animals", lambda old: old and replace(old, updated="2027-01-01T00:00:00+00:00")
            )

        monkeypatch.setattr(bank.store, "delete_corpus", meanwhile)
        bank.drop_corpus("animals")
        assert not bank.corpora["animals"].complete
        monkeypatch.undo()


def test_contexts_of_two_entries_are_dropped_with_the_last(animals: Place) -> None:
    """A job was killed after a replacement took its place, before its own entry was removed."""
    with open_bank("bank", animals.settings) as bank:
        bank.record(replace(bank.corpora["animals"], stored_as="animals@2"))
        bank.record(replace(bank.corpora["animals"], name="animals@2", stored_as="", replaces="animals"))
        fill(bank, OLD, "animals@2", complete=False)
        bank.change_entry("animals@2", lambda old: old and replace(old, replaces="animals"))
        bank.drop_corpus("animals@2")
        assert list(bank.corpora) == ["animals"]
        assert bank.stored_contexts("animals@2") == {OLD}
