"""Every family of vision-language models: cut after a layer, its visual tokens are those of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.utils.import_utils import is_torchvision_available

from latentbank.errors import ModelError
from tests.models.vision import oracle

CASES = oracle.cases()
# Cases whose sizes are for layer 0 alone.
LAYER_0 = {"kimi_k25"}
# Cases whose logits depend on the outputs of several blocks.
NO_LOGITS = {"inkling2"}
SOME = ("gemma4", "qwen3_vl")  # embeddings of each block; visual features that are added between blocks


def marked(name: str) -> object:
    marks = [] if name in SOME else [pytest.mark.oracle]
    if not CASES[name].pillow and not is_torchvision_available():
        marks.append(pytest.mark.skip(reason="torchvision is missing"))
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in CASES if name not in LAYER_0])
def test_visual_tokens_and_logits_of_cut_models(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    image = oracle.picture(min(case.sizes, key=lambda size: size[0] * size[1]), seed=0)
    with oracle.backend("pillow" if case.pillow else "torchvision"):
        whole = oracle.load(case, tmp_path / "vlm", None)
        last, prompt = whole.num_layers, oracle._prompt(case, 1)
        (expected,) = whole.visual_tokens([image], range(last + 1), prompt)
        some = expected.states[last][:20]
        for deepest in range(last):
            cut = oracle.load(case, tmp_path / "vlm", deepest)
            (got,) = cut.visual_tokens([image], range(deepest + 1), prompt)
            for layer, state in got.states.items():
                size = float(expected.states[layer].abs().max())
                torch.testing.assert_close(state, expected.states[layer], rtol=1e-4, atol=1e-5 * size)
            if name in NO_LOGITS:
                with pytest.raises(ModelError, match="depend on more than its last block's output"):
                    cut.unembedding().logits(some[:1])
            else:
                logits = whole.unembedding().logits(some)
                torch.testing.assert_close(cut.unembedding().logits(some), logits)
                torch.testing.assert_close(whole.unembedding().logits(some[:1]), logits[:1])
