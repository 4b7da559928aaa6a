"""What a bank keeps of how thoroughly its graphs must be searched, and what searches make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401 (a scan is planned where it is loaded)

from latentbank.bank.asking import Asked, asked_for
from latentbank.bank.bank import Bank
from latentbank.bank.manifest import Manifest
from latentbank.bank.opening import open_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.tuning import Sample, tune
from latentbank.errors import QueryError
from tests.bank.samples import Place, entry, fill, sample_bank, units
from tests.wire.double import QdrantDouble

COUNT = 120


@pytest.fixture
def bank(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bank]:
    """A bank with graphs, which are searched although they are small."""
    monkeypatch.setattr("latentbank.bank.store.graphs.LEAST_SCAN", 1)
    place = Place("embedded", load_settings(data_dir=data_dir, graph_from=60))
    with sample_bank(place) as made:
        fill(made, COUNT)
        for layer in made.layers:
            made.store.index(layer)
        yield made


def test_what_is_tuned_is_used(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    text, visual = tune(bank, 0.9, {3: Sample(units(20, seed=5))}, queries=30)
    assert (text.kind, visual.kind) == ("text", "visual 3")
    assert text.recall >= 0.9
    assert bank.manifest.tuned["efs"] == {"text": text.ef, "visual 3": visual.ef}
    used = []
    search = bank.store.search
    monkeypatch.setattr(bank.store, "search", lambda *given: used.append(given[6]) or search(*given))
    queries = units(3)
    bank.search(queries, 4, search="graph")
    bank.search(queries, 4, search="graph", visual_layer=3)
    bank.search(queries, 4, search="graph", visual_layer=[3, 7, 3])
    bank.search(queries, 4, ef=9)
    # Queries that examine as many candidates are searched together, and each such search has a thread of its own.
    assert used[:2] + sorted(used[2:4]) + used[4:] == [
        text.ef,
        visual.ef,
        *sorted([visual.ef, bank.settings.ef_visual]),
        9,
    ]
    assert bank.searched == {4: "through the index"}


def test_another_layer_is_added(bank: Bank) -> None:
    tune(bank, 0.9, {3: Sample(units(4, seed=5))}, queries=4)
    tune(bank, 0.9, {7: Sample(units(4, seed=5))}, queries=4)
    assert set(bank.manifest.tuned["efs"]) == {"text", "visual 3", "visual 7"}
    tune(bank, 0.8, queries=4)
    assert set(bank.manifest.tuned["efs"]) == {"text"}


def test_a_bank_that_has_grown_is_not_tuned(bank: Bank) -> None:
    tune(bank, 0.9, queries=4)
    ask = (bank.settings, 1, None, None)
    assert asked_for(bank.manifest, *ask).efs == 64
    bank.record(entry("more", COUNT // 3))
    assert asked_for(bank.manifest, *ask).efs is None


def test_only_what_finds_enough_is_searched_through_the_index(bank: Bank) -> None:
    def asked(visual_layer: int | None, efs: dict[str, int | None]) -> Asked:
        tuned = {"recall": 0.99, "contexts": COUNT, "efs": efs}
        manifest = Manifest.from_dict(bank.manifest.head() | {"tuned": tuned}, {})
        return asked_for(manifest, bank.settings, 1, None, visual_layer)

    usual = bank.settings.ef_visual
    assert asked(None, {}) == Asked(None, finds=True)
    assert asked(None, {"text": None}) == Asked(None, finds=False)
    assert asked(3, {}) == Asked(usual, finds=False)
    assert asked(3, {"visual 3": 80}) == Asked(80, finds=True)
    assert asked(3, {"visual 3": None}) == Asked(usual, finds=False)


def test_visual_tokens_are_scanned_for_and_found(bank: Bank) -> None:
    queries = units(25, seed=8)
    exact = bank.search(queries, "all", exact=True)
    assert bank.searched == dict.fromkeys(bank.layers, "exact scan, float32")
    found = bank.search(queries, "all", visual_layer=3)
    assert all(way.startswith("exact scan") for way in bank.searched.values())
    assert found == exact
    words = bank.search(queries, "all", unique="word", visual_layer=3, top_k=4)
    through = bank.search(queries, "all", unique="word", search="graph", ef=COUNT, top_k=4)
    assert [[n.word for n in row] for row in words] == [[n.word for n in row] for row in through]


def test_manifests_of_others(bank: Bank, data_dir: Path) -> None:
    tune(bank, 0.9, queries=4)
    head = bank.manifest.head()
    assert Manifest.from_dict({**head, "unknown": 1}, {}).tuned == head["tuned"]
    assert not bank.manifest.without_path().tuned
    # A record of another form is no reason to fail.
    odd = Manifest.from_dict({**head, "tuned": {"efs": 3}}, {})
    assert asked_for(odd, bank.settings, 1, None, None) == Asked(None)
    bank.close()
    with open_bank("bank", data_dir=data_dir) as again:
        assert again.manifest.tuned == head["tuned"]


def test_ways_and_layers_are_checked(bank: Bank) -> None:
    with pytest.raises(QueryError, match="'auto', 'graph' or 'exact'"):
        bank.search(units(1), search="fast")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="exact=True means"):
        bank.search(units(1), search="graph", exact=True)
    with pytest.raises(QueryError, match="3 queries, but visual layers of 2"):
        bank.search(units(3), visual_layer=[0, 1])
    with pytest.raises(QueryError, match="recall"):
        tune(bank, 1.5)


def test_a_filter_is_a_mask(bank: Bank) -> None:
    from latentbank.bank.where import Where

    queries, where = units(25, seed=8), Where(word=["dog", "cat"]) & Where(position_min=2)
    expected = bank.search(queries, "all", where=where, search="graph", ef=COUNT)
    for _ in range(2):  # the second time it is known
        found = bank.search(queries, "all", where=where, visual_layer=3)
        assert [[n.id for n in row] for row in found] == [[n.id for n in row] for row in expected]
    assert np.allclose([n.cosine for n in found[0]], [n.cosine for n in expected[0]], atol=1e-6)


def test_a_server_is_searched_as_it_was_tuned(server: QdrantDouble) -> None:
    settings = load_settings(url=server.url, grpc_port=server.grpc_port, retry_wait=0.01)
    with sample_bank(Place("grpc", settings)) as bank:
        fill(bank, 30)
        assert bank.store.work(4, None, bank.hidden_size) is None
        text, visual = tune(bank, 0.9, {3: Sample(units(4, seed=5))}, queries=6)
        assert (text.recall, visual.recall) == (1.0, 1.0)
        queries = units(4, seed=6)
        found = bank.search(queries, "all", visual_layer=3)
        assert set(bank.searched.values()) == {"through the index"}
        assert found == bank.search(queries, "all", search="exact")
        assert set(bank.searched.values()) == {"exactly, by the engine"}
        with open_bank("bank", settings) as again:
            assert again.manifest.tuned["efs"] == {"text": text.ef, "visual 3": visual.ef}
