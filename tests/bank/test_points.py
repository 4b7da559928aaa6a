"""Ids: equal on every machine and in every run, and different for different contexts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from latentbank.bank.points import Neighbor, Payload, as_uuid, context_id, prefix_ids
from tests.bank.samples import payload

ROOT = Path(__file__).resolve().parents[2]

corpora = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
prefixes = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12)


def by_the_book(corpus: str, token_ids: list[int]) -> str:
    """The id as the design describes it: one hash of the whole prefix at once."""
    name = corpus.encode()
    numbers = b"".join(number.to_bytes(4, "little") for number in [len(name)])
    tokens = b"".join(number.to_bytes(4, "little") for number in token_ids)
    return str(uuid.UUID(bytes=hashlib.blake2b(numbers + name + tokens, digest_size=16).digest()))


def test_ids_never_change() -> None:
    """Fixed values: a bank stored by an earlier version must accept new contexts."""
    assert context_id("concepts", [1, 2, 3]) == "415a7afc-a0b7-cfc9-fa11-1767f34992f3"
    assert context_id("concepts", [1, 2]) == "6f2ba8e7-ebff-f258-5bd3-99a637a6d27b"
    assert context_id("é", [0]) == "bbcd8897-781d-ab53-c7ae-b8b0f907754b"
    assert [item.hex() for item in prefix_ids("a", [7, 8])] == [
        "a66999e32eb88edbc7d44700d8a3a9ce",
        "63e3bd61145b09770fea3a07a79696d7",
    ]


def test_ids_are_the_same_in_another_process() -> None:
    code = "from latentbank.bank.points import context_id; print(context_id('concepts', [1, 2, 3]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == context_id("concepts", [1, 2, 3])


@settings(deadline=None)
@given(corpora, prefixes)
def test_each_prefix_has_the_id_of_its_own_tokens(corpus: str, token_ids: list[int]) -> None:
    found = [as_uuid(digest) for digest in prefix_ids(corpus, token_ids)]
    assert found == [by_the_book(corpus, token_ids[: n + 1]) for n in range(len(token_ids))]
    assert found[-1] == context_id(corpus, token_ids)
    assert len(set(found)) == len(found)
    assert all(str(uuid.UUID(item)) == item for item in found)


@settings(deadline=None)
@given(st.tuples(corpora, prefixes), st.tuples(corpora, prefixes))
def test_other_contexts_have_other_ids(first: tuple[str, list[int]], other: tuple[str, list[int]]) -> None:
    assert (context_id(*first) == context_id(*other)) is (first == other)


def test_a_corpus_name_cannot_be_taken_for_tokens() -> None:
    """Name and tokens are bytes in one hash: the name's length keeps them apart."""
    assert context_id("ab", [1]) != context_id("a", [int.from_bytes(b"b\x01\0\0", "little")])
    assert context_id("aaaa", [5]) != context_id("aaaaaaaa", [5])
    assert context_id("a", [1, 2]) != context_id("a", [2, 1])


def test_a_neighbor_is_its_payload() -> None:
    stored: Payload = payload(3)
    neighbor = Neighbor.from_payload("an id", 8, 0.5, stored)
    assert neighbor.to_dict() == {
        **stored,
        "id": "an id",
        "bank_layer": 8,
        "cosine": 0.5,
        "probability": None,
        "corrected": None,
    }
    assert neighbor.score == 0.5
    assert neighbor.marked() == "A red [fire] beside the Fire Truck of house 3."
    assert neighbor.marked("<b>", "</b>").count("<b>fire</b>") == 1
    assert Neighbor("dog", " dog", 0.9).marked() == ""
