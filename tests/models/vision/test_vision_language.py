"""Vision-language models: visual tokens of every family, their boxes, and their hidden states by the convention."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.utils.import_utils import is_torchvision_available

from latentbank.errors import ImageError, LayerNotFound, ModelError, QueryError
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.geometry import Picture, Places, Unplaced, whole
from latentbank.models.vision.tokens import VisualTokens
from latentbank.models.vision.vision_language import VisionLanguageModel, load_vision_language_model
from tests.models.tiny_vlm import FAMILIES, save_tiny_vlm
from tests.tiny import save_tiny

ALL = tuple(FAMILIES)
STITCHED = ("llava_next", "llava_onevision")  # a newline token ends every row of tile 1
TILED = ("internvl", "idefics3", "smolvlm")
# Tokens of an image attend to other images here, or the prompt's other images change how an image is cropped.
TOGETHER_DIFFERS = ("paligemma", "molmo2", "llava_onevision")
SIZES = {
    "usual": (96, 64),
    "wide": (400, 31),
    "tall": (31, 400),
    "tiny": (3, 5),
    "one": (1, 1),
    "huge": (2500, 1700),
}
LAYERS = (0, 1, 2, 3, 4)

Load = Callable[[str], VisionLanguageModel]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a tiny model of a family, which is written once."""
    root = tmp_path_factory.mktemp("vlm")

    def made(name: str) -> Path:
        return root / name if (root / name).exists() else save_tiny_vlm(root / name, name)

    return made


@pytest.fixture(scope="session")
def load(directory: Callable[[str], Path]) -> Load:
    """Return a tiny model of a family, which is loaded once."""
    loaded: dict[str, VisionLanguageModel] = {}

    def get(name: str) -> VisionLanguageModel:
        if name not in loaded:
            loaded[name] = load_vision_language_model(str(directory(name)), device="cpu")
        return loaded[name]

    return get


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Return an image of coarse random colours, which resizing does not average to grey."""
    generator = np.random.default_rng(seed)
    cells = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)


def prepared(vlm: VisionLanguageModel, image: Image.Image) -> dict[str, Any]:
    """Return the processor's output for an image, without the keys that only training needs."""
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image."}]}],
        add_generation_prompt=True,
    )
    inputs = vlm.processor(images=[[image]], text=[text], return_tensors="pt")
    return {key: value for key, value in inputs.items() if key not in ("labels", "num_crops")}


def placeholders(vlm: VisionLanguageModel, inputs: dict[str, Any]) -> Tensor:
    config = vlm.model.config
    token = getattr(config, "image_token_id", None) or config.image_token_index
    return (inputs["input_ids"][0] == token).nonzero().flatten()


def tiles(tokens: VisualTokens) -> dict[int, np.ndarray]:
    """Return the boxes of each tile as a grid [rows, columns, 4]; check that no token is missing or out of order."""
    grids = {}
    for tile in dict.fromkeys(tokens.tiles.tolist()):
        inside = tokens.tiles == tile
        rows, columns = tokens.rows[inside], tokens.columns[inside]
        shape = (rows.max() + 1, columns.max() + 1)
        assert list(zip(rows, columns, strict=True)) == list(itertools.product(*map(range, shape)))
        grids[tile] = tokens.boxes[inside].reshape(*shape, 4)
    return grids


def hull(grid: np.ndarray) -> list[float]:
    return [grid[..., 0].min(), grid[..., 1].min(), grid[..., 2].max(), grid[..., 3].max()]


def area(grid: np.ndarray) -> float:
    return float(((grid[..., 2] - grid[..., 0]) * (grid[..., 3] - grid[..., 1])).sum())


