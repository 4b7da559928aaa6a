"""The loss on captions: against PyTorch's own cross-entropy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentbank.errors import ModelError
from latentbank.models.composite import captions
from latentbank.models.composite.captions import (
    CaptionLoss,
    caption_loss,
    write_captions,
)
from latentbank.models.composite.layout import Frame, caption_ids, layout_of
from latentbank.models.language.model import load_language_model
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("scale", "softcap", "auxiliary"), [(1.0, None, 0.0), (0.3, None, 0.1), (1.0, 5.0, 0.0), (2.0, 3.0, 0.2)]
)
@pytest.mark.parametrize("at_once", [3, 1000])
def test_loss_and_gradient_are_those_of_cross_entropy(
    scale: float, softcap: float | None, auxiliary: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "_CHUNK", 40)  # several chunks, the last one shorter
    monkeypatch.setattr(captions, "_LOGITS", 90 * at_once)
    torch.manual_seed(0)
    weight, targets = torch.randn(90, 16), torch.randint(90, (11,))
    states = torch.randn(11, 16, requires_grad=True)
    loss = CaptionLoss(weight, scale=scale, softcap=softcap)(states, targets, auxiliary)
    (3 * loss).backward()
    mine = states.grad
    other = states.detach().clone().requires_grad_()
    logits = other @ weight.T * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    expected = expected + auxiliary * logits.logsumexp(dim=1).square().sum()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(mine, other.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(CaptionLoss(weight, scale=scale, softcap=softcap).logits(other), logits)


def test_a_sequence_begins_with_bos_and_ends_with_eos() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    layout = layout_of(tokenizer)
    assert (layout.before, layout.end) == ((0,), 0)
    assert tokenizer.decode(layout.after) == "\n"
    assert layout_of(tiny_tokenizer()).before == (0,)  # EOS in the place of a BOS
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        layout_of(tokenizer)


def test_special_tokens_in_a_caption_are_plain_text() -> None:
    ids = caption_ids(tiny_tokenizer(bos=True), "a dog<|endoftext|>")
    assert 0 not in ids


def test_captions_are_the_likeliest_tokens(tmp_path: Path) -> None:
    language = load_language_model(
        str(save_tiny(tmp_path, tie_word_embeddings=True)), device="cpu", dtype="float32"
    )
    whole = tiny_model("llama", tie_word_embeddings=True)
    visual = [torch.randn(3, 32), torch.randn(5, 32), torch.randn(3, 32)]
    frame = Frame(language, layout_of(language.tokenizer))
    written = write_captions(frame, caption_loss(language), visual, most=6)
    layout = frame.layout
    embed = whole.get_input_embeddings()
    for tokens, caption in zip(visual, written, strict=True):
        generated: list[int] = []
        for _ in range(6):
            text = [
                embed(torch.tensor(ids, dtype=torch.long))
                for ids in (layout.before, [*layout.after, *generated])
            ]
            sequence = torch.cat([text[0], tokens, text[1]])[None]
            with torch.no_grad():
                generated.append(int(whole(inputs_embeds=sequence).logits[0, -1].argmax()))
            if generated[-1] == layout.end:
                generated.pop()
                break
        assert caption == language.tokenizer.decode(generated).strip()


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {}),
        ("qwen3", {}),
        ("gemma2", {"final_logit_softcapping": 3.0}),
        ("gemma3", {}),
        ("gpt2", {}),
        ("gptj", {}),  # its unembedding has a bias
        ("gpt_neox", {}),
        ("mamba", {}),
        ("opt", {}),
        ("opt", {"word_embed_proj_dim": 32}),
        ("minicpm3", {"dim_model_base": 13}),  # the logits are divided by the width divided by this
    ],
)
def test_the_unembedding_is_the_models_own(
    architecture: str, settings: dict[str, object], tmp_path: Path
) -> None:
    whole = tiny_model(architecture, **settings)
    head = whole.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        with torch.no_grad():
            head.bias.normal_()
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    language = load_language_model(str(tmp_path), device="cpu", dtype="float32")
    ids = torch.tensor([[5, 80, 200, 31, 7]])
    with torch.no_grad():
        expected = whole(ids).logits[0]
        loss = caption_loss(language)
        states = language.decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(loss.logits(states), expected, atol=1e-3, rtol=1e-3)
    targets = torch.randint(len(tiny_tokenizer()), (5,))
    expected_loss = torch.nn.functional.cross_entropy(expected, targets, reduction="sum")
    torch.testing.assert_close(loss(states, targets), expected_loss, atol=1e-3, rtol=1e-4)


def test_logits_that_are_made_otherwise_are_refused(tmp_path: Path) -> None:
    language = load_language_model(str(save_tiny(tmp_path)), device="cpu", dtype="float32")
    language.decoder.config.logit_scale = 3.0  # a setting of Cohere's models, which Llama ignores
    with pytest.raises(ModelError, match="transforms its logits"):
        caption_loss(language)
