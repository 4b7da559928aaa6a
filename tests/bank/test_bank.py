"""The bank, embedded and on a server: created, opened, filled, searched, verified, emptied, deleted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch

import latentbank.bank.search
from latentbank.bank.bank import Bank
from latentbank.bank.manifest import SCHEMA
from latentbank.bank.opening import create_bank, delete_bank, list_banks, open_bank
from latentbank.bank.points import Neighbor
from latentbank.bank.rotation import rotate
from latentbank.bank.store.base import Points
from latentbank.bank.store.names import collection_name
from latentbank.bank.where import Where
from latentbank.errors import (
    BankMismatch,
    BankNotFound,
    BankUnavailable,
    LatentBankError,
    LayerNotFound,
    QueryError,
)
from tests.bank.samples import (
    WIDTH,
    Place,
    entry,
    fill,
    ids,
    nearest,
    payload,
    points,
    put_head,
    sample_bank,
    soon,
    units,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def filled(place: Place) -> Any:
    """A bank with layers 2, 4, 8 and 16 and 120 contexts of `animals`."""
    with sample_bank(place, layers=(2, 4, 8, 16)) as made:
        fill(made, 120)
        yield made


def expected(
    states: dict[int, npt.NDArray[Any]],
    queries: npt.NDArray[Any],
    layers: list[int],
    chosen: Callable[[int], bool] = lambda number: True,
) -> list[list[tuple[float, int, int]]]:
    """For each query every chosen context of every layer as (cosine, layer, number), best first."""
    numbers = [n for n in range(len(states[layers[0]])) if chosen(n)]
    found = []
    for query in queries:
        rows = []
        for layer in layers:
            best, cosines = nearest(states[layer][numbers], query[None], len(numbers))
            rows += [(float(c), layer, numbers[int(n)]) for n, c in zip(best[0], cosines[0], strict=True)]
        found.append(sorted(rows, reverse=True))
    return found


def hits(neighbors: list[Neighbor]) -> list[tuple[int, str]]:
    return [(n.bank_layer, n.id) for n in neighbors]


# -- making and opening ------------------------------------------------------------------------------


def test_a_bank_is_made_and_opened_again(place: Place) -> None:
    with sample_bank(place, layers=[8, 4, 8], revision="abc") as made:
        assert (made.name, made.layers, made.hidden_size) == ("bank", [4, 8], WIDTH)
        assert made.corpora == {}
        manifest = made.manifest
        assert (manifest.model, manifest.revision, manifest.num_layers) == ("tiny/llama", "abc", 16)
        assert (manifest.schema, manifest.quantization) == (SCHEMA, "int8")
        fill(made, 10)
    with open_bank("bank", place.settings) as opened:
        assert opened.manifest.head() == manifest.head()
        assert opened.corpora["animals"].contexts == 10
        assert opened.count() == 10
    with sample_bank(place) as again:
        assert again.manifest.created == manifest.created
        assert again.count() == 10
    assert list_banks(place.settings) == ["bank"]


def test_a_closed_bank_says_so(place: Place) -> None:
    with sample_bank(place) as bank:
        fill(bank, 10)
        bank.search(units(1), 4)
    attempts: list[Callable[[], object]] = [
        lambda: bank.search(units(1), 4),
        bank.count,
        bank.reload,
        bank.verify,
        lambda: bank.corpora,
        lambda: bank.record(entry("animals", 10)),
    ]
    for attempt in attempts:
        with pytest.raises(BankUnavailable, match=r"^The bank 'bank' is closed; open it again\.$"):
            attempt()
    bank.close()
    with open_bank("bank", place.settings) as again:
        assert again.count() == 10


def test_a_bank_that_is_not_there(place: Place) -> None:
    for ask in (open_bank, delete_bank):
        with pytest.raises(BankNotFound, match="no bank 'bank' here; list the banks there are"):
            ask("bank", place.settings)
    assert list_banks(place.settings) == []


def test_settings_may_be_arguments(data_dir: Path) -> None:
    place = {"data_dir": data_dir}
    made = create_bank(
        "a", model="m", fingerprint="f", layers=[0], num_layers=2, hidden_size=4, quantization="none", **place
    )
    assert made.manifest.quantization == "none"
    made.close()
    with open_bank("a", **place) as opened:
        assert opened.layers == [0]
    assert list_banks(**place) == ["a"]
    with pytest.raises(LatentBankError, match="no setting dir"):
        open_bank("a", dir=data_dir)
    delete_bank("a", **place)
    assert list_banks(**place) == []


def test_another_model_is_refused_and_both_are_named(place: Place) -> None:
    sample_bank(place).close()
    with pytest.raises(
        BankMismatch, match=r"tiny/llama \(fingerprint f00d\), not of my/qwen \(fingerprint beef\)"
    ):
        open_bank("bank", place.settings, model="my/qwen", fingerprint="beef")
    with pytest.raises(
        BankMismatch, match=r"tiny/llama \(fingerprint f00d\), not of my/qwen \(fingerprint beef\)"
    ):
        sample_bank(place, model="my/qwen", fingerprint="beef")
    with open_bank("bank", place.settings, model="a copy", fingerprint="f00d") as opened:
        opened.require_model("another copy", "f00d")
        with pytest.raises(BankMismatch):
            opened.require_model("tiny/llama", "beef")


def test_other_layers_are_refused(place: Place) -> None:
    sample_bank(place).close()
    with pytest.raises(BankMismatch, match="has layers 4, 8, not 4, 8, 12; leave the layers out"):
        sample_bank(place, layers=[4, 8, 12])
    with open_bank("bank", place.settings) as opened:
        assert opened.layers == [4, 8]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4, 17], r"has no layer 17: it has layers 0 to 16"),
        ([-1, 99], "has no layer -1, 99"),
        ([], r"No layer was named for the bank 'bank'; tiny/llama has 0 \(the input\) to 16"),
    ],
)
def test_layers_the_model_does_not_have(place: Place, layers: list[int], message: str) -> None:
    with pytest.raises(LayerNotFound, match=message):
        sample_bank(place, layers=layers)
    assert list_banks(place.settings) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "a/b", "a b", "a--b", "../x", "ä", "a\n", "x" * 65, "a\\b", "L04--"]
)
def test_invalid_names(place: Place, name: str) -> None:
    for ask in (
        lambda: sample_bank(place, name),
        lambda: open_bank(name, place.settings),
        lambda: delete_bank(name, place.settings),
    ):
        with pytest.raises(LatentBankError, match="cannot name a bank: use 1 to 64 letters"):
            ask()
    assert list_banks(place.settings) == []


def test_several_banks_live_side_by_side(place: Place) -> None:
    names = ["A.b_c-d", "a", "a-", "b" * 64]
    for number, name in enumerate(names, 1):
        with sample_bank(place, name, layers=[number]) as made:
            fill(made, number)
    assert list_banks(place.settings) == names
    delete_bank("a", place.settings)
    assert list_banks(place.settings) == ["A.b_c-d", "a-", "b" * 64]
    with open_bank("a-", place.settings) as opened:
        assert (opened.layers, opened.count()) == ([3], 3)


def test_what_a_killed_creation_left_is_not_reused(place: Place) -> None:
    """Without a manifest there is no bank: a new bank does not use the empty collections that exist."""
    store = place.open()
    for layer in (2, 4):
        store.create(layer, WIDTH, "int8")
    store.close()
    assert list_banks(place.settings) == []
    with pytest.raises(BankNotFound):
        open_bank("bank", place.settings)
    with sample_bank(place, layers=(4, 8)) as made:
        assert made.store.layers() == [4, 8]
        assert [made.count(layer) for layer in (4, 8)] == [0, 0]
        assert made.verify() == []
    assert list_banks(place.settings) == ["bank"]


def test_contexts_without_a_manifest_are_not_lost_to_a_new_bank(place: Place) -> None:
    """Either the manifest was lost or a deletion was killed; only the user can know which."""
    store = place.open()
    for layer in (2, 4):
        store.create(layer, WIDTH, "int8")
        store.upsert(layer, points(7))
    store.commit()
    store.close()
    with pytest.raises(
        BankMismatch, match="contexts but no manifest; restore the manifest, or delete the bank"
    ):
        sample_bank(place)
    store = place.open()
    assert [store.count(layer) for layer in (2, 4)] == [7, 7]
    store.close()
    delete_bank("bank", place.settings)
    with sample_bank(place) as made:
        assert made.count() == 0


@pytest.mark.parametrize("place", ["rest"], indirect=True)
def test_layers_that_a_node_still_lists_after_their_deletion(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node of a cluster learns late of a deletion; a bank of the same name can be made at once."""
    with monkeypatch.context() as patch:
        patch.setattr("latentbank.bank.store.server.store.ServerStore.layers", lambda self: [4, 8])
        store = place.open()
        with pytest.raises(BankNotFound):
            store.count(4)
        sample_bank(place).close()
    with sample_bank(place) as made:
        assert fill(made, 3)[4].shape == (3, WIDTH)


