"""The control of a projector with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.models.language.model import LanguageModel
from latentbank.query.evaluation.controls import with_random_projector
from tests.query.pixels import pixel_vlm
from tests.query.scripted_vlm import ScriptedVLM

IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for seed in range(4)
]


@pytest.mark.parametrize("kind", ["linear", "mlp3"])
def test_only_the_weights_differ(tiny: LanguageModel, kind: str) -> None:
    vlm = pixel_vlm(tiny, kind)
    before = {name: tensor.clone() for name, tensor in vlm.projector.state_dict().items()}
    blind = with_random_projector(vlm, IMAGES)
    assert blind is not None
    assert (blind.encoder, blind.language) == (vlm.encoder, vlm.language)
    assert (blind.projector.kind, blind.projector.width) == (kind, vlm.projector.width)
    assert blind.fingerprint() == vlm.fingerprint()
    for name, tensor in vlm.projector.state_dict().items():
        assert torch.equal(tensor, before[name])
        if name.endswith("weight"):
            assert not torch.allclose(blind.projector.state_dict()[name], tensor, atol=1e-3)


def test_its_tokens_have_the_norms_of_text(tiny: LanguageModel) -> None:
    blind = with_random_projector(pixel_vlm(tiny), IMAGES)
    assert blind is not None
    states = torch.cat([tokens.states[0] for tokens in blind.visual_tokens(IMAGES, [0])])
    assert states.pow(2).mean().sqrt() == pytest.approx(float(tiny.embedding.pow(2).mean().sqrt()), rel=1e-3)


def test_it_is_the_same_for_the_same_seed_and_leaves_the_generator_alone(tiny: LanguageModel) -> None:
    vlm = pixel_vlm(tiny)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (with_random_projector(vlm, IMAGES, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert first is not None
    assert again is not None
    assert other is not None
    (tokens,), (same,), (different,) = (
        model.visual_tokens(IMAGES[:1], [0]) for model in (first, again, other)
    )
    assert torch.equal(tokens.states[0], same.states[0])
    assert not torch.allclose(tokens.states[0], different.states[0], atol=1e-2)


def test_there_is_no_control_without_a_projector(tiny: LanguageModel) -> None:
    assert with_random_projector(ScriptedVLM(tiny, [], lambda *_: "x"), IMAGES) is None
