"""What every family does beside placing tokens: states as transformers gives them, alone, in a batch, and cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils.import_utils import is_torchvision_available

from latentbank.models.language.model import load_language_model
from latentbank.models.vision.vision_language import VisionLanguageModel
from tests.models.oracles import squares, tiles
from tests.models.vision import oracle

# Two that take long at their real sizes, with smaller ones: fewer tiles, a smaller square.
SMALLER = {
    "perception_lm": ({"max_num_tiles": 2}, {}),
    "chameleon": (
        {"size": {"shortest_edge": 128}, "crop_size": {"height": 128, "width": 128}},
        {"image_seq_length": 64},
    ),
}


def smaller(name: str, case: oracle.Case) -> oracle.Case:
    """Return a case with what `SMALLER` says of it."""
    images, processor = SMALLER.get(name, ({}, {}))
    kind, settings = case.family.images
    family = replace(
        case.family, images=(kind, settings | images), processor=case.family.processor | processor
    )
    return replace(case, family=family)


CASES = {name: smaller(name, case) for name, case in {**squares.CASES, **tiles.CASES}.items()}
NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not case.pillow and not is_torchvision_available(), reason="torchvision is missing"
        ),
    )
    for name, case in CASES.items()
]
LAYERS = (0, 1, 2, 4)
FINAL_NORMS = ("norm", "final_layernorm", "embedding_norm")
IMAGES = [oracle.picture(size, seed) for seed, size in enumerate([(80, 50), (120, 200)])]


@pytest.fixture(scope="module", params=NAMES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    # Without attention in the vision tower, which takes long at the real sizes of images.
    path = tmp_path_factory.mktemp("family") / request.param
    return oracle.load(CASES[request.param], path, deepest_layer=None)


def test_hidden_states_are_transformers_own(vlm: VisionLanguageModel) -> None:
    if vlm.model.config.model_type == "phi4_multimodal":
        pytest.skip("its vision model breaks if transformers records the LLM's states")
    image = IMAGES[0]
    (tokens,) = vlm.visual_tokens([image], LAYERS)
    inputs = own_inputs(vlm, image)
    with torch.inference_mode():
        theirs = vlm.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        places = (inputs["input_ids"][0] == vlm._token_id).nonzero().flatten()
        (placed,) = vlm._placing.places([image.size], 0, inputs, len(places))
        here = places[torch.from_numpy(placed[0].visual)]
        for layer in LAYERS[:-1]:
            torch.testing.assert_close(tokens.states[layer], theirs[layer][0, here], rtol=1e-4, atol=1e-5)
        # transformers' states of the last layer are after the final norm.
        decoder: Any = vlm.language.decoder
        norm = next(module for name, module in decoder.named_modules() if name.split(".")[-1] in FINAL_NORMS)
        torch.testing.assert_close(norm(tokens.states[4]), theirs[4][0, here], rtol=1e-4, atol=1e-5)


def own_inputs(vlm: VisionLanguageModel, image: Image.Image) -> dict[str, Any]:
    """Return the processor's output for one image."""
    inputs = vlm.processor(
        images=[[image]],
        text=[vlm._default_prompt()],
        text_kwargs={"padding": True, "padding_side": "right"},
        return_tensors="pt",
    )
    return {
        key: value.float() if torch.is_floating_point(value) else value
        for key, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }


def test_images_of_a_batch_are_read_as_if_alone(vlm: VisionLanguageModel) -> None:
    for image, tokens in zip(IMAGES, vlm.visual_tokens(IMAGES, LAYERS), strict=True):
        (alone,) = vlm.visual_tokens([image], LAYERS)
        assert (tokens.boxes == alone.boxes).all()
        for layer in LAYERS:
            torch.testing.assert_close(tokens.states[layer], alone.states[layer], rtol=1e-4, atol=1e-5)


def test_two_images_in_a_prompt(vlm: VisionLanguageModel) -> None:
    case = CASES[vlm.model.config.model_type]
    if not case.together:
        pytest.skip("it takes one image in a prompt")
    shown = case.family.shown
    found = vlm.visual_tokens(IMAGES, [0], prompt=f"{shown} a picture, and then {shown} another")
    for image, tokens in zip(IMAGES, found, strict=True):
        (alone,) = vlm.visual_tokens([image], [0])
        assert (tokens.boxes == alone.boxes).all()
        torch.testing.assert_close(tokens.states[0], alone.states[0], rtol=1e-4, atol=1e-5)


def test_the_llm_alone_and_a_model_that_is_cut(vlm: VisionLanguageModel) -> None:
    alone = load_language_model(vlm.name, device="cpu", deepest_layer=1)
    assert vlm.fingerprint() == vlm.language.fingerprint() == alone.fingerprint()
    assert (vlm.num_layers, vlm.hidden_size) == (4, 32)
    ids, states = vlm.language.text_hidden_states("A dog runs.", [1])
    torch.testing.assert_close(states[1], alone.hidden_states([ids], [1])[0][1])
    cut = oracle.load(CASES[vlm.model.config.model_type], Path(vlm.name), deepest_layer=2)
    ours, theirs = (model.visual_tokens(IMAGES[:1], [0, 2])[0].states for model in (cut, vlm))
    for layer in (0, 2):
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-5, atol=1e-6)
    assert cut.fingerprint() == vlm.fingerprint()