def is_gone(place: Place) -> bool:
    """Return whether the bank cannot be deleted because there is none."""
    try:
        delete_bank("bank", place.settings)
    except BankNotFound:
        return True
    return False


def test_what_a_killed_deletion_left_can_be_deleted(place: Place) -> None:
    store = place.open()
    store.create(8, WIDTH, "int8")
    store.close()
    delete_bank("bank", place.settings)
    store = place.open()
    assert soon(lambda: store.layers() == [])
    store.close()
    assert soon(lambda: is_gone(place))


def test_a_missing_layer_of_a_bank_is_made_again(place: Place) -> None:
    """The collection was deleted by other means; another ingestion can fill the new one."""
    with sample_bank(place, layers=(4, 8)) as made:
        fill(made, 10)
        kept = made.manifest
    store = place.open()
    if place.kind == "embedded":
        (place.settings.data_dir / "bank" / "L08").rename(place.settings.data_dir / "away")
    else:
        # Past the interface, on purpose.
        store._server.rest.delete_collection(collection_name("bank", 8))  # type: ignore[attr-defined]
    store.close()
    with open_bank("bank", place.settings) as opened:
        # Each node of a cluster may still show the collection once, in the list and by its name.
        assert soon(lambda: all(opened.store.layers() == [4] for _ in range(12)))

        def is_missed() -> bool:
            try:
                found = opened.verify()
            except BankNotFound:
                return False
            return found == ["Layer 8 has no collection; ingest the bank's corpora again to fill it."]

        assert all(soon(is_missed) for _ in range(4))
    with sample_bank(place, layers=(4, 8)) as again:
        assert again.manifest.head() == kept.head()
        assert [again.count(layer) for layer in (4, 8)] == [10, 0]