def visual(tokens: VisualTokens, name: str) -> list[bool]:
    """Return for each image position of a family whether it is a visual token."""
    if name not in STITCHED:
        return [True] * len(tokens)
    found: list[bool] = []
    last = int(tokens.columns[tokens.tiles == 1].max())
    for tile, column in zip(tokens.tiles, tokens.columns, strict=True):
        found += [True, False] if tile == 1 and column == last else [True]
    return found


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ALL)
def test_boxes_cover_each_tile_without_overlap(load: Load, name: str, size: tuple[int, int]) -> None:
    vlm = load(name)
    (tokens,) = vlm.visual_tokens([noise(size)], [])
    assert vlm.geometry == f"exact, {name}"  # there are as many tokens as placeholders
    assert len(visual(tokens, name)) == len(placeholders(vlm, prepared(vlm, noise(size))))
    assert tokens.size == size
    assert tokens.boxes.dtype == np.float32
    for grid in tiles(tokens).values():
        assert (grid[..., 2] > grid[..., 0]).all()
        assert (grid[..., 3] > grid[..., 1]).all()
        np.testing.assert_allclose(grid[:, 1:, 0], grid[:, :-1, 2], rtol=1e-5)
        np.testing.assert_allclose(grid[1:, :, 1], grid[:-1, :, 3], rtol=1e-5)
        left, top, right, bottom = hull(grid)
        assert area(grid) == pytest.approx((right - left) * (bottom - top), rel=1e-4)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ALL)
def test_tile_0_is_the_whole_image_and_the_others_together_too(
    load: Load, name: str, size: tuple[int, int]
) -> None:
    (tokens,) = load(name).visual_tokens([noise(size)], [])
    grids = tiles(tokens)
    image = [0.0, 0.0, *size]
    if name == "llava":  # its processor crops a square from the middle
        side, left, top = min(size), (size[0] - min(size)) / 2, (size[1] - min(size)) / 2
        image = [left, top, left + side, top + side]
    # A crop starts at a whole pixel of the resized image.
    np.testing.assert_allclose(hull(grids.pop(0)), image, atol=max(size) / 24 if name == "llava" else 1e-4)
    if name in STITCHED:
        # Rows in the padding are dropped with rounding, so less than one row is lost on either side.
        left, top, right, bottom = hull(grids[1])
        height = (grids[1][..., 3] - grids[1][..., 1]).max()
        width = (grids[1][..., 2] - grids[1][..., 0]).max()
        assert max(left, size[0] - right) < width
        assert max(top, size[1] - bottom) < height
    elif grids:
        assert sum(map(area, grids.values())) == pytest.approx(size[0] * size[1], rel=1e-4)
        union = np.concatenate([grid.reshape(-1, 4) for grid in grids.values()])
        np.testing.assert_allclose(hull(union), image, atol=1e-3)


def changed(image: Image.Image, box: np.ndarray) -> Image.Image:
    """Return the image with inverted colours in the middle of a box."""
    pixels = np.array(image)
    left, top, right, bottom = (round(float(value)) for value in box)
    pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(192, 192), (288, 144), (96, 288)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("name", ALL)
def test_the_pixels_of_a_box_are_what_its_token_sees(load: Load, name: str, size: tuple[int, int]) -> None:
    vlm = load(name)
    image = noise(size)
    (before,) = vlm.visual_tokens([image], [0])
    probes = np.random.default_rng(0).permutation(len(before))[:12].tolist()
    after = vlm.visual_tokens([changed(image, before.boxes[probe]) for probe in probes], [0])
    for probe, tokens in zip(probes, after, strict=True):
        moved = (tokens.states[0] - before.states[0]).norm(dim=-1).numpy()
        centres = before.boxes.reshape(-1, 2, 2).mean(axis=1)
        far = np.linalg.norm(centres - centres[probe], axis=-1)
        assert moved[probe] > 0
        same = before.tiles == before.tiles[probe]
        farthest = np.where(same)[0][far[same].argmax()]
        assert moved[probe] > moved[farthest], (probe, before.boxes[probe])
        # No token of the tile moves more, near or far.
        assert np.where(same)[0][moved[same].argmax()] == probe


