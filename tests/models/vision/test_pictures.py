"""Pictures as the paper's encoders get them: resampling, padding, marks and boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from latentbank.errors import ModelError
from latentbank.models.vision.encoders import load_encoder
from latentbank.models.vision.pictures import Pictures, fit_positions
from tests.models.vision.test_encoders import noise, save_encoder

HALF = (0.5, 0.5, 0.5)
PADDED = Pictures(24, "padded", "bilinear", True, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def resampling(old: int, new: int, kernel: str, antialias: bool) -> NDArray[np.float64]:
    """Return the matrix [new, old] of a resampling with PyTorch's and torchvision's kernels, by their definition."""
    stretch = max(1.0, old / new) if antialias else 1.0
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    reach = {"bilinear": 1, "bicubic": 2}[kernel] * stretch
    for row, centre in enumerate(centres):
        for place in range(int(np.floor(centre - reach)), int(np.ceil(centre + reach)) + 1):
            x = abs(place - centre) / stretch
            if kernel == "bilinear":
                weight = max(0.0, 1 - x)
            else:
                a = -0.5 if antialias else -0.75
                near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
                weight = near if x < 1 else far if x < 2 else 0.0
            if antialias and not 0 <= place < old:
                continue  # without it the pixels at the edge go on
            matrix[row, min(max(place, 0), old - 1)] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


def resized(image: Image.Image, width: int, height: int, kernel: str, antialias: bool) -> NDArray[np.float64]:
    """Return an image of another size, [height, width, 3] float64 up to 255."""
    values = np.asarray(image, np.float64)
    down = resampling(image.height, height, kernel, antialias)
    across = resampling(image.width, width, kernel, antialias)
    return np.einsum("yh,hwc,xw->yxc", down, values, across)


@pytest.mark.parametrize("size", [(48, 20), (13, 40), (24, 24), (301, 200)])
def test_a_padded_picture_keeps_its_shape_between_black(size: tuple[int, int]) -> None:
    image = noise(*size)
    (pixels,) = PADDED.pixels([image])
    wide, high = (int(np.float32(side) * np.float32(24 / max(size))) for side in size)
    expected = np.zeros((24, 24, 3))
    top, left = (24 - high) // 2, (24 - wide) // 2
    expected[top : top + high, left : left + wide] = resized(image, wide, high, "bilinear", True) / 255
    expected = (expected - PADDED.mean) / PADDED.std
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("kernel", "antialias"), [("bicubic", True), ("bilinear", False)])
@pytest.mark.parametrize("size", [(48, 20), (13, 40)])
def test_a_squeezed_picture_fills_the_square(size: tuple[int, int], kernel: str, antialias: bool) -> None:
    image = noise(*size)
    (pixels,) = Pictures(24, "squeezed", kernel, antialias, HALF, HALF).pixels([image])
    whole = (pixels.permute(1, 2, 0).numpy() + 1) * 127.5
    np.testing.assert_allclose(whole, whole.round(), atol=1e-3)  # rounded as a picture's values are
    expected = resized(image, 24, 24, kernel, antialias).clip(0, 255)
    assert np.abs(whole - expected).max() <= 0.501


def test_marks_and_boxes_of_padding() -> None:
    """Of 24 rows the picture has 9, from the eighth on: rows of patches of 6 are padding, partly shown, partly shown,
    padding; and every box is the part of the image that its patch shows."""
    size = (80, 30)
    marks = PADDED.marks(size, (4, 4)).reshape(4, 4, 2)
    assert marks[:, 0].tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert torch.equal(marks, marks[:, :1].expand(4, 4, 2))
    left, top, right, bottom = PADDED.visible_part(size)
    assert (left, right) == (0, 80)
    assert (top, bottom) == pytest.approx((-7 * 30 / 9, 17 * 30 / 9))
    assert not PADDED.marks((50, 50), (4, 4)).any()


def test_an_encoder_of_padded_pictures_marks_padding_and_leaves_it_out_of_boxes(tmp_path: Path) -> None:
    name = save_encoder(tmp_path / "clip", "clip")
    plain = load_encoder(name, layer=(2, 1), device="cpu", dtype="float32")
    encoder = load_encoder(name, layer=(-2, -3), pictures=PADDED, device="cpu", dtype="float32")
    assert (plain.features, encoder.features) == (32, 34)
    single = [load_encoder(name, layer=layer, device="cpu", dtype="float32") for layer in (2, 1)]
    both = torch.cat([one.encode([noise(24, 24)]) for one in single], dim=-1)
    torch.testing.assert_close(plain.encode([noise(24, 24)]), both)
    image = noise(80, 30)
    found = encoder.encode([image])
    assert torch.equal(found[0, :, 32:], PADDED.marks(image.size, (4, 4)))
    boxes = encoder.boxes(image.size)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert ((areas == 0) == found[0, :, 32].bool().numpy()).all()
    assert areas.sum() == pytest.approx(80 * 30)
    settings = encoder.settings()
    assert settings["layer"] == [2, 1]
    again = load_encoder(
        name,
        layer=settings["layer"],
        pictures=Pictures.from_dict(settings["pictures"]),
        device="cpu",
        dtype="float32",
    )
    assert again.fingerprint() == encoder.fingerprint()
    assert len({encoder.fingerprint(), plain.fingerprint(), *(one.fingerprint() for one in single)}) == 4


def test_pictures_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ModelError, match="'stretched': use padded, squeezed"):
        Pictures(24, "stretched", "bilinear", True, HALF, HALF)
    with pytest.raises(ModelError, match="cannot be read"):
        Pictures.from_dict({"size": 24, "mean": [0, 0, 0]})


def test_positions_of_dinov2_are_those_of_its_own_code(tmp_path: Path) -> None:
    """Its grid is scaled to a tenth of a patch more than asked for, about which the scale of a cubic then depends."""
    import transformers

    model = transformers.AutoModel.from_pretrained(save_encoder(tmp_path / "dino", "dinov2"))
    old = model.embeddings.position_embeddings.detach().clone()
    fit_positions(model, 4)
    assert torch.equal(model.embeddings.position_embeddings, old)
    fit_positions(model, 3)
    new = model.embeddings.position_embeddings[0]
    assert torch.equal(new[0], old[0, 0])
    centres = (np.arange(3) + 0.5) * 4 / 3.1 - 0.5
    for row, y in enumerate(centres):
        for column, x in enumerate(centres):
            across, down = (cubic(place) for place in (x, y))
            grid = old[0, 1:].numpy().reshape(4, 4, -1)
            expected = np.einsum("y,x,yxc->c", down, across, grid)
            np.testing.assert_allclose(new[1 + 3 * row + column].numpy(), expected, atol=1e-5)


def cubic(centre: float) -> NDArray[np.float64]:
    """Return the weights of four places, [4], by PyTorch's cubic kernel; the places at the edge go on."""
    weights = np.zeros(4)
    for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
        x, a = abs(place - centre), -0.75
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
        weights[min(max(place, 0), 3)] += near if x < 1 else far if x < 2 else 0.0
    return weights
