"""One set of tests for every store: embedded, on a server over gRPC, on a server over REST alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from latentbank.bank.points import Payload
from latentbank.bank.settings import Quantization
from latentbank.bank.store.base import Points, Store
from latentbank.bank.where import Filter, Where
from latentbank.errors import BankUnavailable, LatentBankError, QueryError
from tests.bank.samples import (
    COLOURS,
    HEAD,
    WIDTH,
    Place,
    ids,
    nearest,
    payload,
    points,
    put_entry,
    put_head,
    soon,
    units,
)
from tests.bank.servers import CALLS

Choice = tuple[Filter, Callable[[Payload], bool]]

CHOICES: dict[str, Choice] = {
    "corpus": (Where(corpus="animals"), lambda p: p["corpus"] == "animals"),
    "no such corpus": (Where(corpus="animal"), lambda p: False),
    "word": (Where(word="dog"), lambda p: p["word"] == "dog"),
    "words": (Where(word=["dog", "Dog"]), lambda p: p["word"] in ("dog", "Dog")),
    "none of no words": (Where(word=[]), lambda p: False),
    "token": (Where(token_id=103), lambda p: p["token_id"] == 103),
    "tokens": (Where(token_id=(103, 104)), lambda p: p["token_id"] in (103, 104)),
    "tokens of numpy": (Where(token_id=list(np.array([103, 104]))), lambda p: p["token_id"] in (103, 104)),
    "sentence": (Where(sentence=3), lambda p: p["sentence"] == 3),
    "from a position": (Where(position_min=4), lambda p: p["position"] >= 4),
    "to a position": (Where(position_max=2), lambda p: p["position"] <= 2),
    "between positions": (Where(position_min=2, position_max=3), lambda p: 2 <= p["position"] <= 3),
    "all at once": (
        Where(corpus="animals", word="cat", position_max=3),
        lambda p: p["corpus"] == "animals" and p["word"] == "cat" and p["position"] <= 3,
    ),
    "and": (
        Where(word="cat") & Where(corpus="plants"),
        lambda p: p["word"] == "cat" and p["corpus"] == "plants",
    ),
    "or": (
        Where(word="cat") | Where(token_id=103),
        lambda p: p["word"] == "cat" or p["token_id"] == 103,
    ),
    "not": (~Where(corpus="plants"), lambda p: p["corpus"] != "plants"),
    "not both": (
        ~Where(corpus="plants", word="cat"),
        lambda p: not (p["corpus"] == "plants" and p["word"] == "cat"),
    ),
    "nested": (
        (Where(word="cat") | ~(Where(corpus="plants") | Where(position_min=3))) & ~Where(token_id=[105, 106]),
        lambda p: (
            (p["word"] == "cat" or not (p["corpus"] == "plants" or p["position"] >= 3))
            and p["token_id"] not in (105, 106)
        ),
    ),
    "twice not": (~~Where(word="snow"), lambda p: p["word"] == "snow"),
}
PHRASES: dict[str, Callable[[str], bool]] = {
    "fire truck": lambda caption: True,
    "FIRE Truck": lambda caption: True,
    "truck fire": lambda caption: False,
    "red dog": lambda caption: "red dog" in caption.lower(),
    "a red": lambda caption: "a red" in caption.lower(),
    "house 7": lambda caption: caption.endswith("house 7."),
    "ouse 7": lambda caption: False,
    "beside, the: fire": lambda caption: True,
    "beside truck": lambda caption: False,
}


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """A bank with an empty layer 4 and a manifest."""
    with_layer = place.open()
    with_layer.create(4, WIDTH, "int8")
    put_head(with_layer, HEAD)
    yield with_layer
    with_layer.close()


def two_corpora(store: Store) -> tuple[Points, Points]:
    """150 contexts of `animals` and 90 of `plants`, committed in layer 4."""
    both = points(150), points(90, "plants", seed=1)
    for some in both:
        store.upsert(4, some)
    store.commit()
    return both


def joined(*parts: Points) -> Points:
    return Points(
        [item for part in parts for item in part.ids],
        np.concatenate([part.vectors for part in parts]),
        [item for part in parts for item in part.payloads],
    )


def content(store: Store, layer: int = 4) -> dict[str, tuple[Payload | None, list[float]]]:
    """Everything a layer holds, by id."""
    return {
        p.id: (p.payload, [] if p.vector is None else p.vector.tolist())
        for p in store.scroll(layer, vectors=True, payloads=True)
    }


def recall(store: Store, given: Points, queries: Any, exact: bool, k: int = 5) -> float:
    """The share of each query's true `k` nearest that a search finds."""
    best, _ = nearest(given.vectors, queries, k)
    found = store.search(4, queries, k, exact=exact)
    hits = [
        len({hit.id for hit in hits} & {given.ids[i] for i in rows})
        for hits, rows in zip(found, best, strict=True)
    ]
    return sum(hits) / (k * len(queries))


