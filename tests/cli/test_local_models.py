"""Local models on the command line: names of banks made of paths, and how a bank's own model is found again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentbank.bank.versions import check_name
from latentbank.ingest.defaults import bank_name
from tests.cli.commands import Run, caller
from tests.tiny import save_tiny

SENTENCES = ("The dog chased a cat in the garden.", "A red apple lies on the wooden table.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "Modèle à essayer", num_hidden_layers=2)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "few.txt"
    path.write_text("\n".join(SENTENCES))
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return caller(monkeypatch, capfd, tmp_path / "banks", 200)


def fill(run: Run, corpus: Path, *words: object) -> dict[str, Any]:
    """Store the corpus in layer 1 and return the report."""
    code, out, err = run("ingest", "run", corpus, "--layers", "1", "--json", *words)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def query(run: Run, *words: object) -> tuple[int, str, str]:
    return run("query", "text", SENTENCES[0], "--layer", "1", "-k", "1", "--json", *words)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"),
        ("org/repo:Llama.Q4_K_M.gguf", "repo-Llama.Q4_K_M"),
        ("/models/a--b/", "a-b"),
        ("/models/Modèle à essayer/", "Modele-a-essayer"),
        ("/models/ends -", "ends"),
        ("/models/valid-", "valid-"),
        ("/models/model@2", "model-2"),
        ("/models/.hidden", "hidden"),
        ("/models/模型", "bank-0a7383fb"),
        ("/models/---", "bank-2aa05671"),
        ("m" * 64, "m" * 64),
    ],
)
def test_every_model_gives_a_valid_name(model: str, name: str) -> None:
    assert bank_name(model) == name
    check_name(name)


def test_names_that_are_cut_differ() -> None:
    one, other = bank_name("m" * 300 + "1"), bank_name("m" * 300 + "2")
    assert one != other
    assert len(one) == len(other) == 64
    check_name(one)


def test_a_model_in_the_current_folder(
    run: Run, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    assert fill(run, corpus, "--model", ".")["bank"] == "Modele-a-essayer"
    monkeypatch.chdir(tmp_path)
    code, out, err = query(run)  # from another folder, without naming the model
    assert code == 0, err
    assert json.loads(out)["model"] == model.name
    assert str(model.parent) not in out
    relative = os.path.relpath(model) + "/"
    assert fill(run, corpus, "--model", relative)["bank"] == "Modele-a-essayer"
    manifest = (tmp_path / "banks" / "Modele-a-essayer" / "manifest.json").read_text()
    assert json.loads(manifest)["model"] == model.name
    assert str(model.parent) not in manifest


def test_a_bank_of_another_machine_asks_for_its_model_once(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    fill(run, corpus, "--model", model, "--bank", "b")
    image = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(image)
    shutil.rmtree(tmp_path / "banks" / ".models")  # as on a machine that the bank was copied to
    code, _, err = query(run)
    assert (code, err) == (
        2,
        f"latentbank: The model of the bank 'b' is the local model {model.name}, which this machine has not used yet, "
        "or which has moved: give its folder or file (--model).\n",
    )
    for command in (
        ("query", "image", image),
        ("view",),
        ("ingest", "run", corpus),
        ("ingest", "plan", corpus),
    ):
        code, _, err = run(*command, "--bank", "b")
        assert (code, err.count("\n")) == (2, 1)
        assert err.endswith("give its folder or file (--model).\n")
    assert query(run, "--model", model)[0] == 0
    assert query(run)[0] == 0


def test_a_bank_filled_in_float16_is_asked_in_float32(run: Run, corpus: Path, model: Path) -> None:
    fill(run, corpus, "--model", model, "--bank", "b", "--dtype", "float16")
    code, out, err = query(run)
    assert code == 0, err
    assert all(token["neighbors"][0]["cosine"] > 0.999 for token in json.loads(out)["tokens"][1:])


def test_another_model_is_refused_unless_it_is_allowed(
    run: Run, corpus: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(run, corpus, "--model", model, "--bank", "b")
    other = save_tiny(tmp_path / "other", num_hidden_layers=2, seed=1)
    code, _, err = query(run, "--model", other)
    assert code == 2
    assert err.endswith(
        "float32): they differ in the input embedding; choose that bank's model or another bank, or allow another "
        "model (--allow-other-model).\n"
    )
    code, out, _ = query(run, "--model", other, "--allow-other-model")
    assert (code, json.loads(out)["bank"]) == (0, "b")
    assert "they differ in the input embedding. It is used all the same." in caplog.text
    assert run("ingest", "run", corpus, "--bank", "b", "--model", other, "--name", "more")[0] == 2
    words = ("--bank", "b", "--model", other, "--allow-other-model", "--name", "more")
    assert run("ingest", "run", corpus, *words)[0] == 0
