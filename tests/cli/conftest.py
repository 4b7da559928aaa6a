"""What tests of the command line share: a tiny LLM, a corpus, and a data folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Run, caller
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
