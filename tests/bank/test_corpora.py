"""The ledger's rules for an ingestion: new, continued, refused, replacing, complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentbank.bank import corpora
from latentbank.bank.bank import Bank
from latentbank.bank.corpora import CorpusContent, Slot
from latentbank.bank.settings import Settings
from latentbank.errors import CorpusError, LatentBankError
from tests.bank.samples import Place, ids, payload, sample_bank, units

OLD = CorpusContent("c", "old", sentences=2, tokens=9, contexts=4, settings={"bos": "tokenizer", "skip": 1})
NEW = dataclasses.replace(OLD, content_hash="new", contexts=6)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with sample_bank(Place("embedded", Settings(url="", data_dir=tmp_path))) as made:
        yield made


def store(bank: Bank, stored: str, contexts: int) -> None:
    """Store sample contexts in every layer."""
    for layer in bank.layers:
        rows = [payload(n, stored) for n in range(contexts)]
        bank.add(layer, ids(range(contexts), stored), units(contexts), rows)
    bank.commit()


def ingest(bank: Bank, content: CorpusContent, *, replace: bool = False) -> Slot:
    """Announce a corpus, store its contexts and complete it."""
    slot = corpora.find_slot(bank, content, replace=replace)
    entry = corpora.announce(bank, content, slot, alone=True)
    assert not bank.corpora[slot.name].complete
    store(bank, slot.stored, content.contexts)
    corpora.complete(bank, entry, content.contexts)
    return slot


def test_a_new_corpus_is_announced_and_completed(bank: Bank) -> None:
    assert ingest(bank, OLD) == Slot("c", None)
    entry = bank.corpora["c"]
    assert entry.complete
    assert (entry.content_hash, entry.sentences, entry.tokens, entry.contexts) == ("old", 2, 9, 4)
    assert entry.plan == OLD.settings
    assert corpora.find_slot(bank, OLD) == Slot("c", entry)
    assert corpora.find_slot(bank, OLD, replace=True) == Slot("c", entry)  # there is nothing to replace


def test_other_sentences_or_settings_are_refused(bank: Bank) -> None:
    ingest(bank, OLD)
    with pytest.raises(
        CorpusError, match=r"'c' has changed since it was ingested into bank 'bank'"
    ) as caught:
        corpora.find_slot(bank, NEW)
    assert caught.value.argument == "replace"
    other = dataclasses.replace(OLD, settings={"bos": "always", "skip": 1})
    with pytest.raises(CorpusError, match="planned with bos=tokenizer, skip=1, not with bos=always, skip=1"):
        corpora.find_slot(bank, other)


def test_a_replacement_takes_the_place_once_it_is_complete(bank: Bank) -> None:
    ingest(bank, OLD)
    slot = corpora.find_slot(bank, NEW, replace=True)
    assert slot == Slot("c@2", None, replaces="c")
    entry = corpora.announce(bank, NEW, slot, alone=True)
    assert (bank.corpora["c"].content_hash, bank.corpora["c@2"].replaces) == ("old", "c")
    another = dataclasses.replace(NEW, content_hash="another")
    with pytest.raises(CorpusError, match="another replacement of 'c' that is not complete"):
        corpora.find_slot(bank, another, replace=True)
    assert corpora.find_slot(bank, NEW, replace=True) == Slot("c@2", entry, replaces="c")  # continued
    store(bank, slot.stored, NEW.contexts)
    corpora.complete(bank, entry, NEW.contexts)
    assert {name: entry.content_hash for name, entry in bank.corpora.items()} == {"c": "new"}
    assert corpora.find_slot(bank, NEW).stored == "c@2"


def test_a_worker_leaves_an_entry_that_another_has_made(bank: Bank) -> None:
    first = corpora.announce(bank, OLD, corpora.find_slot(bank, OLD), alone=False)
    marked = dataclasses.replace(first, updated="2026-01-01T00:00:00+00:00")
    bank.record(marked)
    slot = corpora.find_slot(bank, OLD)
    assert corpora.announce(bank, OLD, slot, alone=False) == marked
    assert corpora.announce(bank, OLD, slot, alone=True).updated != marked.updated


@pytest.mark.parametrize(
    ("stored", "message"), [(3, "ingest it again"), (5, "drop the corpus and ingest it again")]
)
def test_a_corpus_with_other_counts_does_not_become_complete(bank: Bank, stored: int, message: str) -> None:
    entry = corpora.announce(bank, OLD, corpora.find_slot(bank, OLD), alone=True)
    store(bank, "c", stored)
    with pytest.raises(
        LatentBankError, match=rf"hold {stored} contexts of 'c' instead of 4: .*bank; {message}\."
    ):
        corpora.complete(bank, entry, 4)
    assert not bank.corpora["c"].complete
