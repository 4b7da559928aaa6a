"""Filters by caption: the same answers in every script, embedded and on a server, with every index there has been."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import qdrant_edge as edge
from qdrant_client import models

from latentbank.bank.store.base import Points, Store
from latentbank.bank.store.captions import contains
from latentbank.bank.store.embedded import optimizing
from latentbank.bank.store.names import collection_name
from latentbank.bank.where import Filter, Where
from latentbank.errors import BankUnavailable
from tests.bank.samples import HEAD, WIDTH, Place, ids, is_one_sentence, payload, put_head, units
from tests.bank.servers import KEY, Doubles
from tests.bank.servers import settings as settings_of


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


CAPTIONS = [
    "The Fire Truck of house 7",
    "The fire engine of house 78, beside 7 red dogs",
    "red 3 dogs, house 8",
    "un Café au lait",
    nfd("un café au lait"),
    "日本語の文章です",
    nfd("ガラスのコップです"),
    "電車で東京に行く",
    "东京的电车很快",
    "ภาษาไทย",
    "แมวนั่งบนโซฟา",
    "Ёлка стоит, й",
    nfd("한국어 문장"),
    "Straße nach Łódź, 1. Gasse",
    "第3章の文章",
    "My iPhone 15, don't stop",
    "ﾃﾞｼﾞﾀﾙｶﾒﾗの写真",
    "デジタルカメラ",
    nfd("カフェ café でパンを食べる"),
    "A photo of 東京タワー at night",
    "A photo of ラーメン in a bowl",
    "Zürichで電車に乗る",
]
# What is found by phrase.
PHRASES: dict[str, list[int]] = {
    "fire": [0, 1],
    "FIRE truck": [0],
    "ire truck": [],
    "truck fire": [],
    "house 7": [0],
    "house 78": [1],
    "house, 8": [2],
    "house": [0, 1, 2],
    "7": [0, 1],
    "78": [1],
    "99": [],
    "7 red dogs": [1],
    "red dogs": [1],
    "red 3": [2],
    "3 dogs house": [2],
    "cafe": [3, 4, 18],
    "Café au": [3, 4],
    nfd("CAFÉ au lait"): [3, 4],
    "caf": [],
    "日本語": [5],
    "日本": [5],
    "文章": [5, 14],
    "日本語の文章": [5],
    "ガラス": [6],
    nfd("ガラス"): [6],
    "コップ": [6],
    "ﾃﾞｼﾞﾀﾙｶﾒﾗ": [16, 17],
    "デジタルカメラ": [16, 17],
    nfd("デジタルカメラ"): [16, 17],
    "ｶﾌｪ": [18],
    "カフェ": [18],
    "カフェ café": [18],
    nfd("カフェ cafe"): [18],
    "パン": [18],
    "東京タワー": [19],
    "photo of 東京タワー": [19],
    "ラーメン": [20],
    "ﾗｰﾒﾝ": [20],
    "bowl": [20],
    "zurich": [21],
    # Not found, because the caption mixes scripts: the tokenizer cuts all of it as its most frequent one.
    "写真": [],
    "タワー": [],
    "乗る": [],
    "東京": [7, 8],  # the tokenizer takes some traditional and simplified characters for the same
    "電車": [7],
    "東京に行く": [7],
    "电车": [8],
    "京": [],
    "ภาษาไทย": [9],
    "ไทย": [],
    "โซฟา": [10],
    "ёлка": [11],
    nfd("й"): [11],
    "и": [],
    "한국어": [12],
    nfd("한국어"): [12],
    "strasse": [13],
    "lodz 1": [13],
    "ŁÓDŹ": [13],
    "lodz gasse": [],
    "第3章": [14],
    "第4章": [],
    "iphone 15": [15],
    "iphone": [15],
    "don't": [15],
    "iphone dont": [],
}


def given() -> Points:
    """Three contexts of each caption."""
    numbers = range(3 * len(CAPTIONS))
    payloads: list[Any] = [{**payload(n), "caption": CAPTIONS[n // 3]} for n in numbers]
    return Points(ids(numbers), units(len(numbers)), payloads)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """A layer with these captions."""
    made = place.open()
    made.create(4, WIDTH, "int8")
    put_head(made, HEAD)
    made.upsert(4, given())
    made.commit()
    yield made
    made.close()


def found(store: Store, where: Filter) -> list[int]:
    """The captions that a filter selects, after checking that every way to use it agrees."""
    at = {item: number for number, item in enumerate(given().ids)}
    numbers = sorted(at[item.id] for item in store.scroll(4, where))
    assert store.count(4, where) == len(numbers)
    assert sum(store.facet(4, "word", where).values()) == len(numbers)
    for exact in (True, False):
        hits = store.search(4, units(2, seed=5), len(at), [where, None], exact=exact)
        assert [sorted(at[hit.id] for hit in row) for row in hits] == [numbers, list(range(len(at)))]
    captions = sorted({number // 3 for number in numbers})
    assert numbers == [3 * caption + each for caption in captions for each in range(3)]
    return captions


# One for each kind of writing, for tests that ask when phrases are found and not which.
FEW = ("fire", "FIRE truck", "日本語", "デジタルカメラ", "東京タワー", "house 7")


def check_few(store: Store) -> None:
    for phrase in FEW:
        assert found(store, Where(caption_contains=phrase)) == PHRASES[phrase]


def check(store: Store) -> None:
    assert {phrase: found(store, Where(caption_contains=phrase)) for phrase in PHRASES} == PHRASES
    everything = set(range(len(CAPTIONS)))
    for phrase in ("house 7", "7", "東京", "red dogs"):
        assert set(found(store, ~Where(caption_contains=phrase))) == everything - set(PHRASES[phrase])
    assert found(store, Where(caption_contains="house 7") | Where(caption_contains="ไทย")) == [0]
    assert found(store, Where(caption_contains="7") & ~Where(caption_contains="fire truck")) == [1]


def test_the_same_answers_before_and_after_indexing(store: Store) -> None:
    check(store)
    store.index(4)
    check(store)


def test_the_same_answers_while_it_is_indexed(
    store: Store, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reader asks in the middle of `index`: on a server before the request that ends it, and after."""
    asked: list[str] = []

    def in_the_middle(of: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            done = of(*given, **named)
            if len(asked) < 2:
                asked.append(of.__name__)
                check_few(reader)
            return done

        return call

    server = hasattr(store, "_server")
    reader = place.open() if server else store
    if server:
        for name in ("update_collection", "get_collection"):
            rest = store._server.rest  # type: ignore[attr-defined]
            monkeypatch.setattr(rest, name, in_the_middle(getattr(rest, name)))
    else:
        found(store, Where(caption_contains="fire"))  # the first such filter writes, and waits for `index`
        module = "latentbank.bank.store.embedded.indexing"
        monkeypatch.setattr(f"{module}.optimize", in_the_middle(optimizing.optimize))
    store.index(4)
    assert asked
    check_few(store)
    if server:
        reader.close()


def old_index(store: Any) -> None:
    """Give captions the index that earlier versions gave them."""
    if hasattr(store, "_server"):
        index = models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.WORD,
            lowercase=True,
            phrase_matching=True,
            on_disk=True,
        )
        store._server.rest.create_payload_index(collection_name("bank", 4), "caption", field_schema=index)
    else:
        word = edge.TextIndexParams(tokenizer=edge.TokenizerType.Word, lowercase=True, phrase_matching=True)
        with store._layers.use(4) as shard:
            shard.update(edge.UpdateOperation.create_field_index("caption", word))
            shard.flush()


