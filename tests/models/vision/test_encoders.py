"""Vision encoders from transformers: layers, CLS, boxes in the original image, fingerprints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from latentbank.errors import LayerNotFound, ModelError
from latentbank.models.vision.encoders import load_encoder
from tests.tiny import save_tiny

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
_CROPPED = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
_SQUARE = {"size": {"height": 24, "width": 24}}


def save_encoder(path: Path, family: str, seed: int = 0) -> str:
    """Write a tiny random encoder with its image processor."""
    torch.manual_seed(seed)
    processor: Any
    if family == "clip":
        config: Any = transformers.CLIPConfig(
            text_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 50,
            },
            vision_config=_SIZES,
        )
        model: Any = transformers.CLIPModel(config)
        processor = transformers.CLIPImageProcessorPil(**_CROPPED)
    elif family == "siglip":
        config = transformers.SiglipConfig(
            text_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 50,
            },
            vision_config=_SIZES,
        )
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessorPil(**_SQUARE)
    elif family == "dinov2":
        config = transformers.Dinov2Config(
            **{key: _SIZES[key] for key in _SIZES if key != "intermediate_size"}
        )
        model = transformers.Dinov2Model(config)
        processor = transformers.BitImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 24, "width": 24}
        )
    else:
        config = transformers.Dinov2WithRegistersConfig(
            num_register_tokens=4, **{key: _SIZES[key] for key in _SIZES if key != "intermediate_size"}
        )
        model = transformers.Dinov2WithRegistersModel(config)
        processor = transformers.BitImageProcessorPil(**_CROPPED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.3)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


FAMILIES = ("clip", "siglip", "dinov2", "registers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("encoders")
    return {family: save_encoder(root / family, family) for family in FAMILIES}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def load(name: str, **options: Any) -> Any:
    return load_encoder(name, device="cpu", dtype="float32", **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_features_are_transformers_own_hidden_states(family: str, layer: int, saved: dict[str, str]) -> None:
    images = [noise(24, 24, 1), noise(24, 24, 2)]
    encoder = load(saved[family], layer=layer)
    assert encoder.grid == (4, 4)
    assert encoder.features == 16
    got = encoder.encode(images)
    assert got.shape == (2, 16, 16)
    assert got.dtype == torch.float32
    model = transformers.AutoModel.from_pretrained(saved[family]).eval()
    model = getattr(model, "vision_model", model)
    processor = transformers.AutoImageProcessor.from_pretrained(saved[family], backend="pil")
    taken: list[torch.Tensor] = []
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    if layer == 0:
        blocks[0].register_forward_pre_hook(lambda _m, args: taken.append(args[0]))
    else:
        place = blocks[layer - 1 if layer > 0 else layer]
        place.register_forward_hook(lambda _m, _a, out: taken.append(out if torch.is_tensor(out) else out[0]))
    with torch.no_grad():
        model(**processor(images=images, return_tensors="pt"))
    before = {"clip": 1, "siglip": 0, "dinov2": 1, "registers": 5}[family]
    torch.testing.assert_close(got, taken[0][:, before:], atol=1e-4, rtol=1e-4)
    if before:
        with_cls = load(saved[family], layer=layer, cls=True).encode(images)
        torch.testing.assert_close(with_cls, torch.cat([taken[0][:, :1], got], dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(24, 24), (96, 24), (30, 200), (300, 131), (5, 7)])
def test_a_changed_box_moves_its_token_most(
    family: str, size: tuple[int, int], saved: dict[str, str]
) -> None:
    """At layer 0 a token depends on its own patch alone, so only tokens whose boxes are changed may move."""
    encoder = load(saved[family], layer=0)
    boxes = encoder.boxes(size)
    assert boxes.shape == (16, 4)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= size[0]
    assert boxes[:, 3].max() <= size[1]
    # The tokens' boxes tile the part of the image that the encoder gets.
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    visible = (boxes[:, 2].max() - boxes[:, 0].min()) * (boxes[:, 3].max() - boxes[:, 1].min())
    assert areas.sum() == pytest.approx(visible, rel=1e-3)
    if min(size) < 24:
        return  # patches are smaller than a pixel, so one patch cannot be changed alone
    plain = Image.new("RGB", size, (90, 120, 150))
    for token in (0, 6, 15):
        changed = plain.copy()
        left, top, right, bottom = boxes[token].round().astype(int)
        changed.paste((250, 10, 10), (left, top, right, bottom))
        moved = (encoder.encode([changed]) - encoder.encode([plain])).norm(dim=-1)[0]
        assert int(moved.argmax()) == token
        rows, columns = np.divmod(np.arange(16), 4)
        far = (abs(rows - token // 4) > 1) | (abs(columns - token % 4) > 1)
        assert float(moved[torch.from_numpy(far)].max()) < 0.02 * float(moved[token])


def test_what_is_cropped_is_in_no_box(saved: dict[str, str]) -> None:
    boxes = load(saved["clip"]).boxes((96, 24))
    assert (boxes[:, 0].min(), boxes[:, 2].max()) == (36, 60)
    inside = load(saved["dinov2"]).boxes((32, 32))  # the middle 24 of 32 pixels are used
    assert (inside.min(), inside.max()) == (4, 28)
    whole = load(saved["siglip"]).boxes((96, 24))
    assert (whole[:, 2].max(), whole[:, 3].max()) == (96, 24)
    cls = load(saved["clip"], cls=True).boxes((96, 24))
    assert cls[0].tolist() == [36, 0, 60, 24]
    assert len(cls) == 17


def test_fingerprints_tell_encoders_layers_and_preprocessing_apart(
    saved: dict[str, str], tmp_path: Path
) -> None:
    first = load(saved["clip"]).fingerprint()
    assert first == load(saved["clip"]).fingerprint()
    other = save_encoder(tmp_path / "other", "clip", seed=1)
    larger = save_encoder(tmp_path / "larger", "clip")
    settings = Path(larger) / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"shortest_edge": 24', '"shortest_edge": 32'))
    prints = {
        first,
        load(saved["clip"], layer=-1).fingerprint(),
        load(saved["clip"], cls=True).fingerprint(),
        load(other).fingerprint(),
        load(larger).fingerprint(),
    }
    assert len(prints) == 5


def test_wrong_encoders_are_refused(saved: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(LayerNotFound, match="0 to 3"):
        load(saved["clip"], layer=4)
    with pytest.raises(LayerNotFound, match="0 to 3"):
        load(saved["clip"], layer=-5)
    with pytest.raises(ModelError, match="no CLS"):
        load(saved["siglip"], cls=True)
    with pytest.raises(ModelError):
        load(str(save_tiny(tmp_path / "llm")))
    with pytest.raises(ModelError):
        load(str(tmp_path / "nothing"))


def test_the_demos_encoder_has_a_name_too() -> None:
    encoder = load_encoder("efficientnet-lite0")
    assert (encoder.name, encoder.grid, encoder.features) == ("EfficientNet-Lite0", (7, 7), 1728)
    assert load_encoder(encoder.name).fingerprint() == encoder.fingerprint()


def test_an_encoder_whose_grid_follows_the_image_is_refused(saved: dict[str, str], tmp_path: Path) -> None:
    """Without a centre crop DINOv2 takes an image of any shape; its tokens would be drawn where they do not look."""
    path = shutil.copytree(saved["dinov2"], tmp_path / "uncropped")
    settings = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**settings, "do_center_crop": False}))
    encoder = load(str(path))
    square, wide = Image.new("RGB", (64, 64)), Image.new("RGB", (128, 64))
    assert len(encoder.encode([square])[0]) == len(encoder.boxes(square.size))
    with pytest.raises(ModelError, match="keeps an image's shape, so its grid is not fixed"):
        encoder.encode([wide])
