"""`latentbank train projector` from end to end, killed and continued, on several processes, and its bad input."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from latentbank.bank.settings import load_settings
from latentbank.cli import app
from latentbank.errors import CorpusError, LatentBankError, ModelError
from latentbank.models.composite.projector import load_projector
from latentbank.models.visual import load_visual_model
from tests import children, hub
from tests.models.pixels import pairs
from tests.models.vision.test_encoders import save_encoder
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[2]
# The command line, which is killed in the step after the fifth checkpoint.
_KILLED = """
import os, signal
from latentbank.cli import main
from latentbank.models.training import train

saved, save, compute = [], train.save_checkpoint, train._Run._step

def saving(*given):
    save(*given)
    saved.append(given)

def computing(*given):
    computed = compute(*given)
    if len(saved) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return computed

train.save_checkpoint, train._Run._step = saving, computing
main()
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny SigLIP, a tiny Llama with an unembedding of its own, and a folder of 40 pairs, one image broken."""
    root = tmp_path_factory.mktemp("parts")
    data = root / "data"
    data.mkdir()
    lines = []
    for number, pair in enumerate(pairs(40)):
        image = pair.image.resize((24, 24), Image.Resampling.NEAREST)
        # All images differ: copies of an image are kept together, so they might all go to validation.
        image.paste((6 * number, 6 * number, 6 * number), (0, 0, 4, 4))
        image.save(data / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": pair.caption}) + "\n")
    (data / "7.png").write_bytes(b"broken")
    (data / "metadata.jsonl").write_text("".join(lines))
    return {
        "vision": save_encoder(root / "vision", "siglip"),
        "llm": str(save_tiny(root / "llm")),
        "data": str(data),
        "features": str(root / "features"),
    }


def arguments(parts: dict[str, str], out: Path, *more: str, steps: int = 12, **changed: str) -> list[str]:
    given = {**parts, "output": str(out), "steps": str(steps), "validation": "0.1", "width": "24", **changed}
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    return ["train", "projector", *options, "--device", "cpu", *more]


def run(parts: dict[str, str], out: Path, *more: str, steps: int = 12, **changed: str) -> Any:
    done = CliRunner().invoke(
        app, arguments(parts, out, *more, steps=steps, **changed), catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_projector(out / "projector.safetensors")[0].state_dict()


def test_a_projector_and_its_card(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = json.loads(run(parts, tmp_path / "out", "--json", projector="mlp"))
    assert card["pushed"] is None
    assert card["file"] == str(tmp_path / "out" / "projector.safetensors")
    assert card["encoder"]["name"] == Path(parts["vision"]).name
    assert (card["encoder"]["layer"], card["encoder"]["cls"]) == (2, False)
    assert card["llm"]["name"] == Path(parts["llm"]).name
    assert str(tmp_path) not in (tmp_path / "out" / "projector.json").read_text()
    assert card["projector"] == {"kind": "mlp", "features": 16, "hidden_size": 32, "width": 24}
    assert card["data"][0]["skipped"] == {"broken image": 1}
    assert card["data"][0]["rows"] + card["training"]["validation_rows"] == 39
    assert (card["training"]["steps"], card["training"]["seed"]) == (12, 0)
    assert card["training"]["validation_loss"] > 0
    assert card["training"]["loss"] > 0
    assert len(card["training"]["samples"]) == 4
    assert parts["data"] not in (tmp_path / "out" / "projector.json").read_text()
    settings = load_settings()
    loaded = load_visual_model(tmp_path / "out" / "projector.safetensors", data_dir=settings.data_dir)
    assert loaded.name == "vision + mlp + llm"
    with hub.serving() as double:
        hub.use(double, tmp_path / "hf", monkeypatch)
        # Training is finished: the result is printed again, and pushed.
        text = run(parts, tmp_path / "out", "--push", "lab/mlp", projector="mlp")
        pushed = load_visual_model("lab/mlp/projector.safetensors", data_dir=settings.data_dir)
        assert pushed.name == loaded.name
    assert f"{double.url}/lab/mlp (private)" in text
    assert "1 with broken image" in text
    assert "12 in" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "projector.safetensors", "projector.json", "log.jsonl", "loss.png"
    }  # fmt: skip


def test_the_papers_recipe(parts: dict[str, str], tmp_path: Path) -> None:
    """With the encoder's pictures and layers, image tokens and prompt; the first sentences of captions are learned."""
    more = (
        "--recipe",
        "latentlens",
        "--encoder-layers=-1,-3",
        "--target",
        "first-sentence",
        "--finetune-llm",
    )
    card = json.loads(run(parts, tmp_path / "out", "--json", *more, "--dtype", "float32", steps=3))
    assert (card["encoder"]["layer"], card["encoder"]["pictures"]["fit"]) == ([3, 1], "squeezed")
    assert card["projector"] == {
        "kind": "swiglu", "features": 32, "hidden_size": 32, "width": 24, "added": 4
    }  # fmt: skip
    assert card["prompt"] == "long_caption 65:"
    settings = card["training"]["settings"]
    assert (settings["eps"], settings["softmax_loss"], settings["dropout"]) == (1e-6, 1e-4, 0.1)
    assert (card["data"][0]["batch"], card["data"][0]["rate"]) == (8, 2e-4)
    # The model as it is read is the one that was trained: it writes what it wrote in validation.
    vlm: Any = load_visual_model(tmp_path / "out" / "projector.safetensors", device="cpu")
    assert vlm.language.fingerprint() == card["llm"]["fingerprint"]
    lines = [json.loads(line) for line in (Path(parts["data"]) / "metadata.jsonl").read_text().splitlines()]
    for sample in card["training"]["samples"]:
        files = [
            line["file_name"]
            for line in lines
            if line["text"] == sample["caption"] and line["file_name"] != "7.png"
        ]
        images = [Image.open(Path(parts["data"]) / file).convert("RGB") for file in files]
        assert sample["written"] in vlm.captions(images)


