"""Loading vision-language models by name, and the unembedding of the LLM in each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentbank.errors import ModelError
from latentbank.found_models import remember
from latentbank.identity import Identity
from latentbank.models.composite.projector import load_projector
from latentbank.models.language.model import load_language_model
from latentbank.models.language.unembedding import load_unembedding
from latentbank.models.vision.vision_language import VisionLanguageModel
from latentbank.models.visual import load_visual_model, unembedding_of
from tests.models.tiny_vlm import save_tiny_vlm
from tests.query.patch_vlm import PatchVLM, picture
from tests.tiny import save_tiny


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.allclose(a.float(), b.float(), atol=1e-4))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_composite_models_unembedding_is_that_of_its_llm(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    """This holds with softcaps, and with the LLM cut after its first block."""
    path = str(save_tiny(tmp_path / "llm", architecture, tie_word_embeddings=tied))
    language = load_language_model(path, deepest_layer=1)
    states = torch.randn(5, language.hidden_size, generator=torch.Generator().manual_seed(1)) * 3
    found = unembedding_of(PatchVLM(language))
    assert same(found.logits(states), load_unembedding(path).logits(states))
    if tied:  # nothing was loaded or copied for it
        head = found._model.get_output_embeddings().weight
        assert head.data_ptr() == language.embedding.data_ptr()


CODE = """from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaModel):
    config_class = OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.mark.parametrize("tied", [True, False])
def test_an_llm_with_code_of_its_own_is_trusted_for_its_unembedding_too(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))  # transformers adds the folder of modules
    expected = load_unembedding(str(save_tiny(tmp_path / f"own{tied}", "llama", tie_word_embeddings=tied)))
    path = Path(expected.name)
    (path / "own.py").write_text(CODE)
    config = json.loads((path / "config.json").read_text())
    classes = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    config |= {"model_type": "own", "auto_map": {auto: f"own.Own{name}" for auto, name in classes.items()}}
    (path / "config.json").write_text(json.dumps(config))
    language = load_language_model(str(path), trust_remote_code=True)
    assert type(language.decoder).__name__ == "OwnModel"
    states = torch.randn(3, language.hidden_size)
    assert same(unembedding_of(PatchVLM(language)).logits(states), expected.logits(states))


def test_a_vlm_gives_its_own(tmp_path: Path) -> None:
    vlm = load_visual_model(str(save_tiny_vlm(tmp_path / "vlm", "llava")), deepest_layer=2)
    assert isinstance(vlm, VisionLanguageModel)
    states = torch.randn(3, vlm.hidden_size)
    assert same(unembedding_of(vlm).logits(states), vlm.unembedding().logits(states))


@pytest.fixture
def projector(tmp_path: Path) -> Callable[..., str]:
    """Write a projector between a tiny CLIP and a tiny Llama, and return its path."""
    from latentbank.models.composite.projector import Projector, save_projector
    from latentbank.models.vision.encoders import load_encoder
    from tests.models.vision.test_encoders import save_encoder

    def write(**changed: Any) -> str:
        encoder = load_encoder(save_encoder(tmp_path / "clip", "clip"))
        language = load_language_model(str(save_tiny(tmp_path / "llm")))
        torch.manual_seed(0)
        made = Projector("mlp", encoder.features, language.hidden_size, 24)
        card = {
            "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint()},
            "llm": {"name": language.name, "fingerprint": language.fingerprint()},
        }
        path = tmp_path / "projector.safetensors"
        save_projector(path, made, {**card, **changed})
        return str(path)

    return write


def test_a_projectors_file_brings_its_encoder_and_llm(projector: Callable[..., str]) -> None:
    from latentbank.models.composite.model import CompositeVLM
    from latentbank.models.vision.encoders import load_encoder

    path = projector()
    model = load_visual_model(path, deepest_layer=lambda count: count // 2)
    assert isinstance(model, CompositeVLM)
    assert model.language.loaded_layers == 2
    trained, card = load_projector(path)
    by_hand = CompositeVLM(
        load_encoder(card["encoder"]["name"]), trained, load_language_model(card["llm"]["name"]), card
    )
    (tokens,), (expected,) = (m.visual_tokens([picture()], [0, 2]) for m in (model, by_hand))
    for layer in (0, 2):
        assert same(tokens.states[layer], expected.states[layer])
    states = tokens.states[2]
    assert same(unembedding_of(model).logits(states), load_unembedding(card["llm"]["name"]).logits(states))


def test_a_projectors_file_that_cannot_be_used(projector: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="names no encoder and LLM"):
        load_visual_model(projector(encoder=None))
    with pytest.raises(ModelError, match="There is no projector at"):
        load_visual_model(str(tmp_path / "none.safetensors"))
    save_tiny(tmp_path / "other", seed=4)
    other = load_language_model(str(tmp_path / "other"))
    with pytest.raises(ModelError, match="trained with the LLM"):
        load_visual_model(projector(llm={"name": other.name, "fingerprint": "0" * 32}))


def test_a_projector_of_another_machine_finds_its_models_beside_it(
    projector: Callable[..., str], tmp_path: Path
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    path = Path(projector())
    moved = path.rename(away / path.name)
    (tmp_path / "llm").rename(away / "llm")
    (tmp_path / "clip").rename(tmp_path / "elsewhere")
    with pytest.raises(
        ModelError,
        match=r"the local model clip, which this machine has not used yet, .*: put it beside that file\.$",
    ):
        load_visual_model(str(moved))
    (tmp_path / "elsewhere").rename(away / "clip")
    model = load_visual_model(str(moved))
    assert model.name == "clip + mlp + llm"


def test_a_projector_finds_the_models_that_this_machine_has_used(
    projector: Callable[..., str], tmp_path: Path
) -> None:
    path = projector()
    card = load_projector(path)[1]
    local = {
        part: {**card[part], "name": Path(card[part]["name"]).name, "local": True}
        for part in ("encoder", "llm")
    }
    path, there = projector(**local), tmp_path / "there"
    there.mkdir()
    for name in ("clip", "llm"):
        (tmp_path / name).rename(there / name)
    data_dir = tmp_path / "data"
    with pytest.raises(ModelError, match="local model llm, which this machine has not used yet"):
        load_visual_model(path, data_dir=data_dir)
    remember(data_dir, str(there / "llm"), load_language_model(there / "llm").identity())
    remember(data_dir, str(there / "clip"), Identity(card["encoder"]["fingerprint"]), "encoder")
    assert load_visual_model(path, data_dir=data_dir).name == "clip + mlp + llm"


def test_a_projector_of_an_llm_with_an_adapter(projector: Callable[..., str], tmp_path: Path) -> None:
    projector()
    identity = load_language_model(tmp_path / "llm").identity()
    assert identity.digests is not None
    other = replace(identity.digests, vocabulary="other", adapter="org/lora")
    llm = {"name": str(tmp_path / "llm"), "fingerprint": "0" * 32, "digests": other.to_dict()}
    message = (
        "does not belong to llm as it is loaded; the projector was trained with the adapter org/lora: load"
    )
    with pytest.raises(ModelError, match=message) as error:
        load_visual_model(projector(llm=llm))
    assert error.value.argument == "adapter"


def test_the_demo_runs_in_float32_only() -> None:
    with pytest.raises(ModelError, match="float32 only") as caught:
        load_visual_model("demo", dtype="bfloat16")
    assert caught.value.argument == "dtype"
