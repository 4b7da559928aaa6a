"""Sound: the seconds of each token, asked of the model itself, and the states of the whole sequence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.utils.import_utils import is_torchaudio_available, is_torchvision_available

from latentbank.errors import ModelError, QueryError, SoundError
from latentbank.models.audio.sounds import RATE, Sound, open_sound
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.multimodal import Multimodal
from latentbank.models.vision.vision_language import load_vision_language_model
from latentbank.models.visual import load_visual_model, unembedding_of
from tests.models.oracles.qwen import CASES
from tests.models.tiny_vlm import TEMPLATE, TEXT, save_tiny_vlm
from tests.tekken import CONTROL, save_tekken
from tests.tiny import tiny_tokenizer

NAMES = ("qwen2_audio", "granite_speech", "qwen2_5_omni_thinker", "voxtral")
# How far before and after its seconds a token hears: the window of the spectrogram, and layers of convolution.
_MARGIN = {"qwen2_audio": 0.06, "granite_speech": 0.04, "qwen2_5_omni_thinker": 0.06, "voxtral": 0.06}
_ENCODER = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "d_model": 16}

Load = Callable[[str], Multimodal]


def _tokenizer(**named: str) -> PreTrainedTokenizerFast:
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    backend = tiny_tokenizer().backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=named, **ends)


def save_qwen2_audio(path: Path, **text: Any) -> None:
    """Save a tiny Qwen2-Audio; `text` are settings of its LLM."""
    tokenizer = _tokenizer(
        audio_token="<|AUDIO|>", audio_bos_token="<|audio_bos|>", audio_eos_token="<|audio_eos|>"
    )
    config = transformers.Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tokenizer), **text},
        audio_config={"model_type": "qwen2_audio_encoder", "num_mel_bins": 16, **_ENCODER},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(path)
    transformers.WhisperFeatureExtractor(feature_size=16).save_pretrained(path)
    _finish(path, tokenizer, "Qwen2AudioProcessor", "<|audio_bos|><|AUDIO|><|audio_eos|>")


def _save_granite_speech(path: Path) -> None:
    tokenizer = _tokenizer(audio_token="<|audio|>")
    config = transformers.GraniteSpeechConfig(
        text_config={"model_type": "granite", **TEXT, "vocab_size": len(tokenizer)},
        encoder_config={"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "output_dim": 12},
        projector_config={
            "model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 24, "encoder_hidden_size": 16,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
    )  # fmt: skip
    transformers.GraniteSpeechForConditionalGeneration(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "GraniteSpeechFeatureExtractor"}), encoding="utf-8"
    )
    _finish(path, tokenizer, "GraniteSpeechProcessor", "<|audio|>")


def _finish(path: Path, tokenizer: PreTrainedTokenizerFast, processor: str, shown: str) -> None:
    tokenizer.save_pretrained(path)
    settings = {"processor_class": processor}
    (path / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    _write_template(path, "IMAGE", shown)


def _write_template(path: Path, image: str, sound: str) -> None:
    both = "{% if part['type'] == 'image' %}" + image + "{% elif part['type'] == 'audio' %}" + sound
    template = TEMPLATE.replace("{% if part['type'] == 'image' %}IMAGE", both)
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")


def _save_omni(path: Path) -> None:
    save_tiny_vlm(path, CASES["qwen2_5_omni_thinker"].family)
    settings = json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))
    settings["feature_size"] = 128
    (path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    _write_template(path, "<|vision_bos|><|IMAGE|><|vision_eos|>", "<|audio_bos|><|AUDIO|><|audio_eos|>")


def save_voxtral(path: Path) -> None:
    """Save a tiny Voxtral, whose tokenizer is a `tekken.json`, as Mistral's repositories have it."""
    config = transformers.VoxtralConfig(
        text_config={"model_type": "llama", **TEXT, "vocab_size": save_tekken(path)},
        audio_config={
            "model_type": "voxtral_encoder", "num_mel_bins": 16, "hidden_size": 16, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2,
        },
        audio_token_id=CONTROL.index("[AUDIO]"),
    )  # fmt: skip
    transformers.VoxtralForConditionalGeneration(config).save_pretrained(path)
    transformers.WhisperFeatureExtractor(feature_size=16).save_pretrained(path)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a tiny model of a type, in whose encoder a frame hears itself alone."""
    root, loaded = tmp_path_factory.mktemp("audio"), dict[str, Multimodal]()
    save = dict(zip(NAMES, (save_qwen2_audio, _save_granite_speech, _save_omni, save_voxtral), strict=True))

    def get(name: str) -> Multimodal:
        if name == "granite_speech" and not is_torchaudio_available():
            pytest.skip("Granite Speech needs torchaudio")
        if name == "qwen2_5_omni_thinker" and not is_torchvision_available():
            pytest.skip("Qwen2.5-Omni needs torchvision")
        if name not in loaded:
            torch.manual_seed(0)
            save[name](root / name)
            vlm: Any = load_visual_model(root / name, device="cpu")
            _deafen(vlm)
            loaded[name] = vlm
        return loaded[name]

    return get


def _deafen(vlm: Multimodal) -> None:
    """Set to zero what the encoder mixes in from other frames: attention and, in Granite's, convolution."""
    for key, module in vlm.model.named_modules():
        tower = "audio_tower" in key and key.endswith("out_proj")
        if tower or ("encoder.layers" in key and key.endswith(("attn", "conv"))):
            module.register_forward_hook(
                lambda _module, _args, output: (
                    torch.zeros_like(output)
                    if isinstance(output, torch.Tensor)
                    else (torch.zeros_like(output[0]), *output[1:])
                )
            )


