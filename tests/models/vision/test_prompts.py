"""The prompt around an image, with chat templates of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentbank.models.vision.prompts import default_prompt
from latentbank.models.vision.vision_language import VisionLanguageModel, load_vision_language_model
from tests.models.tiny_vlm import save_tiny_vlm
from tests.query.patch_vlm import picture

PARTS = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
TEXT = "{% for m in messages %}{{ 'USER: ' + m['content'] + ' ' }}{% endfor %}ASSISTANT:"
TRIMMED = "{% for m in messages %}{{ 'USER: ' + m['content'].strip() }}{% endfor %}"
PRINTED = "{% for m in messages %}USER: {{ m['content'] }}{% endfor %}"
OWN_IMAGE = "{% for m in messages %}USER: <image> {{ m['content'] }}{% endfor %}"
REFUSES = "{{ raise_exception('Only text is supported') }}"
BROKEN = "{% for m in messages %}"


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    path = save_tiny_vlm(tmp_path_factory.mktemp("prompts") / "llava", "llava")
    return load_vision_language_model(str(path), device="cpu")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (PARTS, "<image>Describe this image."),
        (TEXT, "USER: <image>\nDescribe this image. ASSISTANT:"),
        (TRIMMED, "USER: <image>\nDescribe this image."),
        (PRINTED, "USER: <image>\nDescribe this image."),
        (OWN_IMAGE, "USER: <image> Describe this image."),
        (REFUSES, "<image>\nDescribe this image."),
        (BROKEN, "<image>\nDescribe this image."),
        ({"default": PARTS, "tool_use": REFUSES}, "<image>Describe this image."),
        ({"tool_use": REFUSES}, "<image>\nDescribe this image."),
        (None, "<image>\nDescribe this image."),
    ],
)
def test_every_template_gives_a_prompt_with_the_image_once(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, template: object, prompt: str
) -> None:
    monkeypatch.setattr(vlm.processor, "chat_template", template)
    monkeypatch.setattr(vlm.processor.tokenizer, "chat_template", None)
    assert vlm._default_prompt() == prompt
    (tokens,) = vlm.visual_tokens([picture()], [0])
    assert len(tokens)


def test_a_template_that_takes_no_image_is_told_once(
    vlm: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(vlm.processor, "chat_template", REFUSES)
    for _ in range(2):
        default_prompt(str(tmp_path), vlm.processor, "<image>", "image", "What?")
    (message,) = caplog.messages
    assert message.endswith("takes no image; the prompt is '<image>\\nWhat?'.")