class TestStore:
    """Properties that a bank relies on."""

    def test_a_closed_store_says_so(self, store: Store) -> None:
        store.close()
        calls = [call.do for call in CALLS.values()] + [lambda s: s.commit()]
        for call in calls:
            with pytest.raises(BankUnavailable, match=r"^The bank 'bank' is closed; open it again\.$"):
                call(store)
        store.close()

    # -- layers ----------------------------------------------------------------------------------

    def test_an_unmade_bank_has_neither_manifest_nor_layers(self, place: Place) -> None:
        store = place.open("nothing")
        assert store.read_manifest() is None
        assert store.layers() == []
        store.close()

    def test_layers_are_listed_ascending_and_start_empty(self, store: Store) -> None:
        for layer in (12, 0):
            store.create(layer, WIDTH, "int8")
        assert store.layers() == [0, 4, 12]
        assert [store.count(layer) for layer in (0, 4, 12)] == [0, 0, 0]
        assert store.search(12, units(3), 5) == [[], [], []]
        assert list(store.scroll(12)) == []
        assert store.facet(12, "word") == {}

    def test_banks_with_similar_names_keep_apart(self, place: Place, store: Store) -> None:
        store.upsert(4, points(3))
        store.commit()
        for name in ("ban", "bank2", "bank-", "a.bank", "BANK"):
            other = place.open(name)
            assert (other.layers(), other.read_manifest()) == ([], None)
            other.create(4, WIDTH, "int8")
            assert other.count(4) == 0
            other.delete()
            other.close()
        assert store.layers() == [4]
        assert store.count(4) == 3

    def test_creating_a_layer_replaces_what_is_there(self, store: Store) -> None:
        store.upsert(4, points(20))
        store.commit()
        store.create(4, WIDTH + 1, "none")
        assert store.layers() == [4]
        assert store.count(4) == 0
        store.upsert(4, points(2, width=WIDTH + 1))
        assert store.count(4) == 2

    def test_a_layer_that_is_not_there_is_an_error(self, store: Store) -> None:
        for ask in (
            lambda: store.count(9),
            lambda: store.search(9, units(1), 5),
            lambda: store.upsert(9, points(1)),
            lambda: list(store.scroll(9)),
        ):
            with pytest.raises(LatentBankError, match=r"no (such bank|layer 9)"):
                ask()

    # -- points ----------------------------------------------------------------------------------

    def test_points_come_back_in_the_order_of_their_ids(self, store: Store) -> None:
        given = points(150)
        store.upsert(4, given)
        store.commit()
        found = list(store.scroll(4, vectors=True, payloads=True))
        assert [p.id for p in found] == sorted(given.ids)
        row = {item: number for number, item in enumerate(given.ids)}
        for p in found:
            assert p.payload == given.payloads[row[p.id]]
            assert p.vector is not None
            assert p.vector.dtype == np.float32
            np.testing.assert_allclose(p.vector, given.vectors[row[p.id]], atol=5e-4)
        bare = list(store.scroll(4))
        assert [(p.id, p.payload, p.vector) for p in bare] == [
            (item, None, None) for item in sorted(given.ids)
        ]

    def test_scrolling_goes_through_every_page(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for kind in ("embedded", "server"):
            monkeypatch.setattr(f"latentbank.bank.store.{kind}.store._SCROLL", 16)
        given, _ = two_corpora(store)
        assert [p.id for p in store.scroll(4, Where(corpus="animals"))] == sorted(given.ids)
        assert len(list(store.scroll(4))) == 240
        assert store.present(4, given.ids) == set(given.ids)

    def test_scrolling_begins_at_an_id(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for kind in ("embedded", "server"):
            monkeypatch.setattr(f"latentbank.bank.store.{kind}.store._SCROLL", 16)
        given, _ = two_corpora(store)
        order = sorted(given.ids)
        found = store.scroll(4, Where(corpus="animals"), vectors=True, payloads=True, start=order[50])
        assert [p.id for p in found] == order[50:]
        assert [p.id for p in store.scroll(4, Where(corpus="animals"), start=order[-1])] == order[-1:]

    def test_upserting_again_changes_nothing(self, store: Store) -> None:
        given = points(120)
        store.upsert(4, given)
        store.commit()
        before = content(store)
        for part in (slice(0, 50), slice(40, 120)):
            store.upsert(4, Points(given.ids[part], given.vectors[part], given.payloads[part]))
        store.commit()
        assert content(store) == before
        store.index(4)
        store.upsert(4, given)
        store.commit()
        assert content(store) == before
        assert store.count(4) == 120
        assert store.count(4, Where(word="dog")) == 20
        assert store.facet(4, "corpus") == {"animals": 120}
        assert store.info(4).points == 120

    def test_a_vector_of_another_length_is_refused(self, store: Store) -> None:
        with pytest.raises(LatentBankError):
            store.upsert(4, points(2, width=WIDTH - 1))
        store.commit()
        assert store.count(4) == 0
        store.upsert(4, points(2))
        assert store.count(4) == 2

    def test_present_returns_the_ids_that_are_stored(self, store: Store) -> None:
        given, _ = two_corpora(store)
        requested = [*given.ids[:7], *ids(range(5000, 5003)), given.ids[9]]
        assert store.present(4, requested) == {*given.ids[:7], given.ids[9]}
        assert store.present(4, []) == set()

    def test_payloads_are_those_of_the_points_that_are_there(self, store: Store) -> None:
        given = points(10)
        store.upsert(4, given)
        store.commit()
        requested = [given.ids[7], *ids([99]), given.ids[2]]
        assert store.payloads(4, requested) == {given.ids[i]: given.payloads[i] for i in (2, 7)}
        assert store.payloads(4, []) == {}

    def test_a_search_without_payloads(self, store: Store) -> None:
        store.upsert(4, points(30))
        store.commit()
        with_them, without = (
            store.search(4, units(3, seed=9), 5, payloads=with_payloads) for with_payloads in (True, False)
        )
        assert all(hit.payload is None for hits in without for hit in hits)
        assert [[(hit.id, hit.score) for hit in hits] for hits in without] == [
            [(hit.id, hit.score) for hit in hits] for hits in with_them
        ]

    # -- search ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("indexed", [False, True], ids=["unindexed", "indexed"])
    def test_an_exact_search_is_what_numpy_finds(self, store: Store, indexed: bool) -> None:
        given = joined(*two_corpora(store))
        if indexed:
            store.index(4)
        queries = units(20, seed=9)
        best, cosines = nearest(given.vectors, queries, 5)
        found = store.search(4, queries * 3, 5, exact=True)
        assert [[hit.id for hit in hits] for hits in found] == [[given.ids[i] for i in rows] for rows in best]
        np.testing.assert_allclose([[hit.score for hit in hits] for hits in found], cosines, atol=2e-3)
        assert [hit.payload for hit in found[0]] == [given.payloads[i] for i in best[0]]

    @pytest.mark.parametrize("quantization", ["int8", "turbo", "none"])
    @pytest.mark.parametrize("graph_from", [0, 10_000], ids=["graph", "scan"])
    def test_an_indexed_search_finds_what_numpy_finds(
        self, place: Place, quantization: Quantization, graph_from: int
    ) -> None:
        store = place.open("quantized", graph_from=graph_from)
        store.create(4, WIDTH, quantization)
        put_head(store, HEAD | {"bank": "quantized", "quantization": quantization})
        given = points(300)
        store.upsert(4, given)
        store.commit()
        store.index(4)
        queries = units(20, seed=9)
        assert recall(store, given, queries, exact=False) >= (0.95 if quantization == "turbo" else 0.99)
        assert recall(store, given, queries, exact=True) == 1.0
        # Hits are rescored with the original vectors, so cosines are as exact as in an exact search.
        row = {item: number for number, item in enumerate(given.ids)}
        for query, hits in zip(queries, store.search(4, queries, 5), strict=True):
            expected = [float(query @ given.vectors[row[hit.id]]) for hit in hits]
            np.testing.assert_allclose([hit.score for hit in hits], expected, atol=2e-3)
        store.close()

    def test_a_search_gives_no_more_than_there_is(self, store: Store) -> None:
        given = points(7)
        store.upsert(4, given)
        (found,) = store.search(4, units(1), 50)
        assert {hit.id for hit in found} == set(given.ids)
        scores = [hit.score for hit in found]
        assert scores == sorted(scores, reverse=True)

    def test_several_threads_may_search_at_once(self, store: Store) -> None:
        two_corpora(store)
        store.index(4)
        queries = units(30, seed=5)
        alone = [store.search(4, queries[i : i + 1], 3)[0] for i in range(30)]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda i: store.search(4, queries[i : i + 1], 3)[0], range(30)))
        assert together == alone

    # -- filters ---------------------------------------------------------------------------------

    def check(self, store: Store, given: Points, where: Filter, chosen: Callable[[Payload], bool]) -> None:
        """Check that a filter selects the same contexts in a scroll, a count and a search as in plain Python."""
        rows = [i for i, item in enumerate(given.payloads) if chosen(item)]
        assert {p.id for p in store.scroll(4, where)} == {given.ids[i] for i in rows}
        assert store.count(4, where) == len(rows)
        queries = units(3, seed=4)
        found = store.search(4, queries, 4, where, exact=True)
        best, _ = nearest(given.vectors[rows], queries, 4)
        assert [[hit.id for hit in hits] for hits in found] == [
            [given.ids[rows[i]] for i in item] for item in best
        ]
        approximate = store.search(4, queries, 4, where)
        assert [len(hits) for hits in approximate] == [min(4, len(rows))] * 3
        assert all(chosen(hit.payload) for hits in approximate for hit in hits)

    def test_filters_select_what_they_say(self, store: Store) -> None:
        given = joined(*two_corpora(store))
        for where, chosen in CHOICES.values():
            self.check(store, given, where, chosen)
        store.index(4)
        for where, chosen in CHOICES.values():
            self.check(store, given, where, chosen)

    def test_caption_contains_finds_words_that_follow_each_other(self, store: Store) -> None:
        given = joined(*two_corpora(store))
        more = points(30, "late", seed=3)

        def check_all(points: Points) -> None:
            for phrase, chosen in PHRASES.items():
                where = Where(caption_contains=phrase)
                self.check(store, points, where, lambda p, chosen=chosen: chosen(p["caption"]))
            both = Where(caption_contains="blue snow", corpus="plants") | ~Where(caption_contains="a")
            assert store.count(4, both) == sum(
                "blue snow" in p["caption"] and p["corpus"] == "plants" for p in points.payloads
            )

        check_all(given)
        store.index(4)
        check_all(given)
        store.upsert(4, more)
        check_all(joined(given, more))
        store.index(4)
        check_all(joined(given, more))

    def test_an_empty_filter_selects_everything(self, store: Store) -> None:
        two_corpora(store)
        assert store.count(4, None) == 240

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            (Where(), "without a condition"),
            (Where(word="dog") & Where(), "without a condition"),
            (Where(word=5), "word takes text"),
            (Where(word=b"dog"), "word takes text"),
            (Where(corpus=["a", 3]), "corpus takes text"),
            (Where(token_id="dog"), "token_id takes whole numbers"),
            (Where(token_id=3.0), "token_id takes whole numbers"),
            (Where(token_id=2**63), "token_id takes whole numbers"),
            (Where(position_min="3"), "position_min takes whole numbers"),
            (Where(position_max=[3]), "position_max takes whole numbers"),
            (Where(caption_contains=""), "at least one word"),
            (Where(caption_contains=" .,! "), "at least one word"),
            (Where(caption_contains=["a"]), "caption_contains takes text"),
            ("word=dog", "not from str"),
            (Where(word="a") | "dog", "not from str"),
        ],
    )
    def test_a_malformed_filter_is_an_error(self, store: Store, where: Any, message: str) -> None:
        with pytest.raises(QueryError, match=message):
            store.count(4, where)
        with pytest.raises(QueryError, match=message):
            store.search(4, units(1), 5, where)

    # -- facets ----------------------------------------------------------------------------------

    def test_facets_count_values(self, store: Store) -> None:
        given = joined(*two_corpora(store))
        for _ in range(2):
            words = Counter(p["word"] for p in given.payloads)
            found = store.facet(4, "word")
            assert found == words
            assert list(found.values()) == sorted(words.values(), reverse=True)
            assert store.facet(4, "corpus") == {"animals": 150, "plants": 90}
            tokens = Counter(p["token_id"] for p in given.payloads)
            assert store.facet(4, "token_id") == tokens
            assert sorted(store.facet(4, "token_id", limit=3).values()) == sorted(
                count for _, count in tokens.most_common(3)
            )
            chosen = Counter(p["word"] for p in given.payloads if p["corpus"] == "plants")
            assert store.facet(4, "word", Where(corpus="plants")) == chosen
            assert store.facet(4, "word", Where(corpus="nothing")) == {}
            store.index(4)

    # -- deleting, indexing ------------------------------------------------------------------------

    @pytest.mark.parametrize("indexed", [False, True], ids=["unindexed", "indexed"])
    def test_deleting_a_corpus_leaves_the_others(self, store: Store, indexed: bool) -> None:
        _, plants = two_corpora(store)
        if indexed:
            store.index(4)
        store.delete_corpus(4, "animals")
        store.commit()
        assert store.count(4) == 90
        assert {p.id for p in store.scroll(4)} == set(plants.ids)
        assert store.facet(4, "corpus") == {"plants": 90}
        assert {hit.payload["corpus"] for hits in store.search(4, units(5), 200) for hit in hits} == {
            "plants"
        }
        assert store.info(4).points == 90
        store.delete_corpus(4, "animals")
        store.index(4)
        assert {p.id for p in store.scroll(4)} == set(plants.ids)
        store.upsert(4, points(10))
        assert store.facet(4, "corpus") == {"plants": 90, "animals": 10}

    def test_info_counts_points_and_bytes(self, store: Store, place: Place) -> None:
        assert store.info(4).points == 0
        two_corpora(store)
        before = store.info(4)
        assert (before.points, before.indexed) == (240, 0)
        store.index(4)
        after = store.info(4)
        assert after.points == 240
        assert after.indexed <= 240
        if place.kind == "embedded":
            assert before.bytes_on_disk is not None
            assert before.bytes_on_disk > 240 * WIDTH * 2
            assert after.indexed == 240

    def test_a_graph_is_built_from_graph_from_on(self, place: Place) -> None:
        given = points(300)
        for number, (graph_from, graph) in enumerate([(301, False), (300, True)]):
            name = f"graph{number}"
            store = place.open(name, graph_from=graph_from)
            store.create(4, WIDTH, "int8")
            put_head(store, HEAD | {"bank": name})
            store.upsert(4, given)
            store.commit()
            store.index(4)
            if place.kind == "embedded":
                layer = place.settings.data_dir / name / "L04"
                (built,) = layer.rglob("hnsw_config.json")
                assert json.loads(built.read_text())["m"] == (16 if graph else 0)
            elif graph:
                assert store.info(4).indexed == 300
            assert recall(store, given, units(20, seed=9), exact=False) >= 0.99
            store.close()

    def test_a_second_corpus_is_found_at_once_and_indexed_later(self, store: Store, place: Place) -> None:
        store.close()
        store = place.open(graph_from=200)
        animals = points(250)
        store.upsert(4, animals)
        store.commit()
        store.index(4)
        assert store.info(4).indexed == 250
        store.defer_index(4, 100)
        plants = points(60, "plants", seed=1)
        store.upsert(4, plants)
        store.commit()
        both = joined(animals, plants)
        queries = units(20, seed=9)
        assert recall(store, both, queries, exact=True) == 1.0
        assert recall(store, both, queries, exact=False) >= 0.98
        (found,) = store.search(4, plants.vectors[:1], 1)
        assert found[0].id == plants.ids[0]
        store.index(4)
        assert (store.info(4).points, store.info(4).indexed) == (310, 310)
        assert recall(store, both, queries, exact=False) >= 0.98
        assert {p.id for p in store.scroll(4)} == set(both.ids)
        store.close()

    def test_a_large_layer_is_divided_while_it_is_loaded(self, store: Store, place: Place) -> None:
        store.close()
        store = place.open(graph_from=400)
        parts = [points(50, first=start, seed=start) for start in range(0, 600, 50)]
        store.defer_index(4, 600)
        for item in parts:
            store.upsert(4, item)
            store.commit()
        store.index(4)
        given = joined(*parts)
        assert (store.info(4).points, store.info(4).indexed) == (600, 600)
        if place.kind == "embedded":
            built = (place.settings.data_dir / "bank" / "L04").rglob("hnsw_config.json")
            assert [json.loads(file.read_text())["m"] for file in built] == [16] * 2
        assert recall(store, given, units(20, seed=9), exact=False) >= 0.99
        assert recall(store, given, units(20, seed=9), exact=True) == 1.0
        store.close()

    def test_indexing_again_and_an_empty_layer_do_no_harm(self, store: Store) -> None:
        store.index(4)
        assert store.count(4) == 0
        two_corpora(store)
        store.index(4)
        store.index(4)
        assert store.count(4) == 240

    # -- manifest --------------------------------------------------------------------------------

    def test_the_head_and_each_entry_change_by_themselves(self, store: Store) -> None:
        assert store.read_manifest() == (HEAD, {})
        put_entry(store, "a", {"name": "a", "contexts": 1, "plan": {"bos": "tokenizer", "skip": 1}})
        put_entry(store, "b.c-d_e", {"name": "b.c-d_e", "contexts": 2, "complete": False})
        put_entry(store, "a", {"name": "a", "contexts": 3})
        changed = HEAD | {"model": "otro/modèle"}
        put_head(store, changed)
        entries = {
            "a": {"name": "a", "contexts": 3},
            "b.c-d_e": {"name": "b.c-d_e", "contexts": 2, "complete": False},
        }
        assert store.read_manifest() == (changed, entries)
        put_entry(store, "a", None)
        put_entry(store, "never there", None)
        assert store.read_manifest() == (changed, {"b.c-d_e": entries["b.c-d_e"]})

    def test_an_entry_without_a_bank_is_an_error(self, place: Place) -> None:
        store = place.open("nothing")
        with pytest.raises(LatentBankError, match="no bank 'nothing'"):
            put_entry(store, "a", {"name": "a"})
        store.close()

    # -- life ------------------------------------------------------------------------------------

    def test_everything_is_there_after_opening_again(self, place: Place) -> None:
        store = place.open()
        for layer in (4, 8):
            store.create(layer, WIDTH, "int8")
        put_head(store, HEAD)
        put_entry(store, "animals", {"name": "animals"})
        given = joined(*two_corpora(store))
        store.index(4)
        store.upsert(8, given)
        store.commit()
        before = content(store), content(store, 8), store.info(4).indexed, store.search(4, units(5), 5)
        store.close()
        again = place.open()
        assert again.layers() == [4, 8]
        assert again.read_manifest() == (HEAD, {"animals": {"name": "animals"}})
        assert (content(again), content(again, 8), again.info(4).indexed) == before[:3]
        assert again.search(4, units(5), 5) == before[3]
        again.upsert(4, points(5, "late"))
        assert again.count(4) == 245
        again.close()

    def test_a_deleted_bank_is_gone_and_can_be_made_again(self, place: Place, store: Store) -> None:
        store.create(8, WIDTH, "int8")
        two_corpora(store)
        put_entry(store, "animals", {"name": "animals"})
        store.delete()
        store.close()
        again = place.open()
        assert again.read_manifest() is None
        assert soon(lambda: again.layers() == [])
        again.create(4, WIDTH, "int8")
        put_head(again, HEAD)
        assert again.count(4) == 0
        assert again.read_manifest() == (HEAD, {})
        again.close()

    def test_closing_twice_is_harmless(self, store: Store) -> None:
        store.count(4)
        store.close()
        store.close()


def test_the_samples_differ() -> None:
    """The filters above prove something only if each selects some contexts and not others."""
    payloads = [payload(number) for number in range(150)]
    payloads += [payload(number, "plants") for number in range(90)]
    for name, (_, chosen) in CHOICES.items():
        count = sum(map(chosen, payloads))
        assert count < len(payloads)
        assert count > 0 or name.startswith("no")
    assert {p["caption"].split()[1] for p in payloads} == set(COLOURS)
