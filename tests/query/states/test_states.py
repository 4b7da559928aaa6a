"""Hidden states that others have saved: every kind of file gives the same reading, and wrong files a sentence."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from latentbank.bank.bank import Bank
from latentbank.errors import BankMismatch, LatentBankError, LayerNotFound, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.alone import LanguageAlone
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.reading.states import read_states
from latentbank.query.reading.text import read_hidden
from latentbank.query.states.files import load_states
from latentbank.query.states.states import layer_of
from latentbank.query.states.tables import module_layer
from tests.query.banks import ONE_CORPUS, fill

States = Mapping[int, torch.Tensor]
LABELS = ["one", "two", "three"]
SCHEMA = (  # that of VLM-Lens, 2025-10-23
    "CREATE TABLE tensors (id INTEGER PRIMARY KEY, name TEXT NOT NULL, architecture TEXT NOT NULL, "
    "timestamp DATETIME DEFAULT CURRENT_TIMESTAMP, image_path TEXT NULL, image_id INTEGER NULL, "
    "prompt TEXT NOT NULL, label TEXT NULL, layer TEXT NOT NULL, pooling_method TEXT NULL, "
    "tensor_dim INTEGER NOT NULL, tensor BLOB NOT NULL)"
)


@pytest.fixture(scope="module")
def states(tiny: LanguageModel) -> States:
    _, found = tiny.text_hidden_states("A red dog sleeps.", [1, 2])
    return {layer: rows[-3:].clone() for layer, rows in found.items()}


def vlm_lens(path: Path, rows: list[tuple[str, str | None, str, object]], name: str = "org/vlm") -> Path:
    """Write a database as VLM-Lens does, of image path, label, module and tensor."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(SCHEMA)
        for image, label, module, tensor in rows:
            blob = io.BytesIO()
            torch.save(tensor, blob)
            database.execute(
                "INSERT INTO tensors (name, architecture, image_path, prompt, label, layer, tensor_dim, tensor) "
                "VALUES (?, 'llava', ?, 'What is it?', ?, ?, 32, ?)",
                (name, image, label, module, blob.getvalue()),
            )
        database.commit()
    return path


def safetensors(path: Path, states: States) -> Path:
    save_file({f"layer_{n}": rows for n, rows in states.items()}, path, {"labels": json.dumps(LABELS)})
    return path


def parquet(path: Path, states: States) -> Path:
    rows = [(n, label, row.tolist()) for n, x in states.items() for label, row in zip(LABELS, x, strict=True)]
    layers, labels, vectors = zip(*rows, strict=True)
    kept = pa.array(vectors, pa.list_(pa.float32()))
    pq.write_table(pa.table({"layer": layers, "label": labels, "state": kept}), path)
    return path


def database(path: Path, states: States) -> Path:
    """Blocks are counted from 0 there; the second input of each has one token."""
    rows = [
        row
        for n, x in states.items()
        for row in (
            ("/home/somebody/cat.png", None, f"model.layers.{n - 1}", x[None, :2]),
            ("/home/somebody/dog.png", "three", f"model.layers.{n - 1}", x[2:]),
        )
    ]
    return vlm_lens(path, rows)


@pytest.mark.parametrize(
    ("name", "write", "labels"),
    [
        ("s.safetensors", safetensors, LABELS),
        ("s.parquet", parquet, LABELS),
        ("s.db", database, ["cat.png 0", "cat.png 1", "three"]),
    ],
)
def test_every_kind_of_file_gives_the_same_reading(
    bank: Bank, states: States, tmp_path: Path, name: str, write: Callable[[Path, States], Path], labels: Any
) -> None:
    expected = read_hidden(bank, dict(states), bank_layers="all", top_k=2, labels=labels)
    reading = read_states(write(tmp_path / name, states), [LatentLens(bank, "all")], top_k=2)
    assert reading.layers == (1, 2)
    assert reading.source == name
    assert {token.kind for token in reading.tokens} == {"other"}
    for own, other in zip(reading.tokens, expected.tokens, strict=True):
        assert (own.label, own.layer) == (other.label, other.layer)
        assert [n.id for n in own.neighbors] == [n.id for n in other.neighbors]
    one = load_states(tmp_path / name, 2)
    np.testing.assert_allclose(one.by_layer[2], states[2].numpy(), rtol=1e-6)