def test_a_bank_of_another_schema_is_refused(place: Place) -> None:
    with sample_bank(place) as made:
        put_head(made.store, made.manifest.head() | {"schema": 9, "version": "7.0"})
    for ask in (lambda: open_bank("bank", place.settings), lambda: sample_bank(place)):
        with pytest.raises(BankMismatch, match=r"schema 9, this latentbank reads schema 1 or 3; .*\(7\.0\)"):
            ask()
    assert list_banks(place.settings) == ["bank"]


# -- layers ------------------------------------------------------------------------------------------


def test_choosing_layers(filled: Bank) -> None:
    assert filled.choose_layers() == filled.choose_layers("mid") == [4, 8]
    assert filled.choose_layers("all") == [2, 4, 8, 16]
    with pytest.raises(LayerNotFound, match=r"no layer 1, .*; it has 2, 4, 8, 16"):
        filled.choose_layers("paper")
    assert filled.choose_layers(16) == [16]
    assert filled.choose_layers([8, 2, 8]) == [2, 8]
    assert filled.choose_layers(range(2, 5, 2)) == [2, 4]
    chosen = filled.choose_layers(np.array([4, 2]))
    assert chosen == [2, 4]
    assert {type(layer) for layer in [*chosen, *filled.choose_layers(np.int64(4))]} == {int}
    for wrong, message in [
        (3, "has no layer 3; it has 2, 4, 8, 16"),
        ([4, 5, 7], "has no layer 5, 7; it has 2, 4, 8, 16"),
        ([], "No bank layer was named; 'bank' has 2, 4, 8, 16"),
        ("middle", "'middle' names no bank layers; use mid, all, paper or numbers"),
    ]:
        with pytest.raises(LayerNotFound, match=message):
            filled.choose_layers(wrong)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(LayerNotFound, match=message):
            filled.search(units(1), wrong)  # type: ignore[arg-type]
    with pytest.raises(LayerNotFound):
        filled.count(3)


