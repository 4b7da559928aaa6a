"""Every type that transformers loads as a causal LLM: cut after a layer, it computes what the whole model computes.

And the digests of its blocks are those of the whole model.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from latentbank.errors import ModelError
from latentbank.models.language.layout import (
    count_blocks,
    cut_config,
    decoder_of,
    find_blocks,
    keep_blocks,
    text_config,
)
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.models.language.causal_types import (
    LAYERS,
    RECORDED_OTHERWISE,
    REFUSED,
    SAVED_OTHERWISE,
    UNBUILT,
    VOCABULARY,
    tiny_config,
    tiny_model,
    types,
)
from tests.tiny import tiny_tokenizer

READ = [name for name in types() if name not in UNBUILT and name not in REFUSED]
# Longer than the sliding windows.
IDS = torch.randint(3, VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(0))
# Some of what is special: embeddings of each block, a list that counts the blocks, two attentions a block, positions
# that begin after the padding's, an unembedding called decoder.
FROM_DISK = ("camembert", "gemma4_text", "longcat_flash", "modernbert-decoder", "nemotron_h")


def whole_states(model: PreTrainedModel) -> list[Tensor]:
    """Return what enters each block of a whole model, and what leaves the last, [tokens, hidden] each."""
    blocks = find_blocks(decoder_of(model))
    states: dict[int, Tensor] = {}

    def entering(number: int):
        def hook(_block: nn.Module, args: tuple, kwargs: dict) -> None:
            states[number] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    def leaving(_block: nn.Module, _args: tuple, output: object) -> None:
        states[len(blocks)] = (output if isinstance(output, Tensor) else output[0]).clone()

    handles = [
        block.register_forward_pre_hook(entering(number), with_kwargs=True)
        for number, block in enumerate(blocks)
    ]
    handles.append(blocks[-1].register_forward_hook(leaving))
    with torch.inference_mode():
        recorded = model(input_ids=IDS, use_cache=False, output_hidden_states=True).get("hidden_states")
    for handle in handles:
        handle.remove()
    for number in reversed(range(len(blocks))):  # what would have entered a skipped block enters the next
        states.setdefault(number, states[number + 1])
    if model.config.model_type not in RECORDED_OTHERWISE:
        assert len(recorded) == len(blocks) + 1
        for number in range(len(blocks)):
            torch.testing.assert_close(states[number], recorded[number])
    return [states[number][0] for number in range(len(blocks) + 1)]


def cut(whole: PreTrainedModel, config: PreTrainedConfig, blocks: int) -> LanguageModel:
    """Return the model as loading it with `deepest_layer=blocks` leaves it; nothing is written to disk."""
    config = copy.deepcopy(config)
    cut_config(text_config(config), blocks)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)
    assert not model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    decoder = decoder_of(model)
    keep_blocks(decoder, blocks)
    return LanguageModel("tiny", decoder, tiny_tokenizer(), num_layers=LAYERS)


def assert_same_digests(part: LanguageModel, whole: LanguageModel) -> None:
    got, expected = part.identity(), whole.identity()
    assert got.fingerprint == expected.fingerprint
    assert expected.digests.embedding.exact
    assert all(digest.exact for digest in expected.digests.blocks)
    assert len(set(expected.digests.blocks)) == LAYERS
    assert got.digests.vocabulary == expected.digests.vocabulary
    assert got.digests.embedding == expected.digests.embedding
    assert got.digests.blocks == expected.digests.blocks[: part.loaded_layers]


def saved(model_type: str, path: Path) -> str:
    tiny_model(tiny_config(model_type)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("model_type", READ)
def test_cut_states_are_those_of_the_whole_model(model_type: str) -> None:
    config = tiny_config(model_type)
    assert count_blocks(text_config(config)) == LAYERS
    whole = tiny_model(copy.deepcopy(config))
    expected = whole_states(whole)
    assert float((expected[1] - expected[LAYERS]).abs().max()) > 1e-3  # the blocks do something
    models = [cut(whole, config, blocks) for blocks in range(1, LAYERS)]
    models.append(LanguageModel("tiny", decoder_of(whole), tiny_tokenizer(), num_layers=LAYERS))
    digests = models[-1].identity().digests
    assert digests is not None
    assert None not in digests.blocks
    assert len(set(digests.blocks)) == LAYERS
    for blocks, model in enumerate(models, start=1):
        assert model.loaded_layers == blocks
        assert model.identity().digests == replace(digests, blocks=digests.blocks[:blocks])
        states = model.hidden_states(IDS.tolist(), range(blocks + 1))[0]
        for layer, state in states.items():
            assert_same(state, expected[layer])
        assert_same_digests(model, models[-1])


@pytest.mark.parametrize(
    "model_type",
    [
        name if name in FROM_DISK else pytest.param(name, marks=pytest.mark.oracle)
        for name in READ
        if name not in SAVED_OTHERWISE
    ],
)
def test_loading_to_a_layer_gives_the_states_of_the_whole_model(model_type: str, tmp_path: Path) -> None:
    whole = tiny_model(tiny_config(model_type)).requires_grad_(False)
    expected = whole_states(whole)
    path = saved(model_type, tmp_path)
    model = load_language_model(path, device="cpu", deepest_layer=2)
    assert (model.num_layers, model.loaded_layers) == (LAYERS, 2)
    states = model.hidden_states(IDS.tolist(), [0, 1, 2])[0]
    for layer, state in states.items():
        assert_same(state, expected[layer])
    assert_same_digests(model, LanguageModel("tiny", decoder_of(whole), tiny_tokenizer(), num_layers=LAYERS))


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_refused_types_are_still_refused(model_type: str, tmp_path: Path) -> None:
    with pytest.raises((ModelError, ImportError), match=REFUSED[model_type]):
        load_language_model(saved(model_type, tmp_path), device="cpu", deepest_layer=2)


@pytest.mark.parametrize("model_type", sorted(UNBUILT))
def test_types_that_cannot_be_built_are_still_unbuildable(model_type: str) -> None:
    with pytest.raises((StrictDataclassError, ValueError, AttributeError, ImportError)):
        tiny_model(tiny_config(model_type))


def test_the_lists_name_types_of_transformers() -> None:
    assert not (UNBUILT.keys() | REFUSED.keys()) - set(types())
    assert len(READ) > 150
