"""How the embedded store lays out a layer: pieces while it is loaded, segments with graphs, the index of captions."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from bank.settings import load_settings
from bank.store import Points, Store
from bank.where import Where
from tests.bank.samples import HEAD, WIDTH, Place, points, units
from tests.bank.test_store import joined, recall, two_corpora


@pytest.fixture
def place(data_dir: Path) -> Place:
    return Place("embedded", load_settings(data_dir=data_dir))


def made(place: Place, **settings: Any) -> Store:
    """A store with an empty layer 4."""
    store = place.open(**settings)
    store.create(4, WIDTH, "int8")
    store.write_manifest(HEAD)
    return store


def test_pieces_of_a_layer_get_their_graph_at_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bank.store.embedded.PIECE", 60)
    store = made(place, graph_from=400)
    layer = place.settings.data_dir / "bank" / "L04"

    def graphs() -> list[int]:
        return [json.loads(file.read_text())["m"] for file in layer.rglob("hnsw_config.json")]

    def load(first: int) -> Points:
        parts = [points(20, first=start, seed=start) for start in range(first, first + 600, 20)]
        store.defer_index(4, first + 600)
        for one in parts:
            store.upsert(4, one)
            store.commit()
        return joined(*parts)

    given = load(0)
    assert graphs() == [0] * 10
    store.index(4)
    assert graphs() == [16] * 2
    sizes = [file.stat().st_size for file in layer.rglob("matrix.dat")]
    assert max(sizes) <= 1.5 * min(sizes)
    # Another corpus on top: the graphs that are there stay.
    given = joined(given, load(600))
    assert set(graphs()) == {16}
    store.index(4)
    assert (store.info(4).points, store.info(4).indexed) == (1200, 1200)
    assert recall(store, given, units(20, seed=9), exact=False) >= 0.99
    store.close()


def test_captions_are_indexed_when_a_filter_first_reads_them(place: Place) -> None:
    store = made(place)
    two_corpora(store)
    store.index(4)
    layer = place.settings.data_dir / "bank" / "L04"
    assert not [*layer.rglob("*caption*")]
    assert store.count(4, Where(caption_contains="red dog") & ~Where(corpus="plants")) > 0
    assert [*layer.rglob("*caption*")]


def test_a_reader_never_meets_a_shard_that_was_closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """To index a layer, its shard is closed and opened again; a search that is under way comes first."""
    store = made(place)
    store.upsert(4, points(50))
    store.commit()
    request = edge.QueryBatchRequest
    writer = threading.Thread(target=store.index, args=(4,))

    def while_it_is_indexed(requests: Any) -> Any:
        monkeypatch.undo()
        writer.start()
        writer.join(0.5)  # it has time to close the shard
        return request(requests)

    monkeypatch.setattr(edge, "QueryBatchRequest", while_it_is_indexed)
    assert len(store.search(4, units(1), 5)[0]) == 5
    writer.join()
    assert store.info(4).indexed == 50
    assert len(store.search(4, units(1), 5)[0]) == 5
    store.close()