@pytest.mark.parametrize(
    ("num_layers", "layers", "middle"),
    [
        (16, [0, 4, 8, 12], [4, 8]),
        (30, [4, 8, 12, 16], [8, 12]),
        (32, [8, 16, 17], [8, 16]),
        (2, [0, 1, 2], [1]),
        (16, [0, 16], [0, 16]),
        (7, [2], [2]),
    ],
)
def test_the_middle_is_from_a_quarter_to_half(
    data_dir: Path, num_layers: int, layers: list[int], middle: list[int]
) -> None:
    given: dict[str, Any] = {"model": "m", "fingerprint": "f", "hidden_size": 4, "data_dir": data_dir}
    with create_bank("b", layers=layers, num_layers=num_layers, **given) as made:
        assert made.choose_layers("mid") == middle


# -- searching ---------------------------------------------------------------------------------------


def test_an_exact_search_is_what_numpy_finds(filled: Bank) -> None:
    states = {layer: units(120, seed=layer) for layer in filled.layers}
    queries = units(12, seed=77) * 1000
    for bank_layers in ("all", "mid", 8, [2, 16]):
        layers = filled.choose_layers(bank_layers)
        found = filled.search(queries, bank_layers, top_k=7, exact=True)
        for neighbors, best in zip(found, expected(states, queries, layers), strict=True):
            numbers = [(layer, number) for _, layer, number in best[:7]]
            assert hits(neighbors) == [(layer, ids([number])[0]) for layer, number in numbers]
            np.testing.assert_allclose([n.cosine for n in neighbors], [c for c, *_ in best[:7]], atol=2e-3)
            for neighbor, (_, number) in zip(neighbors, numbers, strict=True):
                given = payload(number)
                assert {key: getattr(neighbor, key) for key in given} == given
                assert neighbor.caption[neighbor.start : neighbor.end] == neighbor.word


def test_an_indexed_search_is_nearly_that(filled: Bank) -> None:
    for layer in filled.layers:
        filled.store.index(layer)
    queries = units(30, seed=77)
    exact = filled.search(queries, "all", exact=True)
    found = filled.search(queries, "all")
    same = [len(set(hits(a)) & set(hits(b))) for a, b in zip(exact, found, strict=True)]
    assert sum(same) >= 0.98 * 5 * 30
    for a, b in zip(exact, found, strict=True):
        assert abs(a[0].cosine - b[0].cosine) < 2e-3


