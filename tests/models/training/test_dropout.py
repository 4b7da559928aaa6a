"""Dropout on what blocks add at the positions that predict the caption, for several kinds of blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latentbank.errors import ModelError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.training.dropout import ResponseDropout
from tests.tiny import tiny_model, tiny_tokenizer


def loaded(architecture: str, folder: Path) -> LanguageModel:
    tiny_model(architecture).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_language_model(str(folder), device="cpu", dtype="float32")


def last(language: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return language.decoder(input_ids=ids, use_cache=False).last_hidden_state


@pytest.mark.parametrize("architecture", ["llama", "olmo2", "qwen2", "gemma2", "gpt_neox"])
def test_only_what_the_branches_add_at_the_captions_positions_is_dropped(
    architecture: str, tmp_path: Path
) -> None:
    language = loaded(architecture, tmp_path)
    dropout = ResponseDropout(language, 0.3)
    ids = torch.tensor([[5, 80, 31, 7, 9, 60], [8, 3, 90, 14, 33, 50]])
    plain = last(language, ids)
    rows, positions = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 4, 5, 4])
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def before(_module: Any, _args: Any, output: Any) -> None:
        seen.append((output if isinstance(output, torch.Tensor) else output[0],) * 2)

    def after(_module: Any, _args: Any, output: Any) -> None:
        seen[-1] = (seen[-1][0], output if isinstance(output, torch.Tensor) else output[0])

    handles = [module.register_forward_hook(before) for module in dropout._modules]
    with dropout.on(rows, positions, [(0, 1), (0, 2)]):
        handles += [module.register_forward_hook(after) for module in dropout._modules]
        dropped = last(language, ids)
    for handle in handles:
        handle.remove()
    assert len(seen) == 2 * language.num_layers
    kept = torch.cat([(new / old)[rows, positions].flatten() for old, new in seen])
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / 0.7))
    assert 0.2 < float((kept == 0).float().mean()) < 0.4
    # Visual tokens and the prompt, before the caption, are as they were.
    assert torch.equal(dropped[0, :3], plain[0, :3])
    assert torch.equal(dropped[1, :4], plain[1, :4])
    assert not torch.allclose(dropped[0, 3], plain[0, 3])
    assert torch.equal(last(language, ids), plain)
    with dropout.on(rows[:3], positions[:3], [(0, 1)]):  # a row alone loses the same values
        alone = last(language, ids[:1])
    torch.testing.assert_close(alone, dropped[:1])


def test_blocks_that_add_in_another_way_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train without"):
        ResponseDropout(loaded("mamba", tmp_path), 0.1)
