"""Lenses without a bank find the neighbors that plain arithmetic finds, for every dtype and size."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import latentbank.query.lenses.vocabulary
from latentbank.bank.bank import Bank
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.embedding import EmbeddingLens, mean_embedding
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.lenses.logit import LogitLens
from tests.query.patch_vlm import Unembedded


def of(states: Any) -> Queries:
    return Queries(states, None, "other")


@pytest.fixture(scope="module")
def matrix(tiny: LanguageModel) -> Tensor:
    """A matrix with a row for each token and three more, as in models that pad it."""
    return torch.randn(len(tiny.tokenizer) + 3, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def states() -> Tensor:
    return torch.randn(7, 32, generator=torch.Generator().manual_seed(4)) * 5


def test_embedding_lens_is_cosine_with_every_row(tiny: LanguageModel, matrix: Tensor, states: Tensor) -> None:
    found = EmbeddingLens(matrix, tiny.tokenizer).read(of(states), 5)
    known = len(tiny.tokenizer)
    cosines = torch.nn.functional.cosine_similarity(states[:, None], matrix[None, :known], dim=-1)
    best = cosines.topk(5)
    assert [[n.token_id for n in row] for row in found] == best.indices.tolist()
    assert [n.cosine for row in found for n in row] == pytest.approx(best.values.flatten().tolist(), abs=1e-6)
    assert all(n.probability is None and n.score == n.cosine for row in found for n in row)


@pytest.mark.parametrize("block", [32 * 7, 32 * 50, 1])
def test_embedding_lens_in_blocks_finds_the_same(
    tiny: LanguageModel, matrix: Tensor, states: Tensor, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EmbeddingLens(matrix, tiny.tokenizer).read(of(states), 20)
    monkeypatch.setattr(latentbank.query.lenses.vocabulary, "BLOCK", block)
    parts = EmbeddingLens(matrix, tiny.tokenizer).read(of(states), 20)
    assert [[n.token_id for n in row] for row in parts] == [[n.token_id for n in row] for row in whole]


def test_embedding_lens_brings_a_half_matrix_to_float32_a_block_at_a_time(
    tiny: LanguageModel, matrix: Tensor, states: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are float32 of the bfloat16 values, and no intermediate tensor is as large as the matrix.

    This also holds if a mean is subtracted from the matrix; that mean is not rounded to bfloat16.
    """
    monkeypatch.setattr(latentbank.query.lenses.vocabulary, "BLOCK", 32 * 64)
    half = matrix.bfloat16()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if (
                isinstance(made, Tensor)
                and made.untyped_storage().data_ptr() != half.untyped_storage().data_ptr()
            ):
                largest = max(largest, made.numel())
            return made

    half += 3  # far from the origin, like the input embeddings of some LLMs
    with Watch():
        mean = mean_embedding(half)
        plain = EmbeddingLens(half, tiny.tokenizer).read(of(states), 3)
        centred = EmbeddingLens(half, tiny.tokenizer, mean=mean).read(of(states), 3)
    assert 0 < largest <= 32 * 64
    torch.testing.assert_close(mean, half.float().mean(0))
    for found, rows in ((plain, half.float()), (centred, half.float() - half.float().mean(0))):
        exact = torch.nn.functional.cosine_similarity(
            states[:, None], rows[None, : len(tiny.tokenizer)], dim=-1
        )
        expected = exact.topk(3).values.flatten().tolist()
        assert [n.cosine for row in found for n in row] == pytest.approx(expected, abs=1e-6)


def test_embedding_lens_survives_a_row_of_zeros(tiny: LanguageModel, matrix: Tensor, states: Tensor) -> None:
    holed = matrix.clone()
    holed[10] = 0
    found = EmbeddingLens(holed, tiny.tokenizer).read(of(states), len(holed))
    assert all(math.isfinite(n.cosine) for row in found for n in row)
    assert {n.cosine for row in found for n in row if n.token_id == 10} == {0.0}


def test_an_embedding_finds_its_own_token(tiny: LanguageModel) -> None:
    """The nearest token of a sentence's input embedding is the token itself, and its word is its text."""
    ids, found = tiny.text_hidden_states("The dog chased a cat.", [0])
    embedding = tiny.embedding
    answers = EmbeddingLens(embedding, tiny.tokenizer).read(of(found[0]), 1)
    assert [row[0].token_id for row in answers] == ids
    assert [row[0].word for row in answers] == [tiny.tokenizer.decode([i]).strip() for i in ids]
    assert all(row[0].cosine > 0.999 for row in answers)


def test_logit_lens_gives_probabilities(tiny: LanguageModel, matrix: Tensor, states: Tensor) -> None:
    found = LogitLens(Unembedded(matrix), tiny.tokenizer).read(of(states), 4)
    chances = (states @ matrix.T).softmax(-1)[:, : len(tiny.tokenizer)]
    best = chances.topk(4)
    assert [[n.token_id for n in row] for row in found] == best.indices.tolist()
    assert [n.probability for row in found for n in row] == pytest.approx(
        best.values.flatten().tolist(), rel=1e-4
    )
    for row in found:
        for neighbor in row:
            assert math.isnan(neighbor.cosine)
            assert neighbor.score == neighbor.probability
            assert json.loads(json.dumps(neighbor.to_dict(), allow_nan=False))["cosine"] is None


def test_logit_lens_never_makes_more_logits_than_a_block(
    tiny: LanguageModel, matrix: Tensor, states: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latentbank.query.lenses.vocabulary, "BLOCK", 3 * len(matrix))
    unembedding = Unembedded(matrix)
    found = LogitLens(unembedding, tiny.tokenizer).read(of(states), 4)
    assert max(unembedding.calls) == 3
    assert sum(unembedding.calls) == len(states)
    monkeypatch.undo()
    whole = LogitLens(Unembedded(matrix), tiny.tokenizer).read(of(states), 4)
    assert [[n.token_id for n in row] for row in found] == [[n.token_id for n in row] for row in whole]