def noise(seconds: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return white noise, which is as loud everywhere: encoders take loudness relative to the loudest part."""
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))
    return samples.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [2.0, 3.37])
def test_a_token_hears_its_seconds_and_nothing_else(load: Load, name: str, length: float) -> None:
    vlm = load(name)
    samples, other = noise(length), noise(length, 1)
    before = vlm.audio_tokens(Sound("noise", samples), [0])
    assert before.seconds is not None
    assert before.seconds[0, 0] == 0
    assert before.seconds[-1, 1] <= length + 1e-5
    for token in np.random.default_rng(1).choice(len(before), 5, replace=False):
        start, end = (round(float(at) * RATE) for at in before.seconds[token])
        changed = samples.copy()
        changed[start:end] = other[start:end]
        moved = (vlm.audio_tokens(Sound("noise", changed), [0]).states[0] - before.states[0]).norm(dim=-1)
        assert moved[token] > 0.2 * moved.max()
        assert before.seconds[int(moved.argmax())].tolist() == before.seconds[token].tolist()
        margin = round(_MARGIN[name] * RATE)
        low, high = max(0, start - margin), end + margin
        outside = other.copy()
        outside[low:high] = samples[low:high]
        still = (vlm.audio_tokens(Sound("noise", outside), [0]).states[0] - before.states[0]).norm(dim=-1)
        assert still[token] < 1e-3 * still.max()


@pytest.mark.parametrize("name", NAMES)
def test_sound_and_text_have_the_states_of_the_whole_sequence(load: Load, name: str) -> None:
    vlm = load(name)
    samples = noise(1.2)
    found = vlm.audio_tokens(Sound("noise", samples), [0, 2], answer=3)
    assert found.text is not None
    assert found.positions is not None
    assert found.text.answer.sum() == 3
    token = vlm.model.config.audio_token_id
    placeholder = vlm.processor.tokenizer.convert_ids_to_tokens(token)
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Describe this sound."}]}],
        chat_template=vlm.processor.chat_template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert placeholder in text
    options = {"add_special_tokens": False}  # a template writes the BOS itself
    inputs = vlm.processor(text=[text], audio=[samples], text_kwargs=options, return_tensors="pt")
    ids = inputs["input_ids"][0]
    assert found.text.ids[~found.text.answer].tolist() == ids[ids != token].tolist()
    assert set(found.positions) <= set((ids == token).nonzero().flatten().tolist())
    caught: dict[int, torch.Tensor] = {}

    def keep(_block: Any, args: Any, kwargs: Any) -> None:
        caught[2] = (args[0] if args else kwargs["hidden_states"])[0]

    hook = vlm.language._blocks[2].register_forward_pre_hook(keep, with_kwargs=True)
    known = {k: v for k, v in inputs.items() if k not in ("num_audio_tokens", "audio_embed_sizes")}
    with torch.no_grad():
        vlm.model(**known)
    hook.remove()
    told = ~found.text.answer
    for states, positions in (
        (found.states[2], found.positions),
        (found.text.states[2][torch.from_numpy(told)], found.text.positions[told]),
    ):
        torch.testing.assert_close(states, caught[2][torch.from_numpy(positions)], atol=1e-4, rtol=1e-4)


def test_a_model_that_hears_is_no_vision_model(load: Load) -> None:
    vlm = load("qwen2_audio")
    assert "AudioLanguageModel" in repr(vlm)
    assert unembedding_of(vlm).vocab_size == vlm.language.vocab_size  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="sound and text, no images"):
        vlm.visual_tokens([], [0])  # type: ignore[attr-defined]
    with pytest.raises(QueryError, match=r"0 times <\|AUDIO\|>"):
        vlm.audio_tokens(Sound("noise", noise(1)), [0], "What is it?")


def test_sound_longer_than_a_model_hears(load: Load) -> None:
    with pytest.raises(SoundError, match=r"has 31.0 seconds, and .* hears 30: cut it"):
        load("qwen2_audio").audio_tokens(Sound("long", noise(31)), [0])


def test_voxtral_hears_longer_sounds_in_chunks(load: Load) -> None:
    vlm = load("voxtral")
    samples = noise(31)
    found = vlm.audio_tokens(Sound("long", samples), [0])
    assert found.seconds is not None
    assert len(found) == 388
    assert found.seconds[374].tolist() == pytest.approx([29.91, 29.99])
    changed = samples.copy()
    changed[30 * RATE + 4000 :] = noise(31, 1)[30 * RATE + 4000 :]
    moved = (vlm.audio_tokens(Sound("long", changed), [0]).states[0] - found.states[0]).norm(dim=-1)
    assert found.seconds[int((moved > 1e-3 * moved.max()).nonzero()[0]), 1] > 30.2


def test_voxtrals_prompt_is_that_of_mistral(load: Load) -> None:
    vlm = load("voxtral")
    found = vlm.audio_tokens(Sound("noise", noise(1)), [0])
    assert found.text is not None
    names = vlm.processor.tokenizer.convert_ids_to_tokens(found.text.ids[:3].tolist())
    assert names == ["<s>", "[INST]", "[BEGIN_AUDIO]"]
    assert vlm.processor.tokenizer.decode(found.text.ids[3:]) == "Describe this sound.[/INST]"
    assert found.text.positions.tolist()[3] == 3 + 375
    alone = load_language_model(vlm.name, device="cpu")
    assert alone.fingerprint() == vlm.fingerprint()
    assert alone.tokenizer("A dog", return_offsets_mapping=True)["offset_mapping"][-1][1] == 5


def test_a_model_that_does_not_hear(tmp_path: Path) -> None:
    vlm = load_vision_language_model(save_tiny_vlm(tmp_path / "llava", "llava"), device="cpu")
    with pytest.raises(ModelError, match=r"type is llava.*granite_speech"):
        vlm.audio_tokens(Sound("noise", noise(1)), [0])


def test_arrays_of_sound() -> None:
    samples = noise(0.5)
    assert np.array_equal(open_sound(samples, RATE).samples, samples)
    stereo = np.stack([samples, -samples], axis=1)
    assert not open_sound(stereo, RATE).samples.any()
    whole = open_sound((samples * 32767).astype(np.int16), RATE)
    np.testing.assert_allclose(whole.samples, samples, atol=1e-4)
    assert open_sound(samples, RATE).duration == 0.5


def test_files_and_other_rates(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    rate = 44_100
    times = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    for kind, codec in (("wav", "pcm_s16le"), ("flac", "flac")):
        path = tmp_path / f"a tone.{kind}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            pulses = (tone * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(pulses, format="s16", layout="mono")
            frame.sample_rate = rate
            for packet in (*stream.encode(frame), *stream.encode()):
                container.mux(packet)
        found = open_sound(path)
        assert found.duration == pytest.approx(1.0, abs=0.01)
        spectrum = np.abs(np.fft.rfft(found.samples[: RATE // 2]))
        assert int(spectrum.argmax()) * 2 == pytest.approx(440, abs=4)
    resampled = open_sound(tone, rate)
    np.testing.assert_allclose(resampled.samples[1000:12000], found.samples[1000:12000], atol=0.02)
    with pytest.raises(SoundError, match="says its rate itself"):
        open_sound(path, 8000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF1234")
    with pytest.raises(SoundError, match=r"broken\.wav cannot be read"):
        open_sound(tmp_path / "broken.wav")


@pytest.mark.parametrize(
    ("given", "rate", "message"),
    [
        (np.zeros(8, np.float32), None, "need their rate"),
        (np.zeros((2, 3, 4), np.float32), RATE, r"array \[2, 3, 4\]"),
        (np.zeros((2, 800), np.float32), RATE, r"array \[2, 800\]"),
        (np.zeros(8, np.int32), RATE, "of int32"),
        (np.zeros(0, np.float32), RATE, "is empty"),
        (np.full(8, np.nan, np.float32), RATE, "not finite"),
        ("no such sound.wav", None, "does not exist|PyAV"),
    ],
)
def test_what_is_no_sound(given: Any, rate: int | None, message: str) -> None:
    with pytest.raises(SoundError, match=message):
        open_sound(given, rate)
