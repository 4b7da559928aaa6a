"""The project as users install it: the sdist, the wheel built from it, and an environment with that wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, build, environment, make


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the checkout, built and unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder / "built")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (top,) = (folder / "unpacked").iterdir()
    return top


@pytest.fixture(scope="session")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist."""
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel."""
    return _install(wheel, make(tmp_path_factory.mktemp("installed") / "venv"))


@pytest.fixture(scope="session")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel and none of its dependencies, for what reads it without running it."""
    return _install(wheel, make(tmp_path_factory.mktemp("alone") / "venv", dependencies=False))


def _install(wheel: Path, made: Environment) -> Environment:
    words = ["-m", "pip", "--python", made.python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *map(str, words)], check=True, env=environment(), timeout=120)
    return made


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the dependencies only; latentbank is not installed."""
    return make(tmp_path_factory.mktemp("bare") / "venv")
