"""Centring: means of hidden states are measured, stored, and subtracted from queries of a centred bank."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentbank.bank.bank import Bank
from latentbank.bank.rotation import unit
from latentbank.errors import BankMismatch, LatentBankError, LayerNotFound, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.centring import Means, load_means, means_of, save_means
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.text import read_hidden, read_text
from tests.query.banks import ONE_CORPUS, SENTENCES, fill

ROWS = np.random.default_rng(1).normal(size=(6, 32)).astype(np.float32) + 5


@pytest.fixture
def centred(tiny: LanguageModel, tmp_path: Path) -> Iterator[Bank]:
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        yield bank


def test_the_mean_of_pieces_is_that_of_all() -> None:
    pieces = [
        {3: ROWS[:4], 5: torch.tensor(ROWS[:4] * 2, dtype=torch.bfloat16)},
        {3: ROWS[4:], 5: ROWS[4:] * 2},
    ]
    means = means_of(pieces, "visual tokens of 2 images", "f00d")
    assert means.count == 6
    np.testing.assert_allclose(means.at(3), ROWS.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(means.at(5), 2 * ROWS.mean(axis=0), rtol=1e-2)
    np.testing.assert_allclose(means.at(3, units=True), unit(ROWS).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(means.at(5, units=True), unit(ROWS).mean(axis=0), atol=1e-2)
    np.testing.assert_allclose(means.centre(3, ROWS).mean(axis=0), 0, atol=1e-5)
    with pytest.raises(LayerNotFound, match=r"visual tokens of 2 images have no layer 4; they have 3, 5\."):
        means.at(4)


@pytest.mark.parametrize("pieces", [[], [{}], [{1: np.ones((0, 4))}]])
def test_no_tokens_have_no_mean(pieces: Any) -> None:
    with pytest.raises(QueryError, match="There are no visual tokens to take the mean of"):
        means_of(pieces, "visual tokens", "")


def test_a_mean_that_overflows_is_refused() -> None:
    with pytest.raises(QueryError, match="at layer 2 are not finite"):
        means_of([{1: ROWS, 2: ROWS * np.inf}], "visual tokens", "")


def test_means_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "means.safetensors"
    means = means_of([{3: ROWS, 12: ROWS[:, ::-1]}], "visual tokens of 2 images", "f00d")
    save_means(str(path), means)
    for found in (load_means(str(path)), load_means(path, "f00d")):
        assert (found.kind, found.fingerprint, found.count) == (means.kind, "f00d", 6)
        assert found.by_layer.keys() == {3, 12}
        for layer, mean in means.by_layer.items():
            np.testing.assert_array_equal(found.at(layer), mean)
            np.testing.assert_array_equal(found.at(layer, units=True), means.units_by_layer[layer])
    save_means(path, replace(means, units_by_layer={}))
    with pytest.raises(QueryError, match=r"are of an earlier version, .* measure them again"):
        load_means(path).at(3, units=True)
    with pytest.raises(BankMismatch, match=r"another LLM \(fingerprint f00d, not fingerprint beef\)"):
        load_means(path, "beef")


def test_files_that_hold_no_means(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    other, text = tmp_path / "other.safetensors", tmp_path / "text"
    save_file({"weight": ROWS}, other)
    text.write_text(json.dumps({}))
    for path in (other, text, tmp_path):
        with pytest.raises(LatentBankError, match="holds no means"):
            load_means(path)
    with pytest.raises(LatentBankError, match="cannot be written"):
        save_means(tmp_path, means_of([{1: ROWS}], "x", ""))


def test_a_missing_file_of_means_is_told_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(LatentBankError, match="There is no file of means at"):
        load_means(tmp_path / "no.safetensors")


def test_text_takes_the_banks_mean_of_its_layer(centred: Bank, tiny: LanguageModel) -> None:
    """A stored sentence finds itself, as in a plain bank, and the reading names the mean."""
    for layer in (1, 2):
        reading = read_text(centred, tiny, SENTENCES[0], layers=layer, bank_layers=layer, top_k=1, exact=True)
        assert (reading.metric, reading.query_mean) == ("centred", "the bank's mean of text")
        assert {
            "metric": "centred",
            "query_mean": "the bank's mean of text",
        }.items() <= reading.to_dict().items()
        assert "centred by the bank's mean of text" in repr(reading)
        for token in reading.tokens[1:]:
            assert token.neighbors[0].cosine > 0.999
            assert token.neighbors[0].caption == SENTENCES[0]
    with pytest.raises(LayerNotFound, match=r"mean of text at layer 3; it knows that of 1, 2\."):
        read_text(centred, tiny, SENTENCES[0], layers=3)


def test_a_plain_bank_says_so(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, "A dog.")
    assert (reading.metric, reading.query_mean) == ("cosine", "")
    assert "cosine by" not in repr(reading)
    for given in ("text", "batch", ROWS[0], Means("x", "", 1, {-1: ROWS[0]})):
        with pytest.raises(QueryError, match="leave query_mean out"):
            read_hidden(bank, ROWS, query_mean=given)


def test_hidden_states_for_a_centred_bank_need_a_mean(centred: Bank) -> None:
    with pytest.raises(QueryError, match="its queries need a mean: pass query_mean"):
        read_hidden(centred, ROWS)
    own = unit(ROWS).mean(axis=0)
    measured = means_of([{-1: ROWS, 3: ROWS + 1}], "soft prompts", "")
    expected = centred.search(ROWS, "all", 3, exact=True, query_mean=own)
    for given, described in (
        ("batch", "their own mean"),
        (own, "a mean that was given"),
        (own.tolist(), "a mean that was given"),
        (torch.from_numpy(own), "a mean that was given"),
        (measured, "mean of soft prompts"),
    ):
        reading = read_hidden(centred, ROWS, bank_layers="all", top_k=3, exact=True, query_mean=given)
        assert reading.query_mean == described
        for token, neighbors in zip(reading.tokens, expected, strict=True):
            assert [n.id for n in token.neighbors] == [n.id for n in neighbors]
    shifted = read_hidden(centred, {3: ROWS + 1}, bank_layers="all", top_k=3, exact=True, query_mean=measured)
    assert [[n.id for n in token.neighbors] for token in shifted.tokens] == [
        [n.id for n in row] for row in expected
    ]


def test_text_from_elsewhere_takes_the_mean_of_its_layer(centred: Bank, tiny: LanguageModel) -> None:
    states = {layer: rows[1:] for layer, rows in tiny.text_hidden_states(SENTENCES[1], [1, 2])[1].items()}
    found = read_hidden(centred, states, bank_layers="all", top_k=1, exact=True, query_mean="text")
    for layer in (1, 2):
        assert all(token.neighbors[0].bank_layer == layer for token in found.at(layer))
        assert all(token.neighbors[0].cosine > 0.999 for token in found.at(layer))
    with pytest.raises(LayerNotFound, match="at a layer that is not known; it knows that of 1, 2"):
        read_hidden(centred, states[1], query_mean="text")


@pytest.mark.parametrize(
    ("rows", "mean", "says"),
    [
        (ROWS[:1], "batch", "One hidden state alone has no mean of its own"),
        (ROWS, "visual", "query_mean is 'visual'; it can be 'text', 'batch'"),
        (np.tile(ROWS[0], (3, 1)), "batch", "Row 0 of the queries equals its mean"),
    ],
)
def test_means_that_are_refused(centred: Bank, rows: Any, mean: Any, says: str) -> None:
    with pytest.raises(QueryError, match=says):
        read_hidden(centred, rows, query_mean=mean)


def test_queries_bring_their_mean(centred: Bank) -> None:
    lens = LatentLens(centred, "all", exact=True)
    expected = centred.search(ROWS, "all", 2, exact=True, query_mean=ROWS.mean(axis=0))
    assert lens.read(Queries(ROWS, 1, "other", ROWS.mean(axis=0)), 2) == expected
    with pytest.raises(QueryError, match="its queries need a mean"):
        lens.read(Queries(ROWS, 1, "other"), 2)