@pytest.mark.parametrize("name", ALL)
def test_layer_0_is_what_the_projector_gives(load: Load, name: str) -> None:
    vlm = load(name)
    image = noise((80, 50))
    (tokens,) = vlm.visual_tokens([image], [0])
    inputs = prepared(vlm, image)
    takes = inspect.signature(vlm.model.get_image_features).parameters
    with torch.inference_mode():
        given = {key: value for key, value in inputs.items() if key in takes}
        features = vlm.model.get_image_features(**given)
        features = getattr(features, "pooler_output", features)
        rows = torch.cat([part.reshape(-1, vlm.hidden_size) for part in features])
        if name == "molmo2":  # this family adds them to the placeholder's embedding
            rows = rows + vlm.model.get_input_embeddings()(inputs["input_ids"][0, placeholders(vlm, inputs)])
    kept = rows[torch.tensor(visual(tokens, name))]
    torch.testing.assert_close(tokens.states[0], kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_hidden_states_are_transformers_own(load: Load, name: str) -> None:
    vlm = load(name)
    image = noise((80, 50))
    (tokens,) = vlm.visual_tokens([image], LAYERS)
    inputs = prepared(vlm, image)
    with torch.inference_mode():
        theirs = vlm.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        here = placeholders(vlm, inputs)[torch.tensor(visual(tokens, name))]
        extra: dict[int, Tensor] = {}
        if name == "qwen3_vl":  # its blocks' outputs are recorded before visual features are added to them
            features = vlm.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
            extra = {
                number: torch.cat(list(x)) for number, x in enumerate(features.deepstack_features, start=1)
            }
            assert set(extra) == {1, 2}
        for layer in LAYERS[:-1]:
            expected = theirs[layer][0, here] + extra.get(layer, 0)
            torch.testing.assert_close(tokens.states[layer], expected, rtol=1e-4, atol=1e-5)
        # transformers' states of the last layer are after the final norm.
        normed = vlm.model.get_decoder().norm(tokens.states[4])
        torch.testing.assert_close(normed, theirs[4][0, here], rtol=1e-4, atol=1e-5)
    norms = tokens.norms(4)
    np.testing.assert_allclose(norms, tokens.states[4].norm(dim=-1), rtol=1e-5)
    assert norms.dtype == np.float32


@pytest.mark.parametrize("name", ALL)
def test_images_of_a_batch_are_read_as_if_alone(load: Load, name: str) -> None:
    vlm = load(name)
    images = [noise(size, seed) for seed, size in enumerate([(60, 40), (20, 90), (150, 150)])]
    together = vlm.visual_tokens(images, LAYERS)
    for image, tokens in zip(images, together, strict=True):
        (alone,) = vlm.visual_tokens([image], LAYERS)
        np.testing.assert_array_equal(tokens.boxes, alone.boxes)
        for layer in LAYERS:
            torch.testing.assert_close(tokens.states[layer], alone.states[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_several_images_in_one_prompt(load: Load, name: str) -> None:
    vlm = load(name)
    images = [noise(size, seed) for seed, size in enumerate([(60, 40), (20, 90), (100, 100), (90, 40)])]
    shown = FAMILIES[name].shown
    found = vlm.visual_tokens(images, [0, 4], prompt=f"{shown} a picture, and then {shown} another")
    assert [tokens.size for tokens in found] == [image.size for image in images]
    for number, (image, tokens) in enumerate(zip(images, found, strict=True)):
        (alone,) = vlm.visual_tokens([image], [0, 4])
        if name == "llava_onevision":  # each is padded to one square
            assert set(tokens.tiles.tolist()) == {0}
            np.testing.assert_allclose(hull(tokens.boxes), [0, 0, *image.size], atol=1e-4)
            continue
        np.testing.assert_array_equal(tokens.boxes, alone.boxes)
        torch.testing.assert_close(tokens.states[0], alone.states[0], rtol=1e-4, atol=1e-5)
        if name not in TOGETHER_DIFFERS:
            first = torch.allclose(tokens.states[4], alone.states[4], rtol=1e-4, atol=1e-5)
            assert first == (number % 2 == 0)  # the second image of a prompt attends to the first
    assert vlm.geometry == f"exact, {name}"


@pytest.mark.parametrize("name", ALL)
def test_the_language_model_is_the_one_loaded_alone(
    load: Load, directory: Callable[[str], Path], name: str
) -> None:
    vlm = load(name)
    alone = load_language_model(str(directory(name)), device="cpu", deepest_layer=1)
    assert vlm.fingerprint() == vlm.language.fingerprint() == alone.fingerprint()
    assert (vlm.num_layers, vlm.hidden_size, vlm.name) == (4, 32, alone.name)
    ids, states = vlm.language.text_hidden_states("A dog runs.", [1])
    torch.testing.assert_close(states[1], alone.hidden_states([ids], [1])[0][1])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "llava", "gemma3"])
def test_a_model_cut_after_its_deepest_layer(load: Load, directory: Callable[[str], Path], name: str) -> None:
    """Qwen3-VL adds visual features after blocks 1 and 2, also if block 2 is the last one loaded."""
    cut = load_vision_language_model(str(directory(name)), device="cpu", deepest_layer=2)
    image = noise((80, 50))
    ours, theirs = cut.visual_tokens([image], [0, 2]), load(name).visual_tokens([image], [0, 2])
    for layer in (0, 2):
        torch.testing.assert_close(ours[0].states[layer], theirs[0].states[layer], rtol=1e-5, atol=1e-6)
    assert cut.fingerprint() == load(name).fingerprint()
    with pytest.raises(LayerNotFound, match=r"Layer 3 of .* is not loaded, only 0 to 2: .*deepest_layer=3"):
        cut.visual_tokens([image], [3])


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_the_forward_stops_after_the_deepest_layer(load: Load, name: str) -> None:
    vlm = load(name)
    ran: list[int] = []
    decoder: Any = vlm.model.get_decoder()
    hooks = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(decoder.layers, start=1)
    ]
    hooks.append(vlm.model.get_output_embeddings().register_forward_hook(lambda *_: ran.append(-1)))
    try:
        vlm.visual_tokens([noise((40, 40))], [0, 2])
        assert ran == [1, 2]
        ran.clear()
        vlm.visual_tokens([noise((40, 40))], [4])
        assert ran == [1, 2, 3, 4]
    finally:
        for hook in hooks:
            hook.remove()