def test_npy_is_read_at_the_layer_that_is_named(bank: Bank, states: States, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", states[2].numpy()[None])  # a batch of one
    reading = read_states(tmp_path / "s.npy", [LatentLens(bank, 2)], 2, labels=LABELS, top_k=1)
    assert [token.label for token in reading.at(2)] == LABELS
    assert load_states(tmp_path / "s.npy").by_layer.keys() == {-1}


@pytest.mark.parametrize("layer", [99, -2])
def test_layers_that_the_llm_lacks_are_refused(
    bank: Bank, states: States, tmp_path: Path, layer: int
) -> None:
    last = bank.manifest.num_layers
    with pytest.raises(LayerNotFound, match=f"has no layer {layer}: it has layers 0 to {last}"):
        read_hidden(bank, {layer: states[2]})
    np.save(tmp_path / "s.npy", states[2].numpy())
    with pytest.raises(LayerNotFound, match=f"has no layer {layer}: it has layers 0 to {last}"):
        read_states(tmp_path / "s.npy", [LatentLens(bank, 2)], layer)


def test_all_lenses_read_them_through_the_llm_alone(
    bank: Bank, tiny: LanguageModel, states: States, tmp_path: Path
) -> None:
    alone: Any = LanguageAlone(lambda: tiny)
    lenses = lenses_of(["latent", "logit", "embedding"], LensOptions(alone, bank, "all"))
    reading = read_states(safetensors(tmp_path / "s.safetensors", states), lenses, 1)
    assert reading.lenses == ("latent", "logit", "embedding")
    nearest = int(torch.cosine_similarity(tiny.embedding, states[1][:1]).argmax())
    assert reading.at(1, "embedding")[0].neighbors[0].token_id == nearest


def test_a_centred_bank_needs_a_mean(tiny: LanguageModel, states: States, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "s.safetensors", states)
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        with pytest.raises(QueryError, match="query_mean"):
            read_states(path, [LatentLens(bank)])
        reading = read_states(path, [LatentLens(bank)], query_mean="text")
    assert reading.query_mean == "the bank's mean of text"


def test_a_fingerprint_in_the_file_is_checked(
    bank: Bank, tiny: LanguageModel, states: States, tmp_path: Path
) -> None:
    lenses = [LatentLens(bank)]
    for fingerprint in (tiny.fingerprint(), "0" * 32):
        about = {"model": "/home/somebody/other-llm", "fingerprint": fingerprint}
        save_file({"L01": states[1]}, tmp_path / "s.safetensors", about)
        if fingerprint == tiny.fingerprint():
            assert read_states(tmp_path / "s.safetensors", lenses).model == "other-llm"
        else:
            with pytest.raises(BankMismatch, match=r"s\.safetensors: The bank 'small' .* not of other-llm"):
                read_states(tmp_path / "s.safetensors", lenses)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("8", 8), ("layer_8", 8), ("L08", 8), ("hidden_states.8", 8), ("Layer-12", 12), ("model.layers.8", None),
     ("layers.8", None), ("head", None), ("x8", None)],
)  # fmt: skip
def test_names_of_tensors_that_are_layers(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    ("module", "layer"),
    [("model.layers.7", 8), ("language_model.model.layers.0", 1), ("transformer.h.3", 4),
     ("model.transformer.blocks.3", 4), ("visual.blocks.31", None), ("vision_tower.encoder.layers.3", None),
     ("lm_head", None), ("model.layers.7.mlp", None)],
)  # fmt: skip
def test_outputs_of_blocks_are_layers(module: str, layer: int | None) -> None:
    assert module_layer(module) == layer