@pytest.mark.parametrize(
    "kind",
    [
        "float16",
        "float32",
        "float64",
        "int64",
        "fortran",
        "lists",
        "torch float32",
        "torch bfloat16",
        "bfloat16 of JAX",
        "torch float16",
        "torch with grad",
        "a class with __array__",
    ],
)
def test_queries_of_any_kind(data_dir: Path, kind: str) -> None:
    class Wrapped:
        def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
            return np.array([[3, 0, 4, 0], [0, 1, 0, 2]], dtype=np.float32)

    plain = [[3, 0, 4, 0], [0, 1, 0, 2]]
    queries: Any = {
        "float16": np.array(plain, dtype=np.float16),
        "float32": np.array(plain, dtype=np.float32),
        "float64": np.array(plain, dtype=np.float64),
        "int64": np.array(plain),
        "fortran": np.asfortranarray(np.array(plain, dtype=np.float32)),
        "lists": plain,
        "torch float32": torch.tensor(plain, dtype=torch.float32),
        "torch bfloat16": torch.tensor(plain, dtype=torch.bfloat16),
        "bfloat16 of JAX": np.array(plain, dtype=ml_dtypes.bfloat16),
        "torch float16": torch.tensor(plain, dtype=torch.float16),
        "torch with grad": torch.tensor(plain, dtype=torch.float32, requires_grad=True),
        "a class with __array__": Wrapped(),
    }[kind]
    given: dict[str, Any] = {"model": "m", "fingerprint": "f", "hidden_size": 4, "data_dir": data_dir}
    with create_bank("b", layers=[1], num_layers=2, **given) as made:
        fill(made, 2, states=lambda layer: np.array([[3, 0, 4, 0], [0, 5, 0, 10]]))
        found = made.search(queries, top_k=1)
        assert [n.id for (n,) in found] == ids([0, 1])
        np.testing.assert_allclose([n.cosine for (n,) in found], [1, 1], atol=2e-3)
        (item,) = made.search(queries[0] if kind != "a class with __array__" else plain[0], top_k=2)
        assert [n.id for n in item] == ids([0, 1])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((2, WIDTH + 1)), rf"shape \[2, {WIDTH + 1}\]; this bank's hidden size is {WIDTH}"),
        (np.ones((2, 3, WIDTH)), rf"shape \[2, 3, {WIDTH}\]"),
        (1.0, r"shape \[1, 1\]"),
        ([], r"shape \[1, 0\]"),
        ("a dog", "must be an array of numbers"),
        (None, "must be an array of numbers"),
        ([[1.0], [1.0, 2.0]], "must be an array of numbers"),
        (np.ones((1, WIDTH), dtype=complex), "of type complex128"),
        (np.ones((1, WIDTH), dtype=bool), "of type bool"),
    ],
)
def test_malformed_queries(filled: Bank, queries: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        filled.search(queries)
    assert str(caught.value).endswith(".")
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.0, "all zeros"), (np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite")],
)
def test_a_row_without_a_direction_is_named(filled: Bank, value: float, message: str) -> None:
    queries = units(5)
    queries[3] = value if value == 0 else queries[3]
    queries[3, 5] = value
    with pytest.raises(QueryError, match=f"Row 3 of the queries .*{message}"):
        filled.search(queries)
    with pytest.raises(QueryError, match=f"Row 3 of the hidden states .*{message}"):
        filled.add(4, ids(range(5)), queries, [payload(n) for n in range(5)])
    assert filled.count(4) == 120


def test_no_queries_have_no_neighbors(filled: Bank) -> None:
    assert filled.search(np.empty((0, WIDTH), dtype=np.float32)) == []


