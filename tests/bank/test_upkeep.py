"""Layers that a killed job has left unindexed: `verify` finds them, `index_waiting` puts them right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.settings import load_settings
from latentbank.bank.store.base import FEW
from latentbank.bank.upkeep import index_waiting
from tests.bank.samples import Place, fill, sample_bank
from tests.bank.servers import settings
from tests.wire.double import QdrantDouble


@pytest.fixture(params=["embedded", "server"])
def left(request: pytest.FixtureRequest) -> Iterator[Bank]:
    """A bank whose layer 8 was indexed before its last contexts came."""
    if request.param == "embedded":
        folder: Path = request.getfixturevalue("data_dir")
        place = Place("embedded", load_settings(data_dir=folder))
    else:
        place = Place("server", settings(request.getfixturevalue("shared"), upload_batch=500))
    with sample_bank(place) as bank:
        fill(bank, FEW + 1)
        bank.store.index(4)
        yield bank


def test_a_layer_that_is_not_indexed_is_found_and_indexed(left: Bank) -> None:
    (sentence,) = left.verify()
    assert sentence == (
        "1,001 of the 1,001 contexts of layer 8 are not indexed, so searches are slow; wait if a job is adding "
        "contexts, else index the bank again."
    )
    assert index_waiting(left) == [8]
    assert left.verify() == []
    assert left.store.info(8).indexed == FEW + 1
    assert index_waiting(left) == []


def test_a_layer_that_the_server_failed_to_index_is_found(shared: QdrantDouble) -> None:
    with sample_bank(Place("server", settings(shared))) as bank:
        fill(bank, 5)
        shared.optimizers("bank--L08").failure = "No space left on device"
        (sentence,) = bank.verify()
        assert (
            "failed to change or index layer 8 (No space left on device); see its log, restart it" in sentence
        )
