"""The examples in the docstrings of the face run without changes.

They run in a folder that holds what they name: tiny models in folders named as on the hub, a corpus, images, pairs of
images and captions, and two banks.
"""

from __future__ import annotations

import doctest
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latentbank as lb
from tests.models.audio.test_listening import save_qwen2_audio
from tests.models.tiny_vlm import save_tiny_vlm
from tests.models.vision.test_encoders import save_encoder
from tests.tiny import TEXTS, save_tiny

LAYERS = 16
# Examples that create, fill, switch or delete banks: each gets a copy of the one that they use.
WRITING = ("create_bank", "plan", "fill", "use_bank", "delete_bank", "import_bank", "BankNotFound")
NAMES = [name for name in lb.__all__ if name != "__version__"]


def _picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _clips(folder: Path) -> None:
    """Write a film and a sound, where the package that reads them is installed."""
    try:
        import av
    except ImportError:  # the tests of their examples are left out
        return
    with av.open(str(folder / "cat.mp4"), "w") as film:
        frames = film.add_stream("mpeg4", rate=10)
        frames.width, frames.height = 64, 48
        for number in range(8):
            film.mux(frames.encode(av.VideoFrame.from_image(_picture(number))))
        film.mux(frames.encode())
    with av.open(str(folder / "cat.wav"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", rate=16_000, layout="mono")
        noise = np.random.default_rng(0).integers(-8000, 8000, (1, 8000), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in (*stream.encode(frame), *stream.encode()):
            sound.mux(packet)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, with its banks in `data`."""
    folder = tmp_path_factory.mktemp("world")
    smol = save_tiny(folder / "HuggingFaceTB" / "SmolLM2-135M", num_hidden_layers=LAYERS)
    qwen = save_tiny_vlm(folder / "Qwen" / "Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", num_hidden_layers=LAYERS)
    encoder = folder / "openai" / "clip-vit-base-patch32"
    encoder.mkdir(parents=True)
    save_encoder(encoder, "clip")
    captions = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "captions.jsonl").write_text(captions, encoding="utf-8")
    for place in ("photos", "pairs"):
        (folder / place).mkdir()
        for number in range(4):
            _picture(number).save(folder / place / f"{number}.jpg")
    rows = ({"file_name": f"{number}.jpg", "text": TEXTS[number]} for number in range(4))
    (folder / "pairs" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    _picture(9).save(folder / "cat.jpg")
    _clips(folder)

    listener = folder / "Qwen" / "Qwen2-Audio-7B-Instruct"
    save_qwen2_audio(listener, num_hidden_layers=LAYERS)
    model, vlm = lb.load_language_model(str(smol)), lb.load_visual_model(str(qwen))
    heard = lb.load_visual_model(str(listener))
    for name, llm, layers in (
        ("captions", model, [8, 16]),
        ("Qwen2.5-VL-7B-Instruct", vlm.language, [4, 8]),
        ("Qwen2-Audio-7B-Instruct", heard.language, [4, 8]),
    ):
        with lb.create_bank(name, llm, layers, data_dir=folder / "data", url="") as bank:
            lb.fill(bank, str(folder / "captions.jsonl"), llm)
    states = model.hidden_states([[5, 6, 7, 8]], [8])[0][8]
    np.save(folder / "hidden_states.npy", states.float().numpy())
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(
    name: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in ("read_video", "read_audio"):
        pytest.importorskip("av")
    found = getattr(lb, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    assert example.examples
    assert "lb." in "".join(line.source for line in example.examples)
    for path in world.iterdir():
        if path.name == "data" and name in WRITING:
            shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("Qwen*"))
        else:
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for variable in [key for key in os.environ if key.startswith("LATENTBANK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path / "data"))
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.failed == 0, capsys.readouterr().out
