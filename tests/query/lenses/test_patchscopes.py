"""Patchscopes: what the LLM writes with a hidden state in a word's place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentbank.errors import ModelError, QueryError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.language.patching import Patched
from latentbank.models.language.unembedding import unembedding_of_language
from latentbank.models.vision.alone import LanguageAlone
from latentbank.query.lenses.base import LensOptions, Queries
from latentbank.query.lenses.logit import LogitLens
from latentbank.query.lenses.patchscopes import Patchscopes
from tests.query.patch_vlm import PatchVLM
from tests.tiny import save_tiny


@pytest.mark.parametrize("packs", [True, False])
def test_the_prompts_own_hidden_state_changes_nothing(
    tiny: LanguageModel, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "packs", packs)
    patched = Patched(tiny)
    (plain,) = tiny.hidden_states([patched.prompt], range(tiny.num_layers + 1))
    wanted = unembedding_of_language(tiny).logits(plain[tiny.num_layers][[patched.place, -1]])
    for layer in range(tiny.num_layers):
        own = plain[layer][patched.place].expand(3, -1)
        for outputs in patched.outputs(own, layer):
            found = unembedding_of_language(tiny).logits(outputs)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packs", [True, False])
def test_each_hidden_state_is_read_as_if_alone(
    tiny: LanguageModel, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run over the embeddings with another token in the place gives the same as that token's embedding put there."""
    monkeypatch.setattr(LanguageModel, "packs", packs)
    patched = Patched(tiny)
    others = list(range(40, 340))  # more than one pass takes
    found = patched.outputs(tiny.embedding[others], 0)
    assert len(found) == len(others)
    for token in (others[0], others[-1]):
        ids = [*patched.prompt]
        ids[patched.place] = token
        (states,) = tiny.hidden_states([ids], [tiny.num_layers])
        torch.testing.assert_close(
            found[others.index(token)], states[tiny.num_layers][[patched.place, -1]], rtol=1e-4, atol=1e-4
        )


def test_neighbors_are_the_next_tokens(tiny: LanguageModel) -> None:
    options = LensOptions(LanguageAlone(lambda: tiny))
    lens = Patchscopes.make(options)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(4)) * 5
    found = lens.read(Queries(states, 2, "other"), 4)
    outputs = lens.patched.outputs(states, 2).flatten(0, 1)
    chances = unembedding_of_language(tiny).logits(outputs).softmax(-1).unflatten(0, (5, 2)).mean(1)
    best = chances[:, : len(tiny.tokenizer)].topk(4)
    assert [[n.token_id for n in row] for row in found] == best.indices.tolist()
    assert [n.probability for row in found for n in row] == pytest.approx(
        best.values.flatten().tolist(), rel=1e-3
    )
    last = Queries(states, tiny.num_layers, "other")
    of_logit = LogitLens.make(options).read(last, 4)
    assert [[n.token_id for n in row] for row in lens.read(last, 4)] == [
        [n.token_id for n in row] for row in of_logit
    ]
    assert len({n.word.casefold() for n in lens.distinct().read(last, 4)[0]}) == 4


def test_what_it_cannot_read(tiny: LanguageModel, tmp_path: Path) -> None:
    lens = Patchscopes.make(LensOptions(LanguageAlone(lambda: tiny)))
    with pytest.raises(QueryError, match="which layer"):
        lens.read(Queries(torch.ones(1, 32), None, "other"))
    cut = load_language_model(save_tiny(tmp_path / "cut"), deepest_layer=2)
    with pytest.raises(ModelError, match="2 of its 4 layers"):
        Patchscopes.make(LensOptions(LanguageAlone(lambda: cut)))
    with pytest.raises(ModelError, match="not of"):
        lens.check(PatchVLM(cut))