def test_the_recipe_killed_and_continued_gives_the_same_projector(
    parts: dict[str, str], tmp_path: Path
) -> None:
    recipe = ("--recipe", "latentlens", "--encoder-layers=-1,-3")
    run(parts, tmp_path / "whole", *recipe, steps=50)
    words = arguments(parts, tmp_path / "killed", *recipe, "--checkpoint-every", "0", steps=50)
    ended = children.run([sys.executable, "-c", _KILLED, *words], cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    assert not (tmp_path / "killed" / "projector.safetensors").exists()
    run(parts, tmp_path / "killed", *recipe, steps=50)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_two_processes_train_the_same_projector(parts: dict[str, str], tmp_path: Path) -> None:
    run(parts, tmp_path / "one", steps=5)
    # By torch's own launcher: `accelerate launch --cpu` starts one process alone. It has a port that is free.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--log-dir", str(tmp_path / "logs"), "--redirects", "3", "-m", "latentbank"]
    words = arguments(parts, tmp_path / "two", "--json", steps=5, features=str(tmp_path / "features"))
    done = children.run([*launch, *words], cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    said = {path.parent.name: path.read_text() for path in (tmp_path / "logs").rglob("stdout.log")}
    assert (set(said), said["1"]) == ({"0", "1"}, "")  # only one process prints
    assert json.loads(said["0"])["training"]["steps"] == 5
    single, double = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in single:
        torch.testing.assert_close(single[name], double[name], atol=2e-3, rtol=2e-3)
    losses = [
        [json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    ]
    for first, second in zip(*losses, strict=True):
        key = "loss" if "loss" in first else "validation"
        assert first[key] == pytest.approx(second[key], rel=1e-4)


def test_bad_input(parts: dict[str, str], tmp_path: Path) -> None:
    def refused(error: type[LatentBankError], match: str, **changed: str) -> None:
        with pytest.raises(error, match=match):
            CliRunner().invoke(app, arguments(parts, tmp_path / "out", **changed), catch_exceptions=False)

    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metadata.jsonl").write_text('{"file_name": "a.png", "text": " "}\n')
    refused(CorpusError, "no image with a caption", data=str(empty))
    refused(ModelError, "mlp9", projector="mlp9")
    refused(ModelError, "no recipe", recipe="latent")
    refused(LatentBankError, "list of layers", **{"encoder-layers": "a,b"})
    refused(CorpusError, "no column 'answers' of text.*--target", target="answers")
    refused(ModelError, "no projector at", init=str(tmp_path / "nothing"))
    refused(LatentBankError, "too few", limit="1")
    run(parts, tmp_path / "done", steps=2)
    file = str(tmp_path / "done" / "projector.safetensors")
    refused(ModelError, "the LLM", init=file, llm=str(save_tiny(tmp_path / "llm", seed=5)))
    refused(ModelError, "the encoder", init=file, vision=save_encoder(tmp_path / "vision", "siglip", seed=5))
    with pytest.raises(ModelError, match="another training"):
        run(parts, tmp_path / "done", steps=3)
