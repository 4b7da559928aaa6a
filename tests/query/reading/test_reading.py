"""Readings of text and of hidden states, against a bank of a tiny LLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latentbank.bank.bank import Bank
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, LayerNotFound, QueryError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.plan import PlanSettings
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.vision.alone import LanguageAlone
from latentbank.query.lenses.base import LensOptions, Queries
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.reading.reading import excerpt
from latentbank.query.reading.text import read_hidden, read_text
from tests.query.banks import SENTENCES
from tests.tiny import save_tiny


def test_a_stored_sentence_finds_itself(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, SENTENCES[0], layers=2, bank_layers=2, top_k=1, exact=True)
    special = set(tiny.tokenizer.all_special_ids)
    real = [i for i, id_ in enumerate(tiny.encode(SENTENCES[0])) if id_ not in special]
    assert [token.index for token in reading.tokens] == real
    for token in reading.tokens[1:]:
        best = token.neighbors[0]
        assert best.cosine > 0.999
        assert best.caption[best.start : best.end] == token.label.strip()
        assert best.bank_layer == 2


def test_several_layers_give_several_readings(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, "A red dog.", layers=[1, 2], bank_layers="all", top_k=3)
    assert reading.layers == (1, 2)
    assert reading.bank_layers == tuple(bank.layers)
    assert len(reading.at(1)) == len(reading.at(2)) == len(reading.tokens) // 2
    assert all(len(token.neighbors) == 3 for token in reading.tokens)
    states = tiny.text_hidden_states("A red dog.", [2])[1][2]
    norms = [token.norm for token in reading.at(2)]
    places = [token.index for token in reading.at(2)]
    assert norms == pytest.approx(states[places].norm(dim=-1).tolist(), rel=1e-5)
    with pytest.raises(LayerNotFound, match="1, 2"):
        reading.at(0)


def test_further_lenses_read_the_same_tokens(bank: Bank, tiny: LanguageModel) -> None:
    others = lenses_of(["logit", "patchscopes"], LensOptions(LanguageAlone(lambda: tiny)))
    reading = read_text(bank, tiny, "A red dog.", layers=[1, 2], top_k=3, lenses=others)
    assert reading.lenses == ("latent", "logit", "patchscopes")
    alone = read_text(bank, tiny, "A red dog.", layers=[1, 2], top_k=3)
    assert reading.at(2) == alone.at(2)
    states = tiny.text_hidden_states("A red dog.", [2])[1][2]
    for lens in others:
        found = [token.neighbors for token in reading.at(2, lens.name)]
        ids = [[n.token_id for n in neighbors] for neighbors in found]
        read = lens.read(Queries(states[[token.index for token in reading.at(2)]], 2, "text"), 3)
        assert ids == [[n.token_id for n in neighbors] for neighbors in read]


def test_token_chooses_a_whole_word_or_a_token(bank: Bank, tiny: LanguageModel) -> None:
    sentence = "The gardener waters the Garden."
    reading = read_text(bank, tiny, sentence, token="garden", top_k=1)
    assert reading.tokens
    whole = tiny.tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
    for token in reading.tokens:
        start, end = whole[token.index]
        inside = sentence[start:end].strip()
        assert inside
        assert inside.casefold() in "garden"
    with pytest.raises(QueryError, match="no token or word 'zebra'"):
        read_text(bank, tiny, sentence, token="zebra")


def test_where_and_unique(bank: Bank, tiny: LanguageModel) -> None:
    only = read_text(bank, tiny, "The dog runs.", where=Where(corpus="second"), bank_layers="all", top_k=8)
    assert {n.corpus for token in only.tokens for n in token.neighbors} == {"second"}
    words = read_text(bank, tiny, "The dog runs.", unique="word", bank_layers="all", top_k=5)
    for token in words.tokens:
        found = [n.word.casefold() for n in token.neighbors]
        assert len(found) == len(set(found)) == 5


def test_default_layer_is_in_the_middle(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, "A dog.")
    (layer,) = reading.layers
    assert tiny.num_layers / 4 <= layer <= tiny.num_layers / 2


def test_another_model_is_refused(bank: Bank, tmp_path: Path) -> None:
    other = load_language_model(str(save_tiny(tmp_path / "other", seed=7)))
    with pytest.raises(BankMismatch, match=r"(?s)llama-tiny.*other"):
        read_text(bank, other, "A dog.")


def test_a_bank_planned_with_a_bos_is_read_with_one(tmp_path: Path) -> None:
    model = load_language_model(str(save_tiny(tmp_path / "model", bos=True)))
    with create_bank("b", model, [2], data_dir=tmp_path, url="") as bank:
        corpus = corpus_from_sentences("c", SENTENCES)
        store_plan(
            bank,
            plan_for(bank, corpus, model, tmp_path / "plan", PlanSettings(bos="always", skip=0)),
            model,
        )
        reading = read_text(bank, model, SENTENCES[0], layers=2, bank_layers=2, top_k=1)
        assert "".join(token.label for token in reading.tokens) == SENTENCES[0]
        assert all(token.neighbors[0].cosine > 0.999 for token in reading.tokens)
        (dog,) = read_text(bank, model, SENTENCES[0], layers=2, token="dog", top_k=1).tokens
        assert dog.neighbors[0].word == "dog"


def test_an_empty_sentence_is_refused(bank: Bank, tiny: LanguageModel) -> None:
    with pytest.raises(QueryError, match="no tokens"):
        read_text(bank, tiny, "")


@pytest.mark.parametrize("kind", ["numpy", "torch", "bfloat16", "list"])
def test_hidden_states_from_anywhere(bank: Bank, tiny: LanguageModel, kind: str) -> None:
    state = tiny.text_hidden_states(SENTENCES[1], [2])[1][2][2:5].clone()
    given = {
        "numpy": state.numpy(),
        "torch": state,
        "bfloat16": state.to(torch.bfloat16),
        "list": state.tolist(),
    }[kind]
    reading = read_hidden(bank, given, labels=["a", "b", "c"], bank_layers=2, top_k=2, source="a soft prompt")
    expected = read_text(bank, tiny, SENTENCES[1], layers=2, bank_layers=2, top_k=2)
    assert reading.layers == (-1,)
    assert [token.label for token in reading.tokens] == ["a", "b", "c"]
    same = {token.index: token for token in expected.tokens}
    for token in reading.tokens:
        assert token.neighbors[0].id == same[token.index + 2].neighbors[0].id


def test_hidden_states_of_several_layers(bank: Bank) -> None:
    rows = np.random.default_rng(0).standard_normal((2, bank.hidden_size))
    reading = read_hidden(bank, {3: rows, 4: rows * 100}, bank_layers="all", top_k=2)
    assert reading.layers == (3, 4)
    for token, other in zip(reading.at(3), reading.at(4), strict=True):
        assert [n.id for n in token.neighbors] == [n.id for n in other.neighbors]
        assert other.norm == pytest.approx(100 * token.norm)


@pytest.mark.parametrize(
    ("states", "labels", "says"),
    [
        (np.ones((2, 3)), None, "hidden size"),
        (np.zeros((1, 32)), None, "Row 0"),
        (np.ones((0, 32)), None, "at least one"),
        ({1: np.ones((1, 32)), 2: np.ones((2, 32))}, None, "same tokens"),
        (np.ones((2, 32)), ["a"], "1 labels for 2 tokens"),
    ],
)
def test_wrong_hidden_states(bank: Bank, states: object, labels: list[str] | None, says: str) -> None:
    assert bank.hidden_size == 32
    with pytest.raises(QueryError, match=says):
        read_hidden(bank, states, labels=labels)  # type: ignore[arg-type]  # wrong on purpose


def test_to_dict_is_json_and_complete(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, "A dog.", top_k=2)
    data = json.loads(json.dumps(reading.to_dict()))
    assert data["source"] == "A dog."
    assert data["lens"] == "latent"
    (first, *_) = data["tokens"]
    assert set(first) == {"index", "label", "kind", "layer", "lens", "norm", "p_value", "silent", "neighbors"}
    assert first["neighbors"][0]["caption"] in SENTENCES


def test_to_pandas_has_a_row_per_neighbor(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, "A dog.", top_k=2)
    frame = reading.to_pandas()
    assert len(frame) == 2 * len(reading.tokens)
    assert frame["rank"].tolist()[:2] == [0, 1]
    assert frame.loc[0, "caption"] == reading.tokens[0].neighbors[0].caption


def test_repr_shows_tokens_words_and_marked_captions(bank: Bank, tiny: LanguageModel) -> None:
    reading = read_text(bank, tiny, SENTENCES[0], layers=2, bank_layers=2, top_k=1)
    text = repr(reading)
    assert SENTENCES[0] in text
    best = reading.tokens[1].neighbors[0]
    assert f"{best.word} {best.cosine:.2f}" in text
    assert excerpt(best) in text


def test_excerpt_marks_the_span_and_cuts_around_it(bank: Bank, tiny: LanguageModel) -> None:
    best = read_text(bank, tiny, SENTENCES[0], layers=2, bank_layers=2, top_k=1).tokens[-1].neighbors[0]
    assert excerpt(best, 1000) == best.marked()
    short = excerpt(best, 10)
    assert short.startswith("…")
    assert f"[{best.caption[best.start : best.end]}]" in short