def test_more_queries_than_one_batch(filled: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = units(25, seed=3)
    whole = filled.search(queries, "all", exact=True)
    monkeypatch.setattr(latentbank.bank.search, "QUERY_BATCH", 4)
    assert filled.search(queries, "all", exact=True) == whole
    assert [filled.search(query, "all", exact=True)[0] for query in queries] == whole


def test_top_k(filled: Bank) -> None:
    (everything,) = filled.search(units(1), [4, 8], top_k=1000)
    assert len(everything) == 240
    assert len({*hits(everything)}) == 240
    (once,) = filled.search(units(1), [4, 8], top_k=1000, unique="context")
    assert sorted(n.id for n in once) == sorted(ids(range(120)))
    for wrong in (0, -1):
        with pytest.raises(QueryError, match=f"top_k is {wrong}"):
            filled.search(units(1), top_k=wrong)
    with pytest.raises(QueryError, match="unique is 'sentence'"):
        filled.search(units(1), unique="sentence")  # type: ignore[arg-type]  # wrong on purpose


def test_where(filled: Bank) -> None:
    states = {layer: units(120, seed=layer) for layer in filled.layers}
    queries = units(4, seed=78)
    where = Where(word=["dog", "cat"]) & ~Where(position_min=4)

    def chosen(number: int) -> bool:
        p = payload(number)
        return p["word"] in ("dog", "cat") and p["position"] < 4

    found = filled.search(queries, "all", 6, where, exact=True)
    for neighbors, best in zip(found, expected(states, queries, filled.layers, chosen), strict=True):
        assert hits(neighbors) == [(layer, ids([number])[0]) for _, layer, number in best[:6]]
    assert filled.search(queries, where=Where(word="nowhere")) == [[], [], [], []]
    with pytest.raises(QueryError):
        filled.search(queries, where=Where())


# -- one neighbor a context, one a word ----------------------------------------------------------------


def test_unique_contexts_are_the_best_of_each(filled: Bank) -> None:
    states = {layer: units(120, seed=layer) for layer in filled.layers}
    queries = units(6, seed=79)
    found = filled.search(queries, "all", 9, exact=True, unique="context")
    for neighbors, best in zip(found, expected(states, queries, filled.layers), strict=True):
        kept: dict[int, int] = {}
        for _, layer, number in best:
            kept.setdefault(number, layer)
        assert hits(neighbors) == [(layer, ids([number])[0]) for number, layer in list(kept.items())[:9]]


def crowded(layer: int) -> npt.NDArray[np.float32]:
    """Hidden states ranked by word towards the first axis: every `dog` (all alike) is nearer than any other."""
    rows = units(240, seed=layer, width=WIDTH)
    rows[:, 0] = 0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for number in range(240):
        word = payload(number)["word"].casefold()
        rows[number] *= 0.05 + 0.02 * ["dog", "snow", "cat", "fire", "truck"].index(word)
    rows[:, 0] = 1
    return rows


def test_unique_words_are_found_below_a_crowd(place: Place) -> None:
    with sample_bank(place) as made:
        states = fill(made, 240, states=crowded)
        query = np.eye(WIDTH)[:1]
        (nearest_ones,) = made.search(query, "all", 40, exact=True)
        assert {n.word.casefold() for n in nearest_ones} == {"dog"}
        (found,) = made.search(query, "all", 4, exact=True, unique="word")
        assert [n.word.casefold() for n in found] == ["dog", "snow", "cat", "fire"]
        best: dict[str, float] = {}
        for cosine, _, number in expected(states, query, [4, 8])[0]:
            best.setdefault(payload(number)["word"].casefold(), cosine)
        np.testing.assert_allclose([n.cosine for n in found], list(best.values())[:4], atol=5e-4)
        (fewer,) = made.search(query, "all", 50, exact=True, unique="word")
        assert Counter(n.word.casefold() for n in fewer) == Counter(["dog", "snow", "cat", "fire", "truck"])
        (others,) = made.search(query, "all", 2, ~Where(word=["dog", "Dog"]), exact=True, unique="word")
        assert [n.word for n in others] == ["snow", "cat"]


def test_words_are_searched_only_where_they_can_be(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further search excludes the words its layer has returned, and stops when none could change the answer."""
    settings = {"data_dir": data_dir}
    with sample_bank(Place("embedded", _settings(settings))) as made:
        fill(made, 240, states=crowded)
        searches: list[tuple[int, int]] = []
        search = made.store.search

        def spy(layer: int, queries: Any, limit: int, *rest: Any) -> Any:
            searches.append((layer, limit))
            return search(layer, queries, limit, *rest)

        monkeypatch.setattr(made.store, "search", spy)
        (found,) = made.search(np.eye(WIDTH)[:1], "all", 3, unique="word")
        assert [n.word.casefold() for n in found] == ["dog", "snow", "cat"]
        assert {limit for _, limit in searches} == {3}
        assert len(searches) <= 2 * 8  # words are written in two ways at most
        searches.clear()
        made.search(units(3, seed=1), "all", 3, Where(word="snow"), unique="word")
        assert searches


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 5])
def test_unique_words_are_the_best_of_all_contexts(filled: Bank, top_k: int) -> None:
    states = {layer: units(120, seed=layer) for layer in filled.layers}
    queries = units(40, seed=top_k)
    found = filled.search(queries, "all", top_k, exact=True, unique="word")
    for neighbors, best in zip(found, expected(states, queries, filled.layers), strict=True):
        kept: dict[str, float] = {}
        for cosine, _, number in best:
            kept.setdefault(payload(number)["word"].casefold(), cosine)
        np.testing.assert_allclose([n.cosine for n in neighbors], list(kept.values())[:top_k], atol=5e-4)
        assert len({n.word.casefold() for n in neighbors}) == len(neighbors)


def _settings(given: dict[str, Any]) -> Any:
    from latentbank.bank.settings import load_settings

    return load_settings(**given)


# -- counting, dropping --------------------------------------------------------------------------------


def test_counts_and_words(filled: Bank) -> None:
    counted = Counter(payload(n)["word"] for n in range(120))
    assert filled.words() == counted
    assert len(filled.words(limit=2)) == 2
    assert filled.words(Where(position_max=1)) == Counter(
        payload(n)["word"] for n in range(120) if payload(n)["position"] == 1
    )
    assert filled.count() == filled.count(16) == 120
    assert filled.count(where=Where(word="dog")) == counted["dog"]
    assert filled.count(8, Where(word="dog") | Where(word="cat")) == counted["dog"] + counted["cat"]


def test_info(filled: Bank) -> None:
    info = filled.info()
    assert info.manifest == filled.manifest
    assert {layer: item.points for layer, item in info.layers.items()} == {2: 120, 4: 120, 8: 120, 16: 120}


def test_dropping_a_corpus(filled: Bank) -> None:
    fill(filled, 30, "plants")
    assert filled.drop_corpus("animals") == 120
    assert set(filled.corpora) == {"plants"}
    assert [filled.count(layer) for layer in filled.layers] == [30] * 4
    assert filled.verify() == []
    with pytest.raises(LatentBankError, match="has no corpus 'animals'; it has plants"):
        filled.drop_corpus("animals")
    assert filled.drop_corpus("plants") == 30
    with pytest.raises(LatentBankError, match="has no corpus 'plants'; it has none"):
        filled.drop_corpus("plants")
    fill(filled, 120)
    assert filled.count() == 120


def test_the_ledger(filled: Bank) -> None:
    filled.record(entry("plants", 0, complete=False))
    assert set(filled.corpora) == {"animals", "plants"}
    assert filled.corpora["plants"].complete is False
    filled.record(entry("plants", 3, complete=True))
    assert (filled.corpora["plants"].contexts, filled.corpora["animals"].contexts) == (3, 120)


def test_repr(place: Place) -> None:
    with sample_bank(place) as made:
        assert repr(made) == "<Bank bank: tiny/llama, layers 4, 8, no corpora>"
        fill(made, 2000 if place.kind == "embedded" else 20)
        contexts = "2,000" if place.kind == "embedded" else "20"
        assert repr(made) == f"<Bank bank: tiny/llama, layers 4, 8, animals ({contexts} contexts)>"


def test_a_closed_bank_lets_go(place: Place) -> None:
    with sample_bank(place) as made:
        fill(made, 3)
    with open_bank("bank", place.settings) as opened:
        assert opened.count() == 3
    delete_bank("bank", place.settings)
    assert list_banks(place.settings) == []


# -- verifying -----------------------------------------------------------------------------------------


class TestVerify:
    """Errors are found, and the repair that each message names works."""

    def damaged(self, filled: Bank, layer: int, given: Points) -> list[str]:
        filled.store.upsert(layer, given)
        filled.store.commit()
        return filled.verify()

    def test_a_good_bank(self, filled: Bank) -> None:
        assert filled.verify() == []
        fill(filled, 25, "plants")
        for layer in filled.layers:
            filled.store.index(layer)
        assert filled.verify() == []
        assert filled.verify(sample=0) == []

    def test_an_incomplete_corpus(self, filled: Bank) -> None:
        fill(filled, 25, "plants", complete=False)
        assert filled.verify() == ["Corpus 'plants' is incomplete; run its ingestion again, or drop it."]
        filled.drop_corpus("plants")
        assert filled.verify() == []

    def test_contexts_missing_in_one_layer(self, filled: Bank) -> None:
        filled.store.delete_corpus(8, "animals")
        found = self.damaged(filled, 8, points(119))
        assert found == [
            "Layer 8 holds 119 contexts of corpus 'animals', the ledger says 120; run its ingestion again, it adds "
            "what is missing.",
            "Layer 8 holds other contexts than layer 2; run the ingestion of the bank's corpora again, it adds what is "
            "missing.",
        ]
        assert self.damaged(filled, 8, points(120)) == []

    def test_another_context_in_one_layer(self, filled: Bank) -> None:
        """The counts are equal, the contexts are not."""
        filled.store.delete_corpus(8, "animals")
        found = self.damaged(filled, 8, points(120, first=1))
        assert len(found) == 1
        assert "Layer 8 holds other contexts than layer 2" in found[0]

    def test_more_contexts_than_the_ledger_says(self, filled: Bank) -> None:
        for layer in filled.layers:
            found = self.damaged(filled, layer, points(1, first=500))
        assert found == [
            f"Layer {layer} holds 121 contexts of corpus 'animals', the ledger says 120; drop it and ingest it "
            "again."
            for layer in filled.layers
        ]

    def test_a_corpus_that_is_not_in_the_ledger(self, filled: Bank) -> None:
        for layer in filled.layers:
            found = self.damaged(filled, layer, points(3, "strays"))
        assert found == [
            f"Layer {layer} holds 3 contexts of corpus 'strays', which is not in the ledger; drop it."
            for layer in filled.layers
        ]
        assert filled.drop_corpus("strays") == 3
        assert filled.verify() == []

    @pytest.mark.parametrize("length", [0.0, float("nan")])
    def test_a_vector_of_the_wrong_length(self, filled: Bank, place: Place, length: float) -> None:
        given = points(120)
        bad = Points(given.ids[60:61], np.full((1, WIDTH), length, dtype=np.float32), given.payloads[60:61])
        if place.kind == "rest":  # REST carries JSON, which has no NaN
            other = place.open(prefer_grpc=True)
            other.upsert(4, bad)
            other.close()
        else:
            filled.store.upsert(4, bad)
        assert filled.verify() == [
            f"Layer 4, context {given.ids[60]}: its vector has length {length:.4f} instead of 1; drop its corpus "
            "and ingest it again."
        ]

    def test_what_is_stored_is_unit_and_rotated(self, filled: Bank) -> None:
        row = {item: number for number, item in enumerate(ids(range(120)))}
        for point in filled.store.scroll(4, vectors=True):
            turned = rotate(units(120, seed=4)[row[point.id]], filled.manifest.rotation_seed)
            assert point.vector is not None
            np.testing.assert_allclose(point.vector, turned, atol=1e-3)


# -- imports -------------------------------------------------------------------------------------------


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running `code`."""
    program = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout))


