"""Text around an image: the hidden states of prompt and answer equal those of the whole sequence run once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latentbank.errors import ModelError, QueryError
from latentbank.models.vision.vision_language import VisionLanguageModel, load_vision_language_model
from tests.models.tiny_vlm import save_tiny_vlm

# A decoder with positions of its own, one that adds between blocks, newlines in the image, and two whose masks depend
# on what is prompt and what is answer.
NAMES = ("qwen2_5_vl", "qwen3_vl", "llava_next", "paligemma", "gemma3")
LAYERS = (0, 1, 2, 3)

Load = Callable[[str], VisionLanguageModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root, loaded = tmp_path_factory.mktemp("answers"), dict[str, VisionLanguageModel]()

    def get(name: str) -> VisionLanguageModel:
        if name not in loaded:
            path = save_tiny_vlm(root / name, name)
            loaded[name] = load_vision_language_model(str(path), device="cpu")
        return loaded[name]

    return get


def image(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def decoded(vlm: VisionLanguageModel, picture: Image.Image, most: int) -> tuple[list[int], dict[int, Tensor]]:
    """Return what transformers' own decoding writes, and the states that enter each block, step by step."""
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image."}]}],
        add_generation_prompt=True,
    )
    inputs = vlm.processor(images=[[picture]], text=[text], return_tensors="pt")
    inputs = {key: value for key, value in inputs.items() if key not in ("labels", "num_crops")}
    steps: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    hooks = [
        vlm.language._blocks[layer].register_forward_pre_hook(
            lambda _block, args, kwargs, layer=layer: steps[layer].append(
                (args[0] if args else kwargs["hidden_states"])[0]
            ),
            with_kwargs=True,
        )
        for layer in LAYERS
    ]
    forbidden = [[vlm._token_id]]
    try:
        output = vlm.model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=most + 1, do_sample=False, bad_words_ids=forbidden, eos_token_id=None
        )
    finally:
        for hook in hooks:
            hook.remove()
    ids = output[0].tolist()[:-1]  # the last token was written, but never run
    return ids, {layer: torch.cat(states) for layer, states in steps.items()}


@pytest.mark.parametrize("name", NAMES)
def test_text_has_the_states_of_the_whole_sequence(load: Load, name: str) -> None:
    vlm = load(name)
    picture = image()
    tokens = vlm.tokens_with_text(picture, LAYERS, answer=5)
    assert tokens.text is not None
    assert tokens.positions is not None
    ids, states = decoded(vlm, picture, 5)
    assert len(ids) == len(states[0])
    assert tokens.text.ids.tolist() == [ids[at] for at in tokens.text.positions]
    assert tokens.text.answer.tolist() == [at >= len(ids) - 5 for at in tokens.text.positions]
    assert {ids[at] for at in tokens.positions} == {vlm._token_id}
    for layer in LAYERS:
        for found, positions in (
            (tokens.text.states, tokens.text.positions),
            (tokens.states, tokens.positions),
        ):
            torch.testing.assert_close(
                found[layer], states[layer][torch.from_numpy(positions)], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("name", NAMES)
def test_the_text_changes_no_visual_token(load: Load, name: str) -> None:
    vlm = load(name)
    picture = image((120, 80))
    (alone,) = vlm.visual_tokens([picture], LAYERS)
    told = vlm.tokens_with_text(picture, LAYERS)
    assert told.boxes.tolist() == alone.boxes.tolist()
    assert told.text is not None
    assert not told.text.answer.any()
    for layer in LAYERS:
        torch.testing.assert_close(told.states[layer], alone.states[layer], atol=1e-5, rtol=1e-5)


def test_newlines_of_an_image_are_no_text(load: Load) -> None:
    vlm = load("llava_next")
    told = vlm.tokens_with_text(image(), [0])
    assert told.text is not None
    assert told.positions is not None
    assert vlm._token_id not in told.text.ids
    length = int(max(told.text.positions[-1], told.positions[-1])) + 1
    newlines = length - len(told) - len(told.text)
    assert newlines == told.rows[told.tiles == 1].max() + 1  # one for each row of the stitched view


def test_an_answer_ends_before_the_token_that_ends_it(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = load("llava_next")
    whole = vlm.tokens_with_text(image(), [1], answer=6).text
    assert whole is not None
    written = whole.of_answer().ids.tolist()
    assert len(written) == 6
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [written[3]])
    cut = vlm.tokens_with_text(image(), [1], answer=6).text
    assert cut is not None
    assert cut.of_answer().ids.tolist() == written[: written.index(written[3])]


def test_a_model_cut_after_its_deepest_layer_cannot_answer(tmp_path: Path) -> None:
    path = save_tiny_vlm(tmp_path / "cut", "llava")
    vlm = load_vision_language_model(str(path), device="cpu", deepest_layer=1)
    told = vlm.tokens_with_text(image(), [1])  # the prompt's text needs no more layers than its image
    assert told.text is not None
    assert told.text.states[1].shape == (len(told.text), vlm.hidden_size)
    with pytest.raises(ModelError, match=r"in part, 2 of its 4 layers.* without deepest_layer"):
        vlm.tokens_with_text(image(), [1], answer=3)


def test_a_prompt_of_two_images(load: Load) -> None:
    with pytest.raises(QueryError, match="2 times <image>"):
        load("llava_next").tokens_with_text(image(), [0], "<image><image> Which?")
