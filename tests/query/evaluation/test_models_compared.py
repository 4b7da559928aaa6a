"""Two models compared by the contexts that their banks have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from latentbank.bank.bank import Bank
from latentbank.bank.rotation import rotate
from latentbank.bank.vectors import stored_vectors
from latentbank.errors import BankMismatch, ModelError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.progress import Silent
from latentbank.query.evaluation.experiments import similarity
from latentbank.query.evaluation.experiments.common_contexts import common_contexts
from latentbank.query.evaluation.experiments.models import compare_models
from latentbank.query.evaluation.experiments.random_states import context_states
from tests.query.banks import SENTENCES, TWO, fill
from tests.tiny import save_tiny


@pytest.fixture(autouse=True)
def few_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let banks of few sentences be compared, by few resamples."""
    monkeypatch.setattr("latentbank.query.evaluation.experiments.common_contexts.FEWEST", 20)


@pytest.fixture
def filled(tiny_dir: Path, tmp_path: Path) -> Iterator[Bank]:
    """A bank of the sentences filled by another model of the same tokenizer, half as wide."""
    other = load_language_model(
        str(
            save_tiny(tmp_path / "other", seed=1, hidden_size=16, intermediate_size=24, num_attention_heads=2)
        )
    )
    with fill("other", tmp_path, other, TWO, [1, 3]) as bank:
        yield bank


