"""Unembeddings: they give the models' own logits from the last block's output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BertConfig, BertModel

from latentbank.errors import ModelError
from latentbank.models.language.model import load_language_model
from latentbank.models.language.unembedding import load_unembedding, unembedding_of_language
from latentbank.models.vision.vision_language import load_vision_language_model
from tests.models.language.causal_types import tiny_config, tiny_model
from tests.models.tiny_vlm import save_tiny_vlm
from tests.tiny import save_tiny, save_tiny_gguf, tiny_tokenizer

# What each model has after its last block, other than an RMS norm and an untied unembedding.
PLAIN = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "gemma2": {"final_logit_softcapping": 0.5},  # tied too, and 1 + weight in its norm
    "gemma3": {},
    "cohere": {"logit_scale": 0.25},  # layer norm, tied
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "minicpm3": {},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {},  # a bias
    "bloom": {},
    "mamba": {},
}
IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])


def saved(directory: Path, name: str) -> str:
    return str(save_tiny(directory / name, name.removesuffix("-tied"), **PLAIN[name]))


@pytest.mark.parametrize("name", PLAIN)
def test_logits_are_the_models_own(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, name)
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(path).eval()(IDS).logits[0]
    states = load_language_model(path, device="cpu").hidden_states(IDS.tolist(), [4])[0][4]
    unembedding = load_unembedding(path, device="cpu")
    assert theirs.std() > 0.01
    torch.testing.assert_close(unembedding.logits(states), theirs, rtol=1e-4, atol=1e-5)
    assert (unembedding.hidden_size, unembedding.vocab_size) == (32, theirs.shape[1])


def test_a_softcap_caps(tmp_path: Path) -> None:
    unembedding = load_unembedding(saved(tmp_path, "gemma2"), device="cpu")
    assert unembedding.logits(torch.randn(5, 32)).abs().max() <= 0.5


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "llava", "gemma3", "paligemma", "molmo2"])
def test_of_a_vision_language_model(tmp_path: Path, name: str) -> None:
    path = str(save_tiny_vlm(tmp_path / name, name))
    with torch.inference_mode():
        theirs = AutoModelForImageTextToText.from_pretrained(path).eval()
        out = theirs(IDS, attention_mask=torch.ones_like(IDS), output_hidden_states=True)
    states = load_language_model(path, device="cpu").hidden_states(IDS.tolist(), [4])[0][4]
    if name == "paligemma":  # its positions begin at 1, and its prompts are prefixes
        normed = theirs.get_decoder().norm(states)
        expected = theirs.lm_head(normed)
    else:
        expected = out.logits[0]
    whole = load_vision_language_model(path, device="cpu")
    cut = load_vision_language_model(path, device="cpu", deepest_layer=1)
    for unembedding in (whole.unembedding(), cut.unembedding(), load_unembedding(path, device="cpu")):
        torch.testing.assert_close(unembedding.logits(states), expected, rtol=1e-4, atol=1e-5)


# A VLM's family, and an LLM that does something to its logits, which the VLM's class leaves out.
INSIDE = {
    "granite": ("llava", {"model_type": "granite", "logits_scaling": 4.0}),
    "cohere2": ("llava", {"model_type": "cohere2", "logit_scale": 0.25}),
    "gemma2": ("paligemma", {"model_type": "gemma2", "final_logit_softcapping": 0.5}),
}


@pytest.mark.parametrize("name", INSIDE)
def test_of_a_vision_language_model_it_is_that_of_the_llm_inside(tmp_path: Path, name: str) -> None:
    family, text = INSIDE[name]
    path = str(save_tiny_vlm(tmp_path / name, family, **text))
    vlm = AutoModelForImageTextToText.from_pretrained(path).eval()
    alone = AutoModelForCausalLM.from_config(vlm.config.get_text_config()).eval()
    alone.get_decoder().load_state_dict(vlm.get_decoder().state_dict())
    alone.lm_head.load_state_dict(vlm.get_output_embeddings().state_dict())
    states = load_language_model(path, device="cpu").hidden_states(IDS.tolist(), [4])[0][4]
    with torch.inference_mode():
        expected = alone(IDS).logits[0]
        plain = vlm.get_output_embeddings()(vlm.get_decoder().norm(states))
    assert float((plain - expected).abs().max()) > 0.05  # what the VLM's class would say
    whole = load_vision_language_model(path, device="cpu")
    cut = load_vision_language_model(path, device="cpu", deepest_layer=1)
    for unembedding in (whole.unembedding(), cut.unembedding(), load_unembedding(path, device="cpu")):
        torch.testing.assert_close(unembedding.logits(states), expected, rtol=1e-4, atol=1e-5)
        assert unembedding.logits(states).shape == (IDS.shape[1], unembedding.vocab_size)
    assert whole.unembedding().head.weight.data_ptr() == whole.model.get_output_embeddings().weight.data_ptr()


def test_of_a_decoder_that_is_loaded(tmp_path: Path) -> None:
    """Tied: OPT keeps its decoder deeper than others, and Qwen2.5-VL's has no causal LLM of its own."""
    for name, path in {
        "opt": saved_type("opt", tmp_path / "opt"),
        "opt-wide": saved_type("opt", tmp_path / "opt-wide", word_embed_proj_dim=16),
        "qwen2_5_vl": str(save_tiny_vlm(tmp_path / "qwen2_5_vl", "qwen2_5_vl", tie_word_embeddings=True)),
        "qwen3_vl": str(save_tiny_vlm(tmp_path / "qwen3_vl", "qwen3_vl", tie_word_embeddings=True)),
    }.items():
        auto = AutoModelForCausalLM if name.startswith("opt") else AutoModelForImageTextToText
        with torch.inference_mode():
            expected = auto.from_pretrained(path).eval()(input_ids=IDS).logits[0]
        language = load_language_model(path, device="cpu")
        states = language.hidden_states(IDS.tolist(), [4])[0][4]
        unembedding = unembedding_of_language(language)
        torch.testing.assert_close(unembedding.logits(states), expected, rtol=1e-4, atol=1e-5)
        if name == "opt":
            assert unembedding.head.weight.data_ptr() == language.embedding.data_ptr()


def saved_type(model_type: str, path: Path, **settings: object) -> str:
    config = tiny_config(model_type)
    config.update(settings)
    tiny_model(config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def test_of_a_gguf(tmp_path: Path) -> None:
    path = save_tiny_gguf(tmp_path / "tiny.gguf")
    states = torch.randn(3, 32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").eval()
    with torch.inference_mode():
        expected = model.lm_head(model.model.norm(states))
    torch.testing.assert_close(
        load_unembedding(str(path), device="cpu").logits(states), expected, rtol=1e-4, atol=1e-5
    )


def test_the_model_is_as_it_was_afterwards(saved: Callable[[str], str]) -> None:
    unembedding = load_unembedding(saved("llama"), device="cpu")
    first = unembedding.logits(torch.ones(2, 32))
    with pytest.raises(ModelError, match=r"Hidden states \[n, 32\] belong to .*, not \[2, 16\]"):
        unembedding.logits(torch.ones(2, 16))
    torch.testing.assert_close(unembedding.logits(torch.ones(2, 32)), first)
    assert unembedding.logits(torch.ones(0, 32)).shape == (0, unembedding.vocab_size)


def test_a_model_without_unembedding(tmp_path: Path) -> None:
    config = BertConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=400,
        is_decoder=False,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError):
        load_unembedding(str(tmp_path / "bert"), device="cpu")
