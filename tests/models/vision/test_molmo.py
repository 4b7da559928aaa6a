"""Molmo, on a stand-in: the rule follows the positions that its processor gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbank.errors import QueryError
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.vision_language import VisionLanguageModel, load_vision_language_model
from tests.models.tiny_vlm import Family
from tests.models.vision import oracle
from tests.models.vision.molmo import save_stand_in

CASE = oracle.Case(Family("Molmo", {}, ("", {}), shown="<im_patch>"), together=False)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    path = save_stand_in(tmp_path_factory.mktemp("molmo") / "molmo")
    return load_vision_language_model(str(path), device="cpu")


@pytest.mark.parametrize("size", oracle.SIZES)
def test_tokens_look_where_their_boxes_say(vlm: VisionLanguageModel, size: tuple[int, int]) -> None:
    oracle.check(vlm, CASE, [size], inside=2, outside=1)


def test_the_whole_image_comes_first_then_a_grid_of_all_crops(vlm: VisionLanguageModel) -> None:
    (tokens,) = vlm.visual_tokens([oracle.picture((900, 600), 0)], [0])
    assert vlm.geometry == "exact, molmo"
    assert tokens.tiles.tolist() == sorted(tokens.tiles.tolist())
    whole, stitched = ((tokens.tiles == tile) for tile in (0, 1))
    assert set(tokens.columns[whole]) == set(range(12))
    assert set(tokens.rows[whole]) == set(range(2, 10))  # the others are padding
    order = list(zip(tokens.rows[stitched], tokens.columns[stitched], strict=True))
    assert order == sorted(order)
    for tile in (whole, stitched):
        boxes = tokens.boxes[tile]
        np.testing.assert_allclose([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)], [0, 0, 900, 600])
        sides = boxes[:, 2:] - boxes[:, :2]
        assert float(sides.prod(axis=1).sum()) == pytest.approx(900 * 600, rel=1e-4)


def test_images_of_a_batch_are_read_as_if_alone(vlm: VisionLanguageModel) -> None:
    images = [oracle.picture(size, 0) for size in ((300, 200), (900, 600))]
    for image, tokens in zip(images, vlm.visual_tokens(images, [0, 4]), strict=True):
        (alone,) = vlm.visual_tokens([image], [0, 4])
        np.testing.assert_array_equal(tokens.boxes, alone.boxes)
        for layer in (0, 4):
            torch.testing.assert_close(tokens.states[layer], alone.states[layer], rtol=1e-4, atol=1e-5)


def test_the_language_model_is_the_one_loaded_alone(vlm: VisionLanguageModel) -> None:
    alone = load_language_model(vlm.name, device="cpu", deepest_layer=1)
    assert vlm.fingerprint() == alone.fingerprint()


def test_images_belong_before_the_text(vlm: VisionLanguageModel) -> None:
    images = [oracle.picture((60, 40), 0)] * 2
    with pytest.raises(QueryError, match="takes images before all text: put <im_patch> at the beginning"):
        vlm.visual_tokens(images[:1], [0], prompt="What is <im_patch>?")
    with pytest.raises(QueryError, match="which image is not known: use a prompt with one image"):
        vlm.visual_tokens(images, [0], prompt="<im_patch><im_patch> Compare.")