def _brute(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased HSIC as Song et al. write it, with kernels."""
    count, ones = len(x), np.ones(len(x))
    k, m = x.astype(float) @ x.T.astype(float), y.astype(float) @ y.T.astype(float)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    sums = (ones @ k @ ones) * (ones @ m @ ones) / ((count - 1) * (count - 2))
    return float((np.trace(k @ m) + sums - 2 / (count - 2) * (ones @ k @ m @ ones)) / (count * (count - 3)))


def test_cka_is_as_it_is_defined() -> None:
    chance = np.random.default_rng(0)
    x = chance.normal(1, 1, (120, 12)).astype(np.float32)
    y = (x @ chance.normal(size=(12, 20)) + chance.normal(0, 3, (120, 20))).astype(np.float32)
    words = np.arange(120) // 3
    first, second = (similarity.Features.of(rows, words) for rows in (x, y))
    found = similarity.cka(first, second)
    assert found.value == pytest.approx(_brute(x, y) / np.sqrt(_brute(x, x) * _brute(y, y)), rel=1e-5)
    without = []
    for group in range(similarity.GROUPS):
        kept = words % similarity.GROUPS != group
        a, b = x[kept], y[kept]
        without.append(_brute(a, b) / np.sqrt(_brute(a, a) * _brute(b, b)))
    error = np.sqrt((len(without) - 1) * np.var(without))
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error), rel=1e-4
    )
    assert similarity.cka(first, similarity.Features.of(x.copy(), words)).value == 1
    unrelated = similarity.cka(
        first, similarity.Features.of(chance.normal(size=(120, 500)).astype(np.float32), words)
    )
    assert unrelated.low < 0.02 < 0.1  # however many dimensions there are


def test_neighbors_are_of_other_words_and_ties_have_an_order() -> None:
    chance = np.random.default_rng(1)
    vectors = chance.normal(size=(40, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[30:] = vectors[20:30]  # each of ten contexts has a double
    words = np.arange(40) // 4
    found = similarity.nearest(vectors, words, 3)
    for row, own in enumerate(found):
        others = np.flatnonzero(words != words[row])
        near = sorted(others, key=lambda other: (-round(float(vectors[row] @ vectors[other]), 5), other))[:3]
        assert sorted(near) == own.tolist()
    other = similarity.nearest(chance.normal(size=(40, 7)).astype(np.float32), words, 3)
    expected = [len(set(a) & set(b)) / 3 for a, b in zip(found, other, strict=True)]
    assert similarity.shared(found, other).tolist() == expected


def test_a_model_beside_itself_differs_in_nothing(bank: Bank) -> None:
    found = compare_models(bank, bank, words=25)
    assert found.difference == 0
    assert found.changed == ()
    assert found.contexts == found.sampled
    for pair in found.pairs:
        assert (pair.layer == pair.other) == (pair.cka.value == 1)
    assert all(found.at(layer, layer).neighbors.low == 1 for layer in bank.layers)


def test_models_of_other_sizes_beside_random_weights(bank: Bank, filled: Bank, tiny: LanguageModel) -> None:
    found = compare_models(bank, filled, [1, 3], model=tiny, words=25, k=5)
    assert [(pair.layer, pair.other) for pair in found.pairs] == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert found.depths == ((1, 1), (3, 3))
    assert [pair.layer for pair in found.random] == [1, 3]
    assert 0 < found.difference < 1
    for pair in (*found.pairs, *found.random):
        assert pair.neighbors.low <= pair.neighbors.value <= pair.neighbors.high
        assert pair.cka.value < 0.9
    data = found.to_dict()
    assert data["changed"][0]["example"]["caption"] in SENTENCES
    # The same weights each time, and what is drawn here draws nothing elsewhere.
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = compare_models(bank, filled, [1, 3], model=tiny, words=25, k=5)
    assert torch.rand(1) == expected
    assert again == found


def test_a_word_that_means_something_else(tiny: LanguageModel, tiny_dir: Path, tmp_path: Path) -> None:
    things = [
        "dog",
        "cat",
        "train",
        "river",
        "window",
        "bread",
        "water",
        "bridge",
        "sand",
        "village",
        "morning",
    ]
    texts = {
        "c": [
            f"{start} {thing} is there." for start in ("A", "The", "One small", "My old") for thing in things
        ]
    }
    model = load_language_model(str(tiny_dir))
    with torch.no_grad():
        model.embedding[model.encode(" dog")] = torch.randn(1, model.hidden_size)
    model.changed()
    with (
        fill("as-it-was", tmp_path, tiny, texts, [0]) as before,
        fill("changed", tmp_path, model, texts, [0]) as after,
    ):
        found = compare_models(before, after, words=40, k=3)
    changed = {one.word: one for one in found.changed}
    assert changed["dog"].neighbors.value == 0
    assert changed["dog"].neighbors.of == 4
    assert not set(changed["dog"].first) & {*changed["dog"].second, "dog"}
    assert found.changed[0].neighbors.high == 0 < found.changed[-1].neighbors.high
    assert found.difference < 0.5


def test_states_are_those_of_the_bank(bank: Bank, tiny: LanguageModel) -> None:
    common = common_contexts(bank, bank, 25, 0)
    states = context_states(tiny, bank, common.contexts, [0, 3], Silent())
    for layer, rows in states.items():
        stored = stored_vectors(bank, layer, common.ids)
        assert np.einsum("ij,ij->i", rotate(rows, bank.manifest.rotation_seed), stored) == pytest.approx(
            1, abs=1e-3
        )


def test_what_cannot_be_compared(bank: Bank, tiny: LanguageModel, tmp_path: Path) -> None:
    names = {"elsewhere": SENTENCES}
    with (
        fill("named", tmp_path, tiny, names) as named,
        pytest.raises(
            BankMismatch, match="no complete corpus in common: 'small' holds first, second, 'named' elsewhere"
        ),
    ):
        compare_models(bank, named)
    cut = load_language_model(str(save_tiny(tmp_path / "cut", bos=True)))
    other = {name: [text.upper() for text in sentences] for name, sentences in TWO.items()}
    with (
        fill("upper", tmp_path, tiny, other) as upper,
        pytest.raises(BankMismatch, match="first, second hold other sentences: ingest the same ones"),
    ):
        compare_models(bank, upper)
    with (
        fill("cut", tmp_path, cut, TWO) as vocabulary,
        pytest.raises(BankMismatch, match=r"\(llama-tiny, cut\) have different tokenizers"),
    ):
        compare_models(bank, vocabulary)
    with (
        fill("centred", tmp_path, tiny, TWO, metric="centred") as centred,
        pytest.raises(BankMismatch, match="has metric cosine and 'centred' centred"),
    ):
        compare_models(bank, centred)
    with pytest.raises(ModelError, match="gives other tokens for"):
        compare_models(bank, bank, words=25, model=cut)
