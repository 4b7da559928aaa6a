"""The manifest: written, read back, refused when it is another schema's or damaged."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from bank.manifest import SCHEMA, CorpusEntry, Manifest, latentbank_version, now
from latentbank_errors import BankMismatch
from tests.bank.samples import HEAD, entry

ENTRIES = {"animals": entry("animals", 20).to_dict(), "b.c": entry("b.c", 0, complete=False).to_dict()}


def read_back(manifest: Manifest) -> Manifest:
    """As a store does it: head and entries through JSON, each by itself."""
    head = json.loads(json.dumps(manifest.head()))
    corpora = {name: json.loads(json.dumps(one.to_dict())) for name, one in manifest.corpora.items()}
    return Manifest.from_dict(head, corpora)


def test_it_comes_back_as_it_was() -> None:
    manifest = Manifest.from_dict(HEAD, ENTRIES)
    assert read_back(manifest) == manifest
    assert manifest.head() == HEAD
    assert manifest.to_dict() == HEAD | {"corpora": ENTRIES}
    assert manifest.layers == (4, 8)
    assert manifest.corpora["animals"] == entry("animals", 20, updated=ENTRIES["animals"]["updated"])
    assert isinstance(manifest.corpora["animals"], CorpusEntry)
    assert manifest.corpora["animals"].plan == {"bos": "tokenizer", "skip": 1, "contexts_per_token": 50}


def test_a_new_one_says_when_and_by_which_version() -> None:
    given = {k: v for k, v in HEAD.items() if k not in ("schema", "created", "version")}
    manifest = Manifest(**{**given, "layers": (4, 8)})
    assert manifest.schema == SCHEMA == 1
    assert manifest.version == latentbank_version()
    assert datetime.fromisoformat(manifest.created).utcoffset() is not None
    assert datetime.fromisoformat(now()) >= datetime.fromisoformat(manifest.created)
    assert read_back(manifest) == manifest


@pytest.mark.parametrize("schema", [2, 0, None, "1"])
def test_another_schema_is_refused_by_version(schema: Any) -> None:
    data = HEAD | {"schema": schema, "version": "9.8.7", "new": {"things": []}}
    with pytest.raises(BankMismatch) as caught:
        Manifest.from_dict(data, {})
    assert str(caught.value) == (
        f"The bank 'bank' has manifest schema {schema}, this latentbank reads schema 1; use the latentbank "
        "version that wrote it (9.8.7)."
    )


@pytest.mark.parametrize(
    ("data", "corpora", "said"),
    [
        ([], {}, "it is no table"),
        ("x", {}, "it is no table"),
        ({k: v for k, v in HEAD.items() if k != "hidden_size"}, {}, "hidden_size"),
        (HEAD | {"hidden_size": "wide"}, {}, "hidden_size"),
        (HEAD | {"layers": None}, {}, "layers"),
        (HEAD | {"layers": ["four"]}, {}, "layers.0"),
        (HEAD | {"fingerprint": None}, {}, "fingerprint"),
        (HEAD, [], "corpora"),
        (HEAD, {"animals": None}, "corpora.animals"),
        (HEAD, {"animals": {"name": "animals"}}, "corpora.animals.content_hash"),
        (HEAD, {"animals": ENTRIES["animals"] | {"contexts": "many"}}, "corpora.animals.contexts"),
    ],
)
def test_a_damaged_manifest_is_refused_with_the_place(data: Any, corpora: Any, said: str) -> None:
    with pytest.raises(BankMismatch) as caught:
        Manifest.from_dict(data, corpora)
    message = str(caught.value)
    assert said in message
    assert "damaged" in message
    assert message.endswith("restore it from a backup.")
    assert "\n" not in message
