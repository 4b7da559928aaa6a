"""The manifest: written, read back, and refused if it is damaged or of another schema."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest

import latentbank
from latentbank.bank.manifest import (
    SCHEMA,
    CorpusEntry,
    Manifest,
    now,
    read_mean,
    write_mean,
)
from latentbank.errors import BankMismatch
from tests.bank.samples import HEAD, WIDTH, entry, units

ENTRIES = {"animals": entry("animals", 20).to_dict(), "b.c": entry("b.c", 0, complete=False).to_dict()}
MEANS = units(2, seed=3) * 100
CENTRED: dict[str, Any] = HEAD | {
    "metric": "centred",
    "means": {"4": write_mean(MEANS[0]), "8": write_mean(MEANS[1])},
}


def read_back(manifest: Manifest) -> Manifest:
    """Return the manifest after head and entries went through JSON one by one, as in a store."""
    head = json.loads(json.dumps(manifest.head()))
    corpora = {name: json.loads(json.dumps(corpus.to_dict())) for name, corpus in manifest.corpora.items()}
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


def test_a_bank_from_before_there_were_metrics_is_plain_cosine() -> None:
    old = {key: value for key, value in HEAD.items() if key not in ("metric", "means")}
    manifest = Manifest.from_dict(old, ENTRIES)
    assert manifest.metric == "cosine"
    assert manifest.mean(4) is None
    assert manifest.head() == HEAD


def test_means_come_back_to_the_bit() -> None:
    manifest = read_back(Manifest.from_dict(CENTRED, {}))
    assert manifest.head() == CENTRED
    for layer, mean in zip((4, 8), MEANS, strict=True):
        found = manifest.mean(layer)
        assert found is not None
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, mean)
        np.testing.assert_array_equal(read_mean(write_mean(mean)), mean)


def test_means_that_are_not_fixed_yet() -> None:
    manifest = Manifest.from_dict(CENTRED | {"means": {}}, {})
    with pytest.raises(BankMismatch, match="its means are not fixed yet; ingest a corpus first"):
        manifest.mean(4)


def test_a_new_one_says_when_and_by_which_version() -> None:
    given = {k: v for k, v in HEAD.items() if k not in ("schema", "created", "version")}
    manifest = Manifest(**{**given, "layers": (4, 8)})
    assert manifest.schema == SCHEMA == 1
    assert manifest.version == latentbank.__version__
    assert datetime.fromisoformat(manifest.created).utcoffset() is not None
    assert datetime.fromisoformat(now()) >= datetime.fromisoformat(manifest.created)
    assert read_back(manifest) == manifest


@pytest.mark.parametrize("schema", [2, 4, 0, None, "1"])
def test_another_schema_is_refused_by_version(schema: Any) -> None:
    data = HEAD | {"schema": schema, "version": "9.8.7", "new": {"things": []}}
    with pytest.raises(BankMismatch) as caught:
        Manifest.from_dict(data, {})
    assert str(caught.value) == (
        f"The bank 'bank' has manifest schema {schema}, this latentbank reads schema 1 or 3; use the "
        "latentbank version that wrote it (9.8.7)."
    )


@pytest.mark.parametrize(
    ("data", "corpora", "expected"),
    [
        ([], {}, "it is not a JSON object"),
        ("x", {}, "it is not a JSON object"),
        ({k: v for k, v in HEAD.items() if k != "hidden_size"}, {}, "hidden_size"),
        (HEAD | {"hidden_size": "wide"}, {}, "hidden_size"),
        (HEAD | {"layers": None}, {}, "layers"),
        (HEAD | {"layers": ["four"]}, {}, "layers.0"),
        (HEAD | {"fingerprint": None}, {}, "fingerprint"),
        (HEAD | {"metric": "euclid"}, {}, "metric"),
        (CENTRED | {"means": {"4": CENTRED["means"]["4"]}}, {}, "means.8"),
        (CENTRED | {"means": CENTRED["means"] | {"8": write_mean(np.ones(WIDTH - 1))}}, {}, "means.8"),
        (CENTRED | {"means": CENTRED["means"] | {"8": write_mean(np.full(WIDTH, np.nan))}}, {}, "means.8"),
        (CENTRED | {"means": CENTRED["means"] | {"8": "no base64!"}}, {}, "means.8"),
        (CENTRED | {"means": CENTRED["means"] | {"8": "AAAA"}}, {}, "means.8"),
        (HEAD, [], "corpora"),
        (HEAD, {"animals": None}, "corpora.animals"),
        (HEAD, {"animals": {"name": "animals"}}, "corpora.animals.content_hash"),
        (HEAD, {"animals": ENTRIES["animals"] | {"contexts": "many"}}, "corpora.animals.contexts"),
    ],
)
def test_a_damaged_manifest_is_refused_with_the_place(data: Any, corpora: Any, expected: str) -> None:
    with pytest.raises(BankMismatch) as caught:
        Manifest.from_dict(data, corpora)
    message = str(caught.value)
    assert expected in message
    assert "damaged" in message
    assert message.endswith("restore it from a backup.")
    assert "\n" not in message
