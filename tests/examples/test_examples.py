"""The examples run as docs/states.md says, on tiny models of real classes."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import numpy as np
import pytest

from examples import latent_reasoning, soft_prompt, speech
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.query.states.files import load_states
from tests.query.banks import ONE_CORPUS, SENTENCES, fill
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(str(save_tiny(tmp_path_factory.mktemp("llm") / "llama-tiny")))


@pytest.fixture(scope="module")
def folder(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the bank `small`."""
    data = tmp_path_factory.mktemp("banks")
    fill("small", data, tiny, ONE_CORPUS, (1, 2)).close()
    return data


def test_nnsight_s_states_are_the_library_s(tiny: LanguageModel, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nnsight")
    from examples import nnsight_states

    file, sentence = tmp_path / "s.safetensors", SENTENCES[0]
    given = [sentence, "--bank", "small", "--data-dir", str(folder), "--layers", "2,1", "--output", str(file)]
    reading = nnsight_states.main(given)
    ids, own = tiny.text_hidden_states(sentence, [1, 2])
    saved = load_states(file)
    assert saved.fingerprint == tiny.fingerprint()
    for layer in (1, 2):
        np.testing.assert_allclose(saved.by_layer[layer], own[layer].numpy(), atol=1e-4)
    assert [token.label for token in reading.at(1)] == [tiny.tokenizer.decode([id_]) for id_ in ids]
    assert reading.at(2)[-2].neighbors[0].caption == sentence


def test_a_soft_prompt_says_its_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--bank", "small", "--data-dir", str(folder), "--word", "dog", "--enough", "0.03"]
    reading = soft_prompt.main([*given, "--layer", "2"])
    said = re.search(r"says 'dog' with a probability of (0\.\d+)", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) >= 0.03
    assert [token.label for token in reading.tokens] == [f"virtual token {n}" for n in range(1, 5)]
    assert reading.layers == (2,)


def test_reasoning_steps_are_fed_back(tiny: LanguageModel, folder: Path) -> None:
    import torch

    question = "The dog and the cat"
    given = [question, "--bank", "small", "--data-dir", str(folder), "--steps", "2", "--layers", "0,2"]
    reading = latent_reasoning.main(given)
    assert [token.label for token in reading.at(2)] == ["step 1", "step 2"]
    # The same without a cache: the state after the final norm stands at the next position.
    decoder, ids = tiny.decoder, tiny.encode(question)
    inputs = tiny.embedding[ids][None]
    with torch.inference_mode():
        for _ in range(2):
            last = decoder(inputs_embeds=inputs).last_hidden_state[:, -1:]
            inputs = torch.cat([inputs, last], dim=1)
    assert [token.norm for token in reading.at(0)] == pytest.approx(
        inputs[0, -2:].norm(dim=-1).tolist(), rel=1e-4
    )


def test_speech_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")  # it reads the file
    from tests.models.audio.test_listening import save_qwen2_audio

    save_qwen2_audio(tmp_path / "hears")
    with wave.open(str(tmp_path / "hello.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(np.random.default_rng(0).integers(-3000, 3000, 8000, np.int16).tobytes())
    (tmp_path / "few.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    reading = speech.main(
        [str(tmp_path / "hello.wav"), "--model", str(tmp_path / "hears"), "--bank", "heard", "--layers", "1",
         "--data-dir", str(tmp_path / "data"), "--sentences", str(tmp_path / "few.txt")]
    )  # fmt: skip
    assert reading.duration == 0.5
    assert {token.kind for token in reading.tokens} == {"audio"}
    assert "layer  1, 0.00 s: " in capsys.readouterr().out
