"""Videos: each token's box and seconds, asked of the model itself, and the states of the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils.import_utils import is_torchvision_available

from latentbank.errors import ImageError, ModelError, QueryError
from latentbank.models.vision.clips import Clip, open_clip
from latentbank.models.vision.tokens import VisualTokens
from latentbank.models.vision.vision_language import VisionLanguageModel, load_vision_language_model
from tests.models.tiny_vlm import TEMPLATE, TEXT, VIT, Family, save_tiny_vlm

needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="videos need torchvision")

_CLIP_VISION = {"model_type": "clip_vision_model", **VIT, "image_size": 28, "patch_size": 7}
VIDEO_LLAVA = Family(
    classes="VideoLlava",
    config={
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": _CLIP_VISION,
        "image_token_index": "<image>",
        "video_token_index": "<video>",
        "image_seq_length": 16,
        "video_seq_length": 17,
    },
    images=(
        "VideoLlavaImageProcessor",
        {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
    ),
    processor={
        "patch_size": 7,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    },
    tokens=("<image>", "<video>"),
)
# The video processor of each type, its settings, and the text that stands for a video.
_QWEN_SIZE = {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 40000}}
_QWEN_SHOWN = "<|vision_start|><|video_pad|><|vision_end|>"
VIDEOS: dict[str, tuple[str, dict[str, Any], str]] = {
    "qwen2_5_vl": ("Qwen2VLVideoProcessor", _QWEN_SIZE, _QWEN_SHOWN),
    "qwen3_vl": ("Qwen3VLVideoProcessor", _QWEN_SIZE, "<|video_pad|>"),
    "llava_onevision": ("LlavaOnevisionVideoProcessor", {"size": {"height": 26, "width": 26}}, "<video>"),
    "video_llava": (
        "VideoLlavaVideoProcessor",
        {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
        "<video>",
    ),
}
_FRAMES_OF_A_STEP = {"qwen2_5_vl": 2, "qwen3_vl": 2, "llava_onevision": 1, "video_llava": 1}

Load = Callable[[str], VisionLanguageModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a tiny model of a type, in which a patch of a frame sees itself alone."""
    root, loaded = tmp_path_factory.mktemp("video"), dict[str, VisionLanguageModel]()

    def get(name: str) -> VisionLanguageModel:
        if name not in loaded:
            path = save_tiny_vlm(root / name, VIDEO_LLAVA if name == "video_llava" else name)
            kind, settings, shown = VIDEOS[name]
            getattr(transformers, kind)(**settings).save_pretrained(path)
            video = "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'video' %}" + shown
            template = TEMPLATE.replace("{% if part['type'] == 'image' %}IMAGE", video)
            (path / "chat_template.jinja").write_text(template, encoding="utf-8")
            vlm = load_vision_language_model(str(path), device="cpu")
            _blind(vlm)
            loaded[name] = vlm
        return loaded[name]

    return get


def _blind(vlm: VisionLanguageModel) -> None:
    """Set the output of the vision encoder's attention to zero."""
    for key, module in vlm.model.named_modules():
        if ("vision" in key or "visual" in key or "tower" in key) and key.endswith(("out_proj", "attn.proj")):
            module.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))


