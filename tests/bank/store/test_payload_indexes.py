"""An embedded layer has payload indexes once it is large enough; answers are the same before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentbank.bank.points import INDEXED_FIELDS
from latentbank.bank.settings import load_settings
from latentbank.bank.store.base import Store
from latentbank.bank.store.embedded import engine
from latentbank.bank.where import Where
from tests.bank.samples import HEAD, WIDTH, Place, points, put_head

LAYER = 3


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    opened = Place("embedded", load_settings(data_dir=data_dir)).open()
    put_head(opened, HEAD)
    opened.create(LAYER, WIDTH, "int8")
    yield opened
    opened.close()


def indexed_fields(store: Store) -> set[str]:
    return set(store._layers.state(LAYER).payload_schema)  # type: ignore[attr-defined]


def answers(store: Store) -> list[object]:
    """Facets and counts of 100 contexts in two corpora."""
    cats = Where(corpus="cats")
    return [
        *(
            list(store.facet(LAYER, field, None, limit).items())
            for field in INDEXED_FIELDS
            for limit in (2, 1000)
        ),
        *(list(store.facet(LAYER, field, cats, 1000).items()) for field in INDEXED_FIELDS),
        store.count(LAYER, cats),
        store.count(LAYER, Where(word="dog")),
        sorted(stored.id for stored in store.scroll(LAYER, Where(position_min=2, position_max=3))),
    ]


def test_answers_are_the_same_before_and_after(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.upsert(LAYER, points(60))
    store.upsert(LAYER, points(40, "cats", seed=1))
    before = answers(store)
    assert indexed_fields(store) == set()
    monkeypatch.setattr(engine, "INDEXES_FROM", 100)
    store.upsert(LAYER, points(1, "cats", seed=1))  # the same context again
    assert indexed_fields(store) == set(INDEXED_FIELDS)
    assert answers(store) == before
    store.delete_corpus(LAYER, "cats")
    assert store.facet(LAYER, "corpus") == {"animals": 60}
    assert indexed_fields(store) == set(INDEXED_FIELDS)


def test_a_layer_is_indexed_with_its_4096th_context(store: Store) -> None:
    store.upsert(LAYER, points(engine.INDEXES_FROM - 1))
    assert indexed_fields(store) == set()
    store.upsert(LAYER, points(1, first=engine.INDEXES_FROM - 1))
    assert indexed_fields(store) == set(INDEXED_FIELDS)
    store.commit()
    store.index(LAYER)
    assert indexed_fields(store) == set(INDEXED_FIELDS)
    assert store.facet(LAYER, "corpus") == {"animals": engine.INDEXES_FROM}
    assert store.count(LAYER, Where(caption_contains="nothing")) == 0  # captions have an index now, too
    schema = store._layers.state(LAYER).payload_schema  # type: ignore[attr-defined]
    assert [index.params.enable_hnsw for index in schema.values()] == [False] * 5  # no links in a graph


def test_a_layer_that_is_loaded_gets_its_payload_indexes_when_it_is_indexed(store: Store) -> None:
    store.defer_index(LAYER, engine.INDEXES_FROM)
    store.upsert(LAYER, points(engine.INDEXES_FROM - 40))
    store.upsert(LAYER, points(40, "cats", seed=1))
    store.commit()
    before = answers(store)
    assert indexed_fields(store) == set()
    store.index(LAYER)
    assert indexed_fields(store) == set(INDEXED_FIELDS)
    assert answers(store) == before
    store.upsert(LAYER, points(1, "cats", seed=1, first=40))
    assert store.count(LAYER, Where(corpus="cats")) == 41


def test_an_empty_layer_takes_little_room(store: Store) -> None:
    store.commit()
    assert store.info(LAYER).bytes_on_disk < 1 << 20