def test_padding_rows_are_never_found(tiny: LanguageModel, matrix: Tensor) -> None:
    padding = matrix[-1:]
    for lens in (EmbeddingLens(matrix, tiny.tokenizer), LogitLens(Unembedded(matrix * 50), tiny.tokenizer)):
        ids = [n.token_id for n in lens.read(of(padding), len(matrix))[0]]
        assert sorted(ids) == list(range(len(tiny.tokenizer)))


@pytest.mark.parametrize("kind", ["embedding", "logit"])
def test_one_neighbor_per_word(tiny: LanguageModel, matrix: Tensor, states: Tensor, kind: str) -> None:
    """Where several tokens have the same word, a deeper search still finds the best five distinct words."""
    same = matrix.clone()
    by_word: dict[str, list[int]] = {}
    for token_id in range(len(tiny.tokenizer)):
        by_word.setdefault(tiny.tokenizer.decode([token_id]).strip().casefold(), []).append(token_id)
    several = [ids for word, ids in by_word.items() if word and len(ids) > 1]
    assert several
    for ids in several:
        same[ids] = matrix[ids[0]]

    def lens(unique: str | None) -> EmbeddingLens | LogitLens:
        if kind == "embedding":
            return EmbeddingLens(same, tiny.tokenizer, unique)  # type: ignore[arg-type]
        return LogitLens(Unembedded(same), tiny.tokenizer, unique)  # type: ignore[arg-type]

    near = same[[ids[0] for ids in several[:3]]]
    everything = lens(None).read(of(near), len(same))
    assert any(len({n.word.casefold() for n in row[:5]}) < 5 for row in everything)
    for row, all_of_it in zip(lens("word").read(of(near), 5), everything, strict=True):
        words = [n.word.casefold() for n in row]
        assert words == list(dict.fromkeys(n.word.casefold() for n in all_of_it))[:5]


def test_words_are_cut_as_in_a_bank(bank: Bank, tiny: LanguageModel, states: Tensor) -> None:
    """A context whose token is a whole word has the same word as that token alone."""
    contexts = {n.token_id: n for row in LatentLens(bank, "all").read(of(states), 40) for n in row}
    whole = {i: n for i, n in contexts.items() if n.token.strip() == n.word}
    assert len(whole) > 5
    found = EmbeddingLens(tiny.embedding, tiny.tokenizer).read(of(tiny.embedding[list(whole)]), 1)
    assert [row[0].token_id for row in found] == list(whole)
    for (neighbor,), context in zip(found, whole.values(), strict=True):
        assert (neighbor.word, neighbor.token) == (context.word, context.token)


@pytest.mark.parametrize("kind", ["numpy", "list", "bfloat16", "one row"])
def test_hidden_states_of_any_kind(tiny: LanguageModel, matrix: Tensor, states: Tensor, kind: str) -> None:
    given = {
        "numpy": states.double().numpy(),
        "list": states.tolist(),
        "bfloat16": states.bfloat16().requires_grad_(),
        "one row": states[0],
    }[kind]
    expected = states.bfloat16() if kind == "bfloat16" else states
    for lens in (EmbeddingLens(matrix, tiny.tokenizer), LogitLens(Unembedded(matrix), tiny.tokenizer)):
        found = lens.read(of(given), 2)
        assert [[n.token_id for n in row] for row in found] == [
            [n.token_id for n in row] for row in lens.read(of(expected), 2)
        ][: len(found)]


@pytest.mark.parametrize(
    ("given", "top_k", "says"),
    [
        (np.zeros((2, 32)), 5, "Row 0 of the hidden states is all zeros"),
        (
            np.array([[1.0] * 32, [math.nan] * 32]),
            5,
            "Row 1 of the hidden states holds a value that is not finite",
        ),
        (np.ones((2, 3, 32)), 5, "must be \\[tokens, hidden\\]"),
        (["a"], 5, "array of numbers"),
        (np.ones((1, 32)), 0, "top_k is 0"),
    ],
)
def test_wrong_hidden_states(
    tiny: LanguageModel, matrix: Tensor, given: object, top_k: int, says: str
) -> None:
    for lens in (EmbeddingLens(matrix, tiny.tokenizer), LogitLens(Unembedded(matrix), tiny.tokenizer)):
        with pytest.raises(QueryError, match=says):
            lens.read(of(given), top_k)
    with pytest.raises(QueryError, match="31 wide, the input embeddings 32"):
        EmbeddingLens(matrix, tiny.tokenizer).read(of(np.ones((1, 31))))


def test_all_lenses_answer_alike(bank: Bank, tiny: LanguageModel, matrix: Tensor, states: Tensor) -> None:
    lenses = [
        LatentLens(bank),
        LogitLens(Unembedded(matrix), tiny.tokenizer),
        EmbeddingLens(tiny.embedding, tiny.tokenizer),
    ]
    assert [lens.name for lens in lenses] == ["latent", "logit", "embedding"]
    for lens in lenses:
        found = lens.read(of(states), 3)
        assert [len(row) for row in found] == [3] * len(states)
        for row in found:
            assert [n.score for n in row] == sorted((n.score for n in row), reverse=True)
            assert all(n.word and n.token and n.token_id >= 0 for n in row)
            assert lens.name == "latent" or {(n.caption, n.corpus, n.id, n.bank_layer) for n in row} == {
                ("", "", "", -1)
            }