def test_llava_padded_to_a_square(load: Load, directory: Callable[[str], Path], tmp_path: Path) -> None:
    path = shutil.copytree(directory("llava"), tmp_path / "llava")
    file = path / "preprocessor_config.json"
    settings = json.loads(file.read_text()) | {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    file.write_text(json.dumps(settings))
    vlm = load_vision_language_model(str(path), device="cpu")
    (tokens,) = vlm.visual_tokens([noise((60, 30))], [0])
    # A square of 60 pixels in 6 rows, of which the upper and lower 15 pixels, one and a half rows, are padding: the
    # first and the last row show nothing of the image.
    boxes = tokens.boxes.reshape(4, 6, 4)
    np.testing.assert_allclose(boxes[:, 0, 1], [0, 5, 15, 25], atol=1e-4)
    np.testing.assert_allclose(boxes[:, 0, 3], [5, 15, 25, 30], atol=1e-4)
    assert tokens.rows.tolist() == sorted([1, 2, 3, 4] * 6)
    assert len(tokens.norms(0)) == 24
    assert vlm.geometry == "exact, llava"


def test_gemma_3_with_pan_and_scan(load: Load) -> None:
    vlm = load("gemma3")
    pans = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 32}
    before = vlm.processor.images_kwargs
    vlm.processor.images_kwargs = {**before, **pans}
    try:
        (tokens,) = vlm.visual_tokens([noise((200, 64))], [0])
        grids = tiles(tokens)
        assert list(grids) == [0, 1, 2, 3]
        assert [hull(grid) for grid in grids.values()] == [
            [0, 0, 200, 64],
            [0, 0, 67, 64],
            [67, 0, 134, 64],
            [134, 0, 200, 64],
        ]
        for size in [(64, 200), (64, 64), (40, 60), (70, 1000), (30, 200)]:
            vlm.visual_tokens([noise(size)], [])
        assert vlm.geometry == "exact, gemma3"
    finally:
        vlm.processor.images_kwargs = before