def _wrong_files(folder: Path, states: States) -> list[tuple[Path, dict[str, Any], str]]:
    x = states[1]
    with_nan = x.clone()
    with_nan[1, 3] = float("nan")
    zero = x.clone()
    zero[2] = 0
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "cube.npy", np.zeros((2, 3, 4)))
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "wide.npy", np.ones((2, 7)))
    save_file({"a": x, "b": x.clone()}, folder / "two.safetensors")
    save_file({"layer_1": x, "layer_2": x[:2].clone()}, folder / "uneven.safetensors")
    save_file({"layer_1": with_nan}, folder / "nan.safetensors", {"labels": json.dumps(LABELS)})
    save_file({"layer_1": zero}, folder / "zero.safetensors")
    save_file({"layer_1": x}, folder / "labels.safetensors", {"labels": "one, two"})
    (folder / "broken.safetensors").write_bytes(b"no tensors")
    (folder / "broken.parquet").write_bytes(b"no table")
    (folder / "broken.db").write_bytes(b"no database" * 100)
    pq.write_table(pa.table({"text": ["a"]}), folder / "words.parquet")
    pq.write_table(pa.table({"state": [[1.0, 2.0], [1.0]]}), folder / "ragged.parquet")
    with closing(sqlite3.connect(folder / "other.db")) as database:
        database.execute("CREATE TABLE images (id INTEGER)")
    vlm_lens(folder / "unsafe.db", [("a.png", None, "model.layers.0", Path("/"))])
    vlm_lens(
        folder / "vision.db", [("a.png", None, "visual.blocks.1", x), ("a.png", None, "visual.blocks.2", x)]
    )
    return [
        (folder / name, given, message)
        for name, given, message in (
            ("objects.npy", {}, "is not unpickled, which could run code"),
            ("cube.npy", {}, r"has shape \[2, 3, 4\]; it must be \[tokens, hidden\]"),
            ("text.npy", {}, "is no array of numbers"),
            ("wide.npy", {}, r"are 7 wide, those of the bank 'small' 32"),
            ("two.safetensors", {}, "holds several tensors: a, b; choose one"),
            ("two.safetensors", {"tensor": "c"}, "holds no 'c'; it holds a, b"),
            ("uneven.safetensors", {}, "different numbers of tokens"),
            ("uneven.safetensors", {"layers": 3}, "has no layer 3; it has 1, 2"),
            ("nan.safetensors", {}, r"Row 1 \(two\) of nan.safetensors at layer 1 holds a value that is not"),
            ("nan.safetensors", {"layers": [1, 2]}, "has no layer 2; it has 1"),
            ("zero.safetensors", {}, "Row 2 of zero.safetensors at layer 1 is all zeros"),
            ("labels.safetensors", {}, "no JSON list of texts"),
            ("zero.safetensors", {"labels": ["a"]}, "There are 1 labels for the 3 tokens"),
            ("broken.safetensors", {}, "cannot be read as safetensors"),
            ("broken.parquet", {}, "cannot be read as Parquet"),
            ("broken.db", {}, "cannot be read as SQLite"),
            ("words.parquet", {}, "no column of lists of numbers, only text"),
            ("ragged.parquet", {}, "Row 1 of the column state of ragged.parquet has 1 numbers, the first 2"),
            ("other.db", {}, "is no database of VLM-Lens: it has no table tensors"),
            ("unsafe.db", {}, "holds no plain tensor that can be read safely"),
            ("vision.db", {}, "holds several tensors: visual.blocks.1, visual.blocks.2; choose one"),
            ("nothing.npy", {}, "There is no file"),
            ("notes.txt", {}, "is of no kind that is read"),
        )
    ]


def test_wrong_files_are_refused_with_a_sentence(bank: Bank, states: States, tmp_path: Path) -> None:
    for path, given, message in _wrong_files(tmp_path, states):
        with pytest.raises(LatentBankError, match=message) as caught:
            read_states(path, [LatentLens(bank)], given.pop("layers", None), **given)
        assert str(caught.value).endswith("."), path
        assert "\n" not in str(caught.value), path


def test_a_database_of_several_models_is_refused(states: States, tmp_path: Path) -> None:
    path = database(tmp_path / "s.db", states)
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("UPDATE tensors SET name = '/home/somebody/mine' WHERE id = 1")
        opened.commit()
    with pytest.raises(QueryError, match="states of several models: mine, org/vlm"):
        load_states(path)


def test_a_vision_encoder_s_states_are_read_where_they_are_asked_for(states: States, tmp_path: Path) -> None:
    path = vlm_lens(tmp_path / "s.db", [("a.png", None, "visual.blocks.1", states[1][None])])
    found = load_states(path, 5, tensor="visual.blocks.1")
    assert (list(found.by_layer), found.model) == ([5], "org/vlm")
