"""Models on real machines: spread over devices, quantized, with adapters, on Apple's GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from latentbank.errors import ModelError
from latentbank.models.composite.projector import Projector, save_projector
from latentbank.models.language import devices
from latentbank.models.language.devices import bfloat16_hint, choose_device, choose_dtype, spread
from latentbank.models.language.layout import decoder_of
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.language.unembedding import load_unembedding, unembedding_of_language
from latentbank.models.vision.encoders import load_encoder
from latentbank.models.vision.vision_language import VisionLanguageModel, load_vision_language_model
from latentbank.models.visual import load_visual_model
from tests.models.tiny_vlm import save_tiny_vlm
from tests.models.vision.test_encoders import save_encoder
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

IDS = [[11, 12, 13, 14, 15, 16, 17]]
# bitsandbytes' CPU code takes widths that are multiples of 64.
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def states_of(model: LanguageModel, layer: int) -> torch.Tensor:
    return model.hidden_states(IDS, [layer])[0][layer]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((1 - torch.cosine_similarity(a.double(), b.double(), dim=-1)).max())


# --- device="auto" --------------------------------------------------------------------------------


def test_auto_without_a_gpu_is_the_cpu(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path))
    plain, auto = load_language_model(path, device="cpu"), load_language_model(path, device="auto")
    if not torch.cuda.is_available():
        assert auto.device == torch.device("cpu")
        assert torch.equal(states_of(auto, 4), states_of(plain, 4))
        assert torch.equal(
            load_unembedding(path, device="auto").head.weight, load_unembedding(path).head.weight
        )


def test_what_bfloat16_would_give_is_said_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    has = {"_is_amx_tile_supported": True, "_is_avx512_bf16_supported": True}
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    for question, answer in has.items():
        monkeypatch.setattr(torch.cpu, question, lambda answer=answer: answer, raising=False)
    assert "with AMX" in str(bfloat16_hint(None, cpu))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    said = bfloat16_hint("auto", cpu)
    assert said is not None
    assert "with AVX512_BF16" in said
    assert "\n" not in said
    assert [bfloat16_hint(asked, cpu) for asked in ("float32", torch.bfloat16)] == [None, None]
    assert bfloat16_hint(None, gpu) is None
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert bfloat16_hint(None, cpu) is None
    assert [choose_dtype("auto", device) for device in (cpu, gpu)] == [torch.float32, torch.bfloat16]


def test_a_model_is_spread_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map alone is looked at: there are no GPUs here."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(accelerate, "dispatch_model", lambda _model, places: found.update(places))
    model = tiny_model("llama").model
    block = sum(weight.numel() * 4 for weight in model.layers[0].parameters())
    rest = model.embed_tokens.weight.numel() * 4
    spread(model, {0: rest + 3 * block, 1: int(1.5 * block), "cpu": 1 << 40})
    places = {name: place for name, place in found.items() if name.startswith("layers.")}
    assert found["embed_tokens"] == 0
    assert set(places.values()) == {0, 1, "cpu"}
    assert sorted(places) == [f"layers.{number}" for number in range(4)]
    spread(model, {0: block // 2, "cpu": 1 << 40})
    assert found["embed_tokens"] == 0  # although it does not fit: lenses read it


@pytest.mark.parametrize("tied", [False, True])
def test_blocks_that_wait_in_the_cpus_memory(tied: bool, tmp_path: Path) -> None:
    """As `spread` leaves those that fit on no GPU: the model holds no weights for them but while they run."""
    path = str(save_tiny(tmp_path, tie_word_embeddings=tied))
    plain = load_language_model(path, device="cpu")
    decoder = AutoModelForCausalLM.from_pretrained(path).model.eval().requires_grad_(False)
    for block in decoder.layers:
        accelerate.cpu_offload(block, execution_device=torch.device("cpu"))
    model = LanguageModel(path, decoder, tiny_tokenizer(), num_layers=4)
    assert next(decoder.layers[0].parameters()).is_meta
    for layer in (0, 2, 4, 1):
        torch.testing.assert_close(states_of(model, layer), states_of(plain, layer))
    assert model.packs
    assert model.fingerprint() == plain.fingerprint()
    assert model.parameters_to(3) == plain.parameters_to(3)
    states = states_of(plain, 4)
    torch.testing.assert_close(
        unembedding_of_language(model).logits(states), unembedding_of_language(plain).logits(states)
    )
    assert next(decoder.layers[3].parameters()).is_meta  # they wait again


def test_a_whole_model_that_waits_in_the_cpus_memory(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path))
    decoder = AutoModelForCausalLM.from_pretrained(path).model.eval().requires_grad_(False)
    accelerate.cpu_offload(decoder, execution_device=torch.device("cpu"))
    model = LanguageModel(path, decoder, tiny_tokenizer(), num_layers=4)
    assert model.device == torch.device("cpu")
    torch.testing.assert_close(states_of(model, 4), states_of(load_language_model(path, device="cpu"), 4))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_vision_language_model_that_waits_in_the_cpus_memory(family: str, tmp_path: Path) -> None:
    path = str(save_tiny_vlm(tmp_path, family))
    plain = load_vision_language_model(path, device="cpu")
    whole = AutoModelForImageTextToText.from_pretrained(path).eval().requires_grad_(False)
    accelerate.cpu_offload(whole, execution_device=torch.device("cpu"))
    language = LanguageModel(path, decoder_of(whole), plain.language.tokenizer, num_layers=4)
    model = VisionLanguageModel(whole, plain.processor, language)
    image = [Image.new("RGB", (48, 40), "red")]
    (got,), (expected,) = model.visual_tokens(image, [0, 2, 4]), plain.visual_tokens(image, [0, 2, 4])
    for layer in (0, 2, 4):
        torch.testing.assert_close(got.states[layer], expected.states[layer])
    torch.testing.assert_close(
        model.unembedding().logits(got.states[4]), plain.unembedding().logits(expected.states[4])
    )


# --- quantized ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load_in", "most"), [("4bit", 0.1), ("8bit", 0.01)])
def test_quantized_weights(load_in: str, most: float, tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path, **WIDE))
    plain = load_language_model(path, device="cpu")
    model = load_language_model(path, device="cpu", load_in=load_in)
    part = load_language_model(path, device="auto", load_in=load_in, deepest_layer=2)
    assert (part.loaded_layers, part.num_layers, part.dtype) == (2, 4, torch.float32)
    assert "bnb" in type(model.decoder.layers[0].mlp.up_proj).__module__ or "bitsandbytes" in str(
        type(model.decoder.layers[0].mlp.up_proj)
    )
    assert model.parameters_to(3) == plain.parameters_to(3)
    assert torch.equal(states_of(model, 0), states_of(plain, 0))  # the embedding is not quantized
    for layer in (1, 2, 4):
        assert 0 < far(states_of(model, layer), states_of(plain, layer)) < most
    assert far(states_of(part, 2), states_of(model, 2)) < 1e-6
    states = states_of(plain, 4)
    torch.testing.assert_close(
        unembedding_of_language(model).logits(states), load_unembedding(path, device="cpu").logits(states)
    )


def test_a_quantized_vision_language_model(tmp_path: Path) -> None:
    path = str(save_tiny_vlm(tmp_path, "llava", **WIDE))
    plain = load_vision_language_model(path, device="cpu")
    model = load_visual_model(path, device="cpu", load_in="8bit", deepest_layer=2)
    got, expected = states_of(model.language, 2), states_of(plain.language, 2)
    assert 0 < far(got, expected) < 0.01
    logits = model.unembedding().logits(expected)
    torch.testing.assert_close(logits, plain.unembedding().logits(expected), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(save_tiny(tmp_path))
    with pytest.raises(ModelError, match="'2bit' is not a way to load weights: use 4bit, 8bit") as caught:
        load_language_model(path, device="cpu", load_in="2bit")
    assert caught.value.argument == "load_in"
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes: pip install 'latentbank\[quantized\]'"):
        load_language_model(path, device="cpu", load_in="4bit")


# --- adapters -------------------------------------------------------------------------------------


def save_adapter(model: PreTrainedModel, path: Path, **settings: Any) -> tuple[str, PreTrainedModel]:
    """Write a random adapter of a model; return its folder and the model with its changes added."""
    targets = {"target_modules": ["q_proj", "up_proj"], **settings}
    adapted = get_peft_model(model, LoraConfig(r=4, **targets))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    adapted.save_pretrained(path)
    return str(path), adapted.merge_and_unload().eval()


@pytest.mark.parametrize("deepest", [None, 2])
def test_an_adapter_is_added_to_the_weights(deepest: int | None, tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "model"))
    adapter, merged = save_adapter(AutoModelForCausalLM.from_pretrained(path), tmp_path / "adapter")
    model = load_language_model(path, device="cpu", adapter=adapter, deepest_layer=deepest)
    assert model.adapter == adapter
    with torch.inference_mode():
        expected = merged(torch.tensor(IDS), output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(states_of(model, 2), expected, rtol=1e-4, atol=1e-4)
    plain = load_language_model(path, device="cpu")
    assert far(states_of(plain, 2), expected) > 1e-3
    assert model.fingerprint() != plain.fingerprint()
    assert (model.identity().adapter, plain.identity().adapter) == ("adapter", "")


def test_an_adapter_of_the_unembedding(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "model"))
    adapter, merged = save_adapter(
        AutoModelForCausalLM.from_pretrained(path), tmp_path / "adapter", target_modules=["lm_head"]
    )
    model = load_language_model(path, device="cpu", adapter=adapter)
    with torch.inference_mode():
        expected = merged(torch.tensor(IDS)).logits[0]
    logits = unembedding_of_language(model).logits(states_of(model, 4))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_a_vision_language_model(tmp_path: Path) -> None:
    path = str(save_tiny_vlm(tmp_path / "vlm", "llava"))
    whole = AutoModelForImageTextToText.from_pretrained(path)
    adapter, merged = save_adapter(whole, tmp_path / "adapter", target_modules=r".*language_model.*\.q_proj")
    model = load_visual_model(path, device="cpu", adapter=adapter, deepest_layer=2)
    with torch.inference_mode():
        expected = merged(torch.tensor(IDS), output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(states_of(model.language, 2), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_on_quantized_weights(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "model", **WIDE))
    adapter, merged = save_adapter(AutoModelForCausalLM.from_pretrained(path), tmp_path / "adapter")
    model = load_language_model(path, device="cpu", adapter=adapter, load_in="8bit")
    with torch.inference_mode():
        expected = merged(torch.tensor(IDS), output_hidden_states=True).hidden_states[2][0]
    assert far(states_of(model, 2), expected) < 0.01


def test_composite_models_may_be_quantized_and_take_no_adapter(tmp_path: Path) -> None:
    llm = load_language_model(save_tiny(tmp_path / "llm", tie_word_embeddings=True, **WIDE), device="cpu")
    encoder = load_encoder(save_encoder(tmp_path / "clip", "clip"), device="cpu")
    card = {
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint(), "layer": -2, "cls": False},
        "llm": {"name": llm.name, **llm.identity().to_dict()},
    }
    file = tmp_path / "projector.safetensors"
    save_projector(file, Projector("linear", encoder.features, 64), card)
    image = [Image.new("RGB", (48, 40), "red")]
    (plain,) = load_visual_model(file, device="cpu").visual_tokens(image, [2])
    quantized = load_visual_model(file, device="auto", load_in="8bit")
    (got,) = quantized.visual_tokens(image, [2])
    assert 0 < far(got.states[2], plain.states[2]) < 0.01
    assert quantized.captions(image, most=2)
    with pytest.raises(ModelError, match="trained for its LLM without an adapter"):
        load_visual_model(file, device="cpu", adapter=str(tmp_path))


def test_adapters_that_do_not_belong(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "model"))
    wider = tiny_model("llama", **WIDE)
    adapter, _ = save_adapter(wider, tmp_path / "wide")
    with pytest.raises(ModelError, match=r"size mismatch|does not belong"):
        load_language_model(path, device="cpu", adapter=adapter)
    fewer, _ = save_adapter(tiny_model("llama", num_hidden_layers=2), tmp_path / "fewer")
    with pytest.raises(
        ModelError, match=r"does not belong to .*: it has no weights for .*layers.2"
    ) as caught:
        load_language_model(path, device="cpu", adapter=fewer)
    assert caught.value.argument == "adapter"
    with pytest.raises(ModelError, match=r"holds no adapter_config.json, so there is no adapter in it"):
        load_language_model(path, device="cpu", adapter=path)
    with pytest.raises(ModelError, match="There is no adapter at"):
        load_language_model(path, device="cpu", adapter=str(tmp_path / "none"))
    save_adapter(AutoModelForCausalLM.from_pretrained(path), tmp_path / "alone")
    with pytest.raises(ModelError, match=f"holds an adapter, not a model: load its model, {path}, with this"):
        load_language_model(str(tmp_path / "alone"), device="cpu")


# --- Apple's GPU ----------------------------------------------------------------------------------


def test_apples_gpu_is_chosen_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no GPU of Apple's for the device mps"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device(None) == choose_device("auto") == choose_device("mps") == torch.device("mps")
    for new, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_, new=new: new)
        assert choose_dtype(None, torch.device("mps")) == dtype
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(None) == torch.device("cuda")