def test_a_bank_with_the_index_of_earlier_versions(place: Place, store: Store) -> None:
    store.index(4)
    old_index(store)
    store.close()
    again = place.open()
    check(again)
    again.close()
    later = place.open()
    check_few(later)
    later.close()


@pytest.mark.parametrize("place", ["grpc", "rest"], indirect=True)
def test_an_index_that_adds_links_is_kept(store: Any) -> None:
    """A server would delete it before it makes another, and find no captions meanwhile."""
    rest, name = store._server.rest, collection_name("bank", 4)
    as_now = rest.get_collection(name).payload_schema["caption"].params
    links = as_now.model_copy(update={"enable_hnsw": None})
    rest.create_payload_index(name, "caption", field_schema=links)
    store.index(4)
    check_few(store)
    assert rest.get_collection(name).payload_schema["caption"].params == links


def test_contexts_that_are_added_and_deleted_count_at_once(store: Store) -> None:
    where = Where(caption_contains="house 7")
    assert store.count(4, where) == 3
    more = Points(ids([900]), units(1), [{**payload(900, "late"), "caption": "a house 7"}])
    store.upsert(4, more)
    assert store.count(4, where) == 4
    store.delete_corpus(4, "late")
    assert store.count(4, where) == 3


def test_filters_with_many_ids_are_sent_in_parts(
    store: Store, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.bank.store.server.store._MOST_IDS", 8)
    where = Where(caption_contains="house 7")
    hits = store.search(4, units(7, seed=5), 10, where, exact=True)
    assert [{hit.id for hit in row} for row in hits] == [set(given().ids[:3])] * 7
    assert store.search(4, units(0), 10, where) == []


def test_a_key_that_only_reads(double: Doubles) -> None:
    server = double(api_key=KEY, read_only_key="reader")
    writer, reader, later = (
        Place("grpc", settings_of(server, api_key=key)).open() for key in (KEY, "reader", "reader")
    )
    writer.create(4, WIDTH, "int8")
    writer.upsert(4, given())
    assert found(reader, Where(caption_contains="house 7")) == [0]
    old_index(writer)
    where = Where(caption_contains="日本語")
    with pytest.raises(
        BankUnavailable, match="indexed by an earlier version, or not yet, and this key only"
    ) as told:
        later.count(4, where)
    assert is_one_sentence(told.value)
    assert writer.count(4, where) == 3
    assert later.count(4, where) == 3
    for store in (writer, reader, later):
        store.close()


@pytest.mark.parametrize(
    ("caption", "phrase", "expected"),
    [
        ("house 7", "house 7", True),
        ("house 78", "house 7", False),
        ("house a7", "7", False),
        ("3.14 m", "3 14", True),
        ("Ærø 2 æg", "aero 2 AEG", True),
        (nfd("naïve 2"), "naive 2", True),
        ("x² here", "x2", True),
        ("第3章", "3", True),
        ("第13章", "3", False),
        ("๗ วัน", "๗", True),
        ("ガラス・コップ3個", "ガラスコップ3", True),
    ],
)
def test_numbers_are_words(caption: str, phrase: str, expected: bool) -> None:
    assert contains(caption, phrase) is expected
