"""What tests of the command line share: a tiny LLM, a corpus, a bank, images, and a data folder of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentbank.models.language.model import load_language_model
from tests.cli.commands import Run, caller
from tests.query.patch_vlm import PatchVLM, picture
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("cli") / "tiny-llama")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in the test's data folder; returns exit code, standard output and standard error."""
    return caller(monkeypatch, capfd, tmp_path / "data", 150)


@pytest.fixture
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A text file of the module's sentences."""
    path = tmp_path / "few.txt"
    path.write_text("\n".join(request.module.SENTENCES), encoding="utf-8")
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[PatchVLM]:
    """The models that commands load: any name is a folder of an LLM, on which a PatchVLM is built."""
    models: list[PatchVLM] = []

    def load(name: str, *, dtype: Any, deepest_layer: Any, **_: Any) -> PatchVLM:
        models.append(PatchVLM(load_language_model(name, dtype=dtype, deepest_layer=deepest_layer)))
        return models[-1]

    monkeypatch.setattr("latentbank.models.visual.load_visual_model", load)
    return models


@pytest.fixture
def filled(run: Run, model_dir: Path, corpus: Path) -> None:
    """The bank `tiny-llama` of layers 1 and 2, with the module's sentences."""
    code, _, err = run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2")
    assert code == 0, err


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, the second of which is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        picture(ord(name)).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:90])
    return folder