def unknown(tokens: VisualTokens, count: int) -> bool:
    """Return whether all tokens of an image have no place, and there are `count`."""
    return bool(
        len(tokens) == count
        and np.isnan(tokens.boxes).all()
        and (tokens.rows == -1).all()
        and (tokens.columns == -1).all()
        and (tokens.geometry or "").startswith("unknown")
    )


def test_without_rules_only_a_squeezed_image_has_places(
    load: Load,
    directory: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    exact = load("paligemma").visual_tokens([noise((60, 40))], [0])[0]
    monkeypatch.setattr("latentbank.models.vision.placing.places_of", lambda config: None)
    vlm = load_vision_language_model(str(directory("paligemma")), device="cpu")
    assert vlm.geometry == "exact, paligemma: the whole image is squeezed, a token for each patch"
    (tokens,) = vlm.visual_tokens([noise((60, 40))], [0])
    np.testing.assert_allclose(tokens.boxes, exact.boxes, atol=1e-4)
    torch.testing.assert_close(tokens.states[0], exact.states[0])
    two = vlm.visual_tokens([noise((60, 40)), noise((30, 30))], [], prompt="<image> and <image>")
    assert [tokens.boxes[-1, 2:].tolist() for tokens in two] == [[60, 40], [30, 30]]
    assert "is not known" not in caplog.text

    for name, count in {"qwen2_vl": 50, "llava": 36, "gemma3": 9}.items():
        with caplog.at_level(logging.WARNING):
            vlm = load_vision_language_model(str(directory(name)), device="cpu")
            for size in [(80, 40)] * 2:
                (tokens,) = vlm.visual_tokens([noise(size)], [0])
                assert unknown(tokens, count), name
        assert f"(type {name}) are in the image is not known" in caplog.text
    assert len(caplog.records) == 3  # each reason once, not with every image
    with pytest.raises(QueryError, match="belong to which image is not known: use a prompt with one image"):
        vlm.visual_tokens([noise((40, 40))] * 2, [0], prompt="<start_of_image> and <start_of_image>")


def test_one_image_that_breaks_the_rules_leaves_the_others_their_places(
    directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = load_vision_language_model(str(directory("llava")), device="cpu")
    right = vlm._placing.rule

    def rule(picture: Picture) -> Places:
        if picture.size == (60, 40):
            return whole(picture.size, 2, 3)
        if picture.size == (50, 40):
            raise Unplaced
        if picture.size == (40, 40):
            raise KeyError("margins")
        return right(picture)

    monkeypatch.setattr(vlm._placing, "rule", rule)
    sizes = [(60, 40), (50, 40), (40, 40), (30, 40)]
    with caplog.at_level(logging.WARNING):
        *three, last = vlm.visual_tokens([noise(size) for size in sizes], [0])
    reasons = ["does not follow the rules", "has settings that the rules", "fail (KeyError: 'margins')"]
    for tokens, reason in zip(three, reasons, strict=True):
        assert unknown(tokens, 36)
        assert reason in tokens.geometry
        assert caplog.text.count(reason) == 1
    assert last.geometry == vlm.geometry == "exact, llava"
    assert np.isfinite(last.boxes).all()


def test_a_text_model_takes_no_images(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "llama")
    with pytest.raises(
        ModelError, match=r"is not a vision-language model \(its type is llama\): it takes text"
    ):
        load_vision_language_model(str(path), device="cpu")


def test_a_prompt_without_the_image(load: Load) -> None:
    vlm = load("llava")
    with pytest.raises(QueryError, match="The prompt has no <image>: put one where"):
        vlm.visual_tokens([noise((40, 40))], [0], prompt="What is this?")
    with pytest.raises(QueryError, match="takes 2 images, and 3 is not a multiple of 2"):
        vlm.visual_tokens([noise((40, 40))] * 3, [0], prompt="<image> and <image>")


def test_images_that_no_model_takes(load: Load) -> None:
    vlm = load("qwen2_vl")
    with pytest.raises(ImageError, match="over 200 times as long as wide"):
        vlm.visual_tokens([Image.new("RGB", (900, 2))], [0])
    vast = Image.new("1", (20_000, 20_000))
    with pytest.raises(ImageError, match="20000 x 20000 pixels"):
        vlm.visual_tokens([vast], [0])


def test_an_image_that_the_model_fails_on(load: Load) -> None:
    """transformers' Mistral 3 fails on an image of a single token."""
    with pytest.raises(ModelError, match=r"mistral3 fails on these images: split_with_sizes"):
        load("mistral3").visual_tokens([noise((1, 1))], [0])


def test_images_are_brought_into_rgb(load: Load) -> None:
    vlm = load("llava")
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    white = Image.new("RGB", (40, 40), "white")
    ours, theirs = vlm.visual_tokens([clear, white], [0])
    torch.testing.assert_close(ours.states[0], theirs.states[0])


def test_layers_and_images_are_checked(load: Load) -> None:
    vlm = load("llava")
    with pytest.raises(LayerNotFound, match="has no layer 5: it has layers 0 to 4"):
        vlm.visual_tokens([noise((40, 40))], [5])
    assert vlm.visual_tokens([], [0]) == []
    (tokens,) = vlm.visual_tokens([noise((40, 40))], [3, 1, 3])
    assert list(tokens.states) == [1, 3]
    with pytest.raises(LayerNotFound, match="Layer 2 was not requested, only 1, 3"):
        tokens.norms(2)


def test_more_visual_tokens_than_positions(tmp_path: Path) -> None:
    vlm = load_vision_language_model(
        str(save_tiny_vlm(tmp_path / "llava", "llava", max_position_embeddings=32)), device="cpu"
    )
    with pytest.raises(ModelError, match=r"tokens, but .* has 32 positions: use smaller or fewer images"):
        vlm.visual_tokens([noise((40, 40))], [0])


def test_weights_missing_from_the_vision_tower(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_tiny_vlm(tmp_path / "llava", "llava")
    weights = load_file(path / "model.safetensors")
    name = next(key for key in weights if "multi_modal_projector" in key)
    save_file(
        {key: value for key, value in weights.items() if key != name},
        path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, .*multi_modal_projector"):
        load_vision_language_model(str(path), device="cpu")
    assert load_language_model(str(path), device="cpu").num_layers == 4


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm", "llava"])
def test_files_of_older_checkpoints(
    load: Load, directory: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """The image processor's file names the processor class, or no file does and the model's type decides."""
    path = shutil.copytree(directory(name), tmp_path / name)
    settings = json.loads((path / "processor_config.json").read_text())
    kind = settings.pop("processor_class")
    if name == "smolvlm":
        file = path / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"processor_class": kind}))
    if settings:
        (path / "processor_config.json").write_text(json.dumps(settings))
    else:
        (path / "processor_config.json").unlink()
    vlm = load_vision_language_model(str(path), device="cpu")
    image = noise((80, 50))
    (ours,), (theirs,) = vlm.visual_tokens([image], [2]), load(name).visual_tokens([image], [2])
    torch.testing.assert_close(ours.states[2], theirs.states[2])


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed, so nothing is missing")
def test_a_processor_that_needs_torchvision(directory: Callable[[str], Path], tmp_path: Path) -> None:
    path = shutil.copytree(directory("molmo2"), tmp_path / "molmo2")
    file = path / "preprocessor_config.json"
    settings = json.loads(file.read_text()) | {"image_processor_type": "Molmo2ImageProcessor"}
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"needs torchvision: pip install 'latentbank\[vision\]'"):
        load_vision_language_model(str(path), device="cpu")


def test_bfloat16(load: Load, directory: Callable[[str], Path]) -> None:
    half = load_vision_language_model(str(directory("qwen3_vl")), device="cpu", dtype="bfloat16")
    image = noise((80, 50))
    (ours,), (theirs,) = half.visual_tokens([image], [0, 2]), load("qwen3_vl").visual_tokens([image], [0, 2])
    assert ours.states[2].dtype == torch.bfloat16
    cosines = torch.cosine_similarity(ours.states[2].float(), theirs.states[2], dim=-1)
    assert cosines.min() > 0.99
    assert half.fingerprint() == load("qwen3_vl").fingerprint()
