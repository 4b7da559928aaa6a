"""Exact scans of embedded layers: what they find is what the engine's own exact search finds."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from latentbank.bank.planning import Rates, Work, plan, rates
from latentbank.bank.points import context_id
from latentbank.bank.scan import FLOAT32, Precision, Scan, convert, nearest, room_to_convert
from latentbank.bank.store.base import Points, Store
from latentbank.bank.store.embedded.originals import UnknownLayout, read_parts
from latentbank.bank.where import Where
from tests.bank.samples import HEAD, WIDTH, Place, payload, put_head, units

LAYER = 4
FILTERS = (
    None,
    Where(word="dog"),
    Where(word=["cat", "snow"], position_min=2),
    ~Where(corpus="a"),
    Where(word="none"),
    Where(caption_contains="fire truck") & ~Where(word="dog"),
)
STEPS = st.sampled_from(["add a", "add b", "again a", "add c", "delete a", "delete b", "index"])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> itertools.count[int]:
    """Numbers for stores of their own."""
    return itertools.count()


def store_of(folder: Path) -> Store:
    """Return an empty store with one layer."""
    from latentbank.bank.settings import load_settings

    store = Place("embedded", load_settings(data_dir=folder)).open(graph_from=60)
    put_head(store, HEAD | {"layers": [LAYER]})
    store.create(LAYER, WIDTH, "int8")
    return store


def points_of(corpus: str, count: int = 40) -> Points:
    """Return contexts, every fourth of which has the vector of the one before: their products are equal."""
    vectors = units(count, seed=ord(corpus))
    vectors[3::4] = vectors[2::4]
    ids = [context_id(corpus, [number]) for number in range(count)]
    return Points(ids, vectors, [payload(number, corpus) for number in range(count)])


def take_step(store: Store, step: str) -> None:
    """Change a store."""
    what, _, corpus = step.partition(" ")
    if what == "index":
        store.index(LAYER)
    elif what == "delete":
        store.delete_corpus(LAYER, corpus)
    else:
        store.upsert(LAYER, points_of(corpus))
    store.commit()


def assert_equal(store: Store, precision: Precision = FLOAT32) -> None:
    """Check that the scan finds what the engine finds, whatever the filter; of equal products any."""
    queries = np.concatenate([units(6, seed=9), points_of("a").vectors[2:4]])
    for where, filter_last in itertools.product(FILTERS, (True, False)):
        exact = store.search(LAYER, queries, 7, where, exact=True, payloads=False)
        found = store.scan(LAYER, queries, 7, where, Scan(precision, filter_last))
        assert found is not None
        for mine, theirs in zip(found, exact, strict=True):
            assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], abs=1e-6)
            last = theirs[-1].score + 1e-6 if theirs else 0.0
            assert {hit.id for hit in mine if hit.score > last} == {
                hit.id for hit in theirs if hit.score > last
            }


@given(st.lists(STEPS, min_size=1, max_size=6))
@example(["delete a", "index", "add b"])
@limits(max_examples=6, deadline=None)
def test_a_scan_finds_what_the_engine_finds(
    quick_disk: Path, stores: itertools.count[int], steps: list[str]
) -> None:
    store = store_of(quick_disk / f"scan-{next(stores)}")
    for step in ["add a", "index", *steps]:
        take_step(store, step)
        assert_equal(store)
    store.close()


def test_bfloat16_finds_as_much(data_dir: Path) -> None:
    store = store_of(data_dir)
    for step in ("add a", "add b", "index"):
        take_step(store, step)
    assert_equal(store, Precision("bfloat16"))
    store.close()


@pytest.mark.parametrize("count", [1, 12])
def test_a_filter_may_come_last(data_dir: Path, count: int) -> None:
    """Also if it selects nothing of what is nearest: to one query, or to many."""
    store = store_of(data_dir)
    take_step(store, "add a")
    near = units(1, seed=9)
    vectors = near + 0.01 * units(200, seed=4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [context_id("z", [number]) for number in range(200)]
    store.upsert(LAYER, Points(ids, vectors, [payload(number, "z") for number in range(200)]))
    store.commit()
    where = Where(corpus="a")
    queries = np.concatenate([vectors[:count], units(3, seed=5)])
    last, first = (store.scan(LAYER, queries, 5, where, Scan(filter_last=last)) for last in (True, False))
    for mine, theirs in zip(last, first, strict=True):
        assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], abs=1e-6)
        assert len(mine) == 5
    store.close()


def test_what_is_not_committed_is_left_to_the_engine(data_dir: Path) -> None:
    store = store_of(data_dir)
    take_step(store, "add a")
    queries = units(2)
    assert store.scan(LAYER, queries, 3, None, Scan()) is not None
    store.upsert(LAYER, points_of("b"))
    assert store.scan(LAYER, queries, 3, None, Scan()) is None
    assert store.work(LAYER, None, WIDTH) is None
    store.commit()
    assert store.work(LAYER, None, WIDTH) == Work(80, 80, graph=False)
    # What a filter selects is counted once, until the layer changes.
    where, expected = Where(corpus=["a", "c"]), Work(80, 40, graph=False, selected=40)
    assert store.work(LAYER, None, WIDTH, where) == expected
    assert store.work(LAYER, None, WIDTH, where) == expected
    store.upsert(LAYER, points_of("c"))
    store.commit()
    assert store.work(LAYER, None, WIDTH, where) == Work(120, 80, graph=False, selected=80)
    assert_equal(store)
    store.close()


@pytest.mark.parametrize("file", ["id_tracker.mappings", "vector_storage/matrix.dat", "segment.json"])
def test_files_of_another_layout_are_left_to_the_engine(data_dir: Path, file: str) -> None:
    store = store_of(data_dir)
    for step in ("add a", "index"):
        take_step(store, step)
    (found,) = (
        path
        for path in (data_dir / "bank" / "L04" / "segments").glob(f"*/{file}")
        if path.stat().st_size > 300
    )
    found.write_bytes(b"{}  " + found.read_bytes()[:-5])
    with pytest.raises(UnknownLayout):
        read_parts(data_dir / "bank" / "L04", WIDTH)
    assert store.scan(LAYER, units(2), 3, None, Scan()) is None
    assert store.search(LAYER, units(2), 3, exact=True)
    store.close()


def test_a_vector_found_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [units(50, seed=seed).astype(np.float16) for seed in (1, 2)]
    rows = [None, np.arange(0, 50, 3)]
    queries = units(9, seed=3)
    whole = nearest(vectors, rows, queries, 4)
    monkeypatch.setattr("latentbank.bank.scan._ROWS", 7)
    monkeypatch.setattr("latentbank.bank.scan._QUERIES", 4)
    monkeypatch.setattr("latentbank.bank.scan._RESCORED", 1)
    for found, expected in zip(nearest(vectors, rows, queries, 4), whole, strict=True):
        assert np.array_equal(found, expected)
    products = queries.astype(np.float16).astype(np.float32) @ np.concatenate([vectors[0], vectors[1][::3]]).T
    assert whole[0] == pytest.approx(-np.sort(-products.astype(np.float32), axis=1)[:, :4], abs=1e-6)


def test_fewer_vectors_than_asked_for() -> None:
    vectors = [units(3).astype(np.float16)]
    scores, rows = nearest(vectors, [None], units(2, seed=5), 5, Precision("bfloat16"))
    assert (rows[:, :3] >= 0).all()
    assert (rows[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()


def test_the_faster_way_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Rates(FLOAT32, number=1e-10, pair=1e-11, product=1e-9)
    monkeypatch.setattr("latentbank.bank.planning.rates", lambda _: measured)
    monkeypatch.setattr("latentbank.bank.planning.cores", lambda: 2)
    graph = Work(1_000_000, 320, graph=True)
    # One query is faster through a graph than past it, hundreds in a layer of ten thousand are not.
    assert plan(graph, 1, 576, finds=True).how is None
    assert plan(Work(10_000, 320, graph=True), 1000, 576, finds=True).how == Scan()
    # What does not find enough is not taken, however fast it is.
    assert plan(graph, 1, 576, finds=False).how == Scan()
    # A filter that leaves few contexts leaves few products.
    few = replace(graph, compared=1_000, graph=False, selected=1_000)
    filtered = plan(few, 100, 576, finds=False)
    assert filtered.scan is not None
    assert filtered.scan < 0.02 * plan(graph, 100, 576, finds=False).scan
    # Segments are searched side by side, as far as there are cores.
    codes = replace(graph, compared=1_000_000, graph=False)
    assert replace(codes, segments=7).seconds(576) == pytest.approx(codes.seconds(576) / 2, rel=0.1)


def test_torch_is_imported_once_searches_without_it_took_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Rates(FLOAT32, number=1e-10, pair=1e-12, product=1e-10)
    monkeypatch.setattr("latentbank.bank.planning.rates", lambda _: measured)
    monkeypatch.setattr("latentbank.bank.planning._spent.seconds", 0.0)
    monkeypatch.delitem(sys.modules, "torch")
    codes = Work(500_000, 500_000, graph=False)
    planned = [plan(codes, 200, 576, finds=True) for _ in range(3)]
    assert [found.how for found in planned] == [None, Scan(), Scan()]
    assert plan(codes, 1, 576, finds=True).how is None


def test_half_numbers_are_converted_by_way_of_float32() -> None:
    vectors = torch.from_numpy(units(5_000, seed=8).astype(np.float16))
    queries = torch.empty((1, WIDTH), dtype=torch.bfloat16)
    block = torch.zeros((5_000, WIDTH), dtype=torch.bfloat16)
    wide = room_to_convert(queries)
    assert wide is not None
    convert(block, vectors, wide)
    assert torch.equal(block, vectors.to(torch.bfloat16))
    assert room_to_convert(queries.float()) is None


def test_a_machine_is_measured_once() -> None:
    found = rates(WIDTH)
    assert min(found.number, found.pair, found.product) > 0
    assert rates(WIDTH) is found