def test_importing_bank_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "datasets", "qdrant_client", "qdrant_edge", "grpc", "httpx"}
    loaded = loaded_by("import latentbank.bank")
    assert not loaded & (heavy | {"numpy", "pydantic", "pydantic_settings", "tenacity"})
    assert not loaded_by(
        "from latentbank.bank.where import Where, parse_where; from latentbank.bank.points import Neighbor, context_id"
    ) & (heavy | {"numpy"})
    assert not loaded_by("from latentbank.bank.settings import Settings, load_settings; load_settings()") & (
        heavy | {"numpy"}
    )
    # A process that indexes a layer is started for each of them.
    indexing = loaded_by("import latentbank.bank.store.embedded.optimizing")
    assert not indexing & {"numpy", "pydantic", "pydantic_settings", "tenacity", "qdrant_client"}
    opening = "from latentbank.bank.opening import create_bank, open_bank, list_banks"
    assert not loaded_by(f"from latentbank.bank.bank import Bank; {opening}") & heavy


def test_a_bank_needs_no_model_library(data_dir: Path) -> None:
    code = (
        "from latentbank.bank.opening import create_bank\n"
        "b = create_bank('b', model='m', fingerprint='f', layers=[0], num_layers=1, hidden_size=4, "
        f"data_dir={str(data_dir)!r})\n"
        "b.search([[1, 2, 3, 4]])\n"
        "b.close()\n"
    )
    assert not loaded_by(code) & {"torch", "transformers", "datasets", "qdrant_client", "grpc"}
