"""Which models' visual tokens can be read, by their configuration; the others are refused in one line that says why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from latentbank.errors import ModelError
from latentbank.models.language.explaining import plain_errors
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.vision_language import load_vision_language_model
from tests.models.oracles.qwen import CASES
from tests.models.tiny_vlm import FAMILIES, Family, save_tiny_vlm
from tests.models.vision.test_vision_language import noise, unknown

_CROSS = "through cross-attention, so none of the tokens in its sequence is visual"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mllama": ("MllamaConfig", {}, _CROSS),
    "blip-2": ("Blip2Config", {}, "puts the image's tokens before every prompt"),
    "instructblip": ("InstructBlipConfig", {}, "puts the image's tokens before every prompt"),
    "clip": ("CLIPConfig", {}, "takes images, but neither transformers nor the model's own code has a class"),
    "colqwen2": (
        "ColQwen2Config",
        {},
        "takes images, but neither transformers nor the model's own code has a class",
    ),
    "whisper": ("WhisperConfig", {}, "it takes sound and text, no images"),
    "llama": ("LlamaConfig", {}, "it takes text alone, no images"),
    "audioflamingo3": ("AudioFlamingo3Config", {}, "it takes sound and text, no images"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_is_refused_before_its_weights_are_read(tmp_path: Path, kind: str) -> None:
    config_class, settings, why = REFUSED[kind]
    getattr(transformers, config_class)(**settings).save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ModelError) as caught:
        load_vision_language_model(str(tmp_path))
    assert why in str(caught.value)
    assert f"its type is {kind}" in str(caught.value)


CODE = """from transformers import LlavaConfig, LlavaForConditionalGeneration


class OwnConfig(LlavaConfig):
    model_type = "own"


class OwnForCausalLM(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


@pytest.mark.parametrize("auto_class", ["AutoModelForCausalLM", "AutoModel"])
def test_code_that_names_no_class_for_images_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auto_class: str
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))  # transformers adds the folder of modules
    path = save_tiny_vlm(tmp_path / f"own{auto_class}", "llava")
    theirs = load_vision_language_model(str(path), device="cpu").visual_tokens([noise((40, 40))], [0, 2])[0]
    (path / "own.py").write_text(CODE)
    weights = load_file(path / "model.safetensors")  # whose names transformers changes for its own LLaVA
    weights["lm_head.weight"] = weights.pop("language_model.lm_head.weight")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", auto_class: "own.OwnForCausalLM"},
    }
    (path / "config.json").write_text(json.dumps(config))
    vlm = load_vision_language_model(str(path), device="cpu", trust_remote_code=True)
    (ours,) = vlm.visual_tokens([noise((40, 40))], [0, 2])
    assert unknown(ours, 36)
    torch.testing.assert_close(ours.states[2], theirs.states[2])
    with pytest.raises(ModelError, match="comes with code of its own"):
        load_vision_language_model(str(path), device="cpu")


@pytest.mark.parametrize("kind", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_an_omni_model_is_its_part_that_reads(tmp_path: Path, kind: str) -> None:
    path = save_tiny_vlm(tmp_path / kind, CASES[f"{kind}_thinker"].family)
    part = load_vision_language_model(str(path), device="cpu")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({"model_type": kind, "thinker_config": config}))
    weights = load_file(path / "model.safetensors")
    named = {f"thinker.{name}": weight for name, weight in weights.items()}
    save_file(named, path / "model.safetensors", {"format": "pt"})
    vlm = load_vision_language_model(str(path), device="cpu")
    (ours,), (theirs,) = (model.visual_tokens([noise((80, 50))], [0, 2]) for model in (vlm, part))
    torch.testing.assert_close(ours.states[2], theirs.states[2])
    assert ours.geometry == f"exact, {kind}_thinker"
    assert vlm.fingerprint() == load_language_model(str(path), device="cpu").fingerprint()
    assert vlm.unembedding().logits(ours.states[2]).shape[0] == len(ours)


def test_a_llava_processor_of_old_files_gets_the_models_patch_size(tmp_path: Path) -> None:
    old = Family(**{**vars(FAMILIES["llava"]), "processor": {}})
    path = save_tiny_vlm(tmp_path / "old", old)
    assert "patch_size" not in json.loads((path / "processor_config.json").read_text())
    whole = load_vision_language_model(str(save_tiny_vlm(tmp_path / "new", "llava")), device="cpu")
    vlm = load_vision_language_model(str(path), device="cpu")
    (ours,), (theirs,) = (model.visual_tokens([noise((80, 50))], [0]) for model in (vlm, whole))
    torch.testing.assert_close(ours.states[0], theirs.states[0])
    assert (ours.boxes == theirs.boxes).all()


@pytest.mark.parametrize("package", ["torchvision", "torchaudio", "timm", "mistral-common"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is transformers' own."""
    from transformers.utils import import_utils

    _, text = import_utils.BACKENDS_MAPPING[package]
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, package, (lambda: False, text))
    needing = type("Needing", (), {"_backends": [package]})
    with (
        pytest.raises(ModelError, match=rf"needs {package}: pip install 'latentbank\[vision\]'"),
        plain_errors("m"),
    ):
        import_utils.requires_backends(needing, [package])


def test_a_torchvision_that_does_not_fit_its_torch() -> None:
    with pytest.raises(ModelError, match="does not fit the installed torch"), plain_errors("m"):
        raise RuntimeError("operator torchvision::nms does not exist")
