"""Interventions in composite and in transformers' vision-language models: exact, row by row, and complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.errors import ModelError
from latentbank.models.language.intervening import NOTHING, Intervention
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.prompted import Prompted, prompted
from latentbank.models.vision.vision_language import load_vision_language_model
from tests.models.tiny_vlm import save_tiny_vlm
from tests.query.pixels import pixel_vlm

ANSWER = [264, 281, 262, 295]
# A composite model, one whose image attends to itself in both directions with windows, and one that adds visual
# features between blocks.
MODELS = ("composite", "gpt2", "llava", "gemma3", "qwen3_vl")
LAYERS = range(4)


@pytest.fixture(scope="module")
def vlms(saved: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: pixel_vlm(load_language_model(saved(architecture), device="cpu"))
        for name, architecture in (("composite", "llama"), ("gpt2", "gpt2"))
    }
    folder = tmp_path_factory.mktemp("vlms")
    for name in MODELS[2:]:
        path = save_tiny_vlm(folder / name, name)
        found[name] = load_vision_language_model(str(path), device="cpu")
    return found


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST)


def told(vlm: Any, seed: int = 0) -> Prompted:
    return prompted(vlm, picture(seed), LAYERS)


def places(given: Prompted) -> tuple[int, ...]:
    assert given.tokens.positions is not None
    return tuple(given.tokens.positions.tolist())


@pytest.mark.parametrize("name", MODELS)
def test_an_ablation_of_nothing_changes_nothing_to_the_last_bit(vlms: dict[str, Any], name: str) -> None:
    given = told(vlms[name])
    some = Intervention(places(given)[:2], 1, change=lambda layer, old: old * -3.0)
    plain = given.states(ANSWER, [NOTHING] * 3)
    mixed = given.states(ANSWER, [some, some.of_nothing(), NOTHING])
    assert torch.equal(mixed[1:], plain[1:])
    assert not torch.allclose(mixed[0], plain[0])
    cut = Intervention(places(given)[:2], 1, cut=True)
    plain_cut = given.states(ANSWER, [cut.of_nothing()] * 3)
    mixed = given.states(ANSWER, [cut.of_nothing(), cut, cut.of_nothing()])
    assert torch.equal(mixed[::2], plain_cut[::2])
    assert not torch.allclose(mixed[1], plain_cut[1])
    torch.testing.assert_close(plain_cut, plain, atol=1e-4, rtol=1e-4)  # the masks are those of the model


@pytest.mark.parametrize("name", MODELS)
def test_another_image_in_all_places_is_the_other_image(vlms: dict[str, Any], name: str) -> None:
    given, other = told(vlms[name]), told(vlms[name], seed=1)
    swap = Intervention(places(given), 0, change=lambda layer, old: other.tokens.states[layer])
    expected = other.states(ANSWER, [NOTHING] * 2)[0]
    swapped = given.states(ANSWER, [NOTHING, swap])
    torch.testing.assert_close(swapped[1], expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(swapped[0], expected, atol=1e-2)
    own, others = given.write(5, [NOTHING, swap])
    assert [own] == given.write(5, [NOTHING])
    assert [others] == other.write(5, [NOTHING])


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_at_all_visual_tokens_hides_the_image(vlms: dict[str, Any], name: str) -> None:
    blind = [
        given.states(ANSWER, [Intervention(places(given), 0, cut=True)])
        for given in (told(vlms[name]), told(vlms[name], seed=1))
    ]
    torch.testing.assert_close(blind[0], blind[1], atol=1e-5, rtol=1e-5)
    late = [
        given.states(ANSWER, [Intervention(places(given), 2, cut=True)])
        for given in (told(vlms[name]), told(vlms[name], seed=1))
    ]
    assert not torch.allclose(late[0], late[1], atol=1e-3)


def test_hidden_states_change_at_some_layers_only(vlms: dict[str, Any]) -> None:
    seen: list[int] = []

    def change(layer: int, old: torch.Tensor) -> torch.Tensor:
        seen.append(layer)
        return old

    told(vlms["composite"]).states(ANSWER, [Intervention((2,), 1, 2, change), NOTHING])
    assert seen == [1, 2]


def test_what_cannot_be_done_is_said(vlms: dict[str, Any], saved: Callable[[str], str]) -> None:
    given = told(vlms["llava"])
    with pytest.raises(ModelError, match="not while one is written"):
        given.write(3, [Intervention(places(given)[:1], 0, cut=True)])
    half = pixel_vlm(load_language_model(saved("llama"), device="cpu", deepest_layer=2))
    with pytest.raises(ModelError, match=r"loaded in part, 2 of its 4 layers.* without deepest_layer"):
        prompted(half, picture(0), LAYERS)
    with pytest.raises(ModelError, match="cannot be run with changed hidden states"):
        prompted(object.__new__(_Other), picture(0), LAYERS)  # type: ignore[arg-type]


class _Other:
    name = "other"