def film(frames: int, size: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return frames of coarse random colours, which resizing does not average to grey."""
    cells = np.random.default_rng(seed).integers(0, 256, (frames, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.NEAREST)) for c in cells])


def read(vlm: VisionLanguageModel, frames: npt.NDArray[np.uint8]) -> VisualTokens:
    return vlm.video_tokens(open_clip(frames, len(frames), frame_rate=2.0), [0])


@needs_torchvision
@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("size", [(96, 64), (50, 130)])
def test_a_token_sees_its_box_in_its_seconds_and_nothing_else(
    load: Load, name: str, size: tuple[int, int]
) -> None:
    vlm = load(name)
    frames = film(5, size)
    before = read(vlm, frames)
    assert before.seconds is not None
    other = 255 - film(5, size)
    placed = np.flatnonzero(before.rows >= 0)
    for token in np.random.default_rng(1).choice(placed, 4, replace=False):
        start, end = before.seconds[token]
        # Frame n is seen from n / 2 to (n + 1) / 2 seconds.
        within = [n for n in range(5) if start <= n / 2 < end]
        assert within
        assert len(within) <= _FRAMES_OF_A_STEP[name]
        left, top, right, bottom = before.boxes[token]
        inside, margin = np.zeros((size[1], size[0]), bool), np.zeros((size[1], size[0]), bool)
        inside[round(top) : round(bottom), round(left) : round(right)] = True
        # Resizing and LLaVA-OneVision's pooling mix what lies beside a box into it.
        wide, high = (right - left) * 0.75 + 6, (bottom - top) * 0.75 + 6
        margin[max(0, int(top - high)) : int(bottom + high), max(0, int(left - wide)) : int(right + wide)] = (
            True
        )
        changed = frames.copy()
        changed[within] = np.where(inside[..., None], other[within], frames[within])
        moved = (read(vlm, changed).states[0] - before.states[0]).norm(dim=-1)
        assert moved[token] > 0.1 * moved.max()
        assert before.seconds[int(moved.argmax())].tolist() == [start, end]
        outside = np.where(margin[..., None], frames, other)
        outside[[n for n in range(5) if n not in within]] = other[[n for n in range(5) if n not in within]]
        still = (read(vlm, outside).states[0] - before.states[0]).norm(dim=-1)
        assert still[token] < 1e-4 * still.max()


@needs_torchvision
@pytest.mark.parametrize("name", VIDEOS)
def test_steps_follow_each_other_and_cover_the_video(load: Load, name: str) -> None:
    found = read(load(name), film(5, (96, 64)))
    assert found.seconds is not None
    steps = sorted(set(found.tiles.tolist()))
    merged = _FRAMES_OF_A_STEP[name]
    assert steps == list(range(-(-5 // merged)))
    spans = [sorted({tuple(span) for span in found.seconds[found.tiles == step].tolist()}) for step in steps]
    assert spans == [[(step * merged / 2, min(5, (step + 1) * merged) / 2)] for step in steps]
    assert found.size == (96, 64)


@needs_torchvision
@pytest.mark.parametrize("name", VIDEOS)
def test_frames_and_text_have_the_states_of_the_whole_sequence(load: Load, name: str) -> None:
    vlm = load(name)
    clip = open_clip(film(4, (60, 40)), 4, frame_rate=2.0)
    found = vlm.video_tokens(clip, [0, 2], answer=3)
    assert found.text is not None
    assert found.positions is not None
    assert found.text.answer.sum() == 3
    ids = np.zeros(int(max(found.text.positions[-1], found.positions[-1])) + 1, np.int64)
    token = vlm.model.config.video_token_id
    ids[:] = token
    ids[found.text.positions] = found.text.ids
    prompt = vlm.processor.tokenizer.decode(ids[ids != token][: len(found.text) - 3])
    assert "Describe this video." in prompt
    _, placeholder = VIDEOS[name][1], VIDEOS[name][2]
    inputs = vlm.processor(
        videos=[clip.images()],
        text=[placeholder + "Describe this video."],
        videos_kwargs={
            "video_metadata": [{"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3]}],
            "do_sample_frames": False,
        },
        return_tensors="pt",
    )
    assert inputs["input_ids"][0].tolist() == ids[:-3].tolist()
    inputs = {key: value for key, value in inputs.items() if key != "video_metadata"}
    caught: dict[int, torch.Tensor] = {}

    def keep(_block: Any, args: Any, kwargs: Any) -> None:
        caught[2] = (args[0] if args else kwargs["hidden_states"])[0]

    hook = vlm.language._blocks[2].register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        vlm.model(**inputs)
    hook.remove()
    told = ~found.text.answer
    for states, positions in (
        (found.states[2], found.positions),
        (found.text.states[2][torch.from_numpy(told)], found.text.positions[told]),
    ):
        torch.testing.assert_close(states, caught[2][torch.from_numpy(positions)], atol=1e-4, rtol=1e-4)


def test_a_model_without_videos_says_which_have_them(tmp_path: Path) -> None:
    vlm = load_vision_language_model(str(save_tiny_vlm(tmp_path / "llava", "llava")), device="cpu")
    with pytest.raises(ModelError, match=r"type is llava.*qwen2_5_vl.*video_llava"):
        read(vlm, film(2, (20, 20)))


@needs_torchvision
def test_a_prompt_without_the_video(load: Load) -> None:
    clip = open_clip(film(2, (40, 40)))
    with pytest.raises(QueryError, match="0 times <video>"):
        load("llava_onevision").video_tokens(clip, [0], "What happens?")


def test_frames_are_the_first_of_equal_parts() -> None:
    clip = open_clip(film(10, (20, 10)), 4, frame_rate=5)
    assert clip.indices == (0, 2, 5, 7)
    assert clip.starts.tolist() == [0, 0.4, 1.0, 1.4]
    assert (clip.end, clip.rate, clip.size) == (2.0, 5.0, (20, 10))
    assert [clip.span(at, at) for at in range(4)] == [(0, 0.4), (0.4, 1.0), (1.0, 1.4), (1.4, 2.0)]
    assert clip.span(1, 2) == (0.4, 1.4)
    assert len(open_clip(film(3, (20, 10)), 8).frames) == 3


def test_a_folder_of_frames(tmp_path: Path) -> None:
    frames = film(3, (20, 10))
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "notes.txt").write_text("no frame", encoding="utf-8")
    clip = open_clip(tmp_path, frame_rate=25)
    assert np.array_equal(clip.frames, frames)
    assert clip.end == pytest.approx(3 / 25)
    listed = open_clip([tmp_path / "01.png", Image.fromarray(frames[2])])
    assert np.array_equal(listed.frames, frames[1:])
    assert listed.starts.tolist() == [0, 1]


def test_a_video_file(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for shade in range(20):
            picture = Image.new("RGB", (64, 48), (shade * 12, 0, 0))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    clip = open_clip(path, 5)
    assert clip.indices == (0, 4, 8, 12, 16)
    np.testing.assert_allclose(clip.starts, [0, 0.4, 0.8, 1.2, 1.6], atol=1e-3)
    assert clip.end == pytest.approx(2.0, abs=1e-3)
    reds = clip.frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(reds, [0, 48, 96, 144, 192], atol=6)
    with pytest.raises(ImageError, match="says its frame rate itself"):
        open_clip(path, frame_rate=5)
    (tmp_path / "broken.mp4").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"broken\.mp4 cannot be read"):
        open_clip(tmp_path / "broken.mp4")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"array \[3, 8, 8\] of uint8"),
        (np.zeros((3, 8, 8, 3), np.float32), "of float32"),
        ([], "no frames"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], r"different sizes \(4 x 4, 5 x 4\)"),
        (7, "from int"),
        ("no such film.mp4", "does not exist|PyAV"),
    ],
)
def test_what_is_no_video(given: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_clip(given)


def test_numbers_of_frames_are_positive() -> None:
    for wrong in ({"frames": 0}, {"frame_rate": 0.0}):
        with pytest.raises(ImageError, match="at least 1 frame"):
            open_clip(film(2, (8, 8)), **wrong)


def test_a_clip_gives_its_frames_as_images() -> None:
    frames = film(2, (8, 6))
    clip = open_clip(frames)
    assert isinstance(clip, Clip)
    assert [np.asarray(image).tolist() for image in clip.images()] == frames.tolist()
