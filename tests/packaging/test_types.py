"""The types of the face, as type checkers see them in a user's script: a wrong keyword is an error for every name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import latentbank as lb
from tests.packaging.environments import Environment, environment

NAMES = [name for name in lb.__all__ if name != "__version__"]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script that calls each name of the face with a keyword that it does not have, one a line."""
    path = tmp_path_factory.mktemp("typed") / "script.py"
    lines = [f"lb.{name}(nonsense=3)" for name in NAMES]
    path.write_text("\n".join(["import latentbank as lb", *lines]) + "\n", encoding="utf-8")
    # mypy needs half a minute for the insides of these libraries, which say nothing about our keywords.
    skipped = "torch.*,transformers.*,datasets.*,pandas.*,matplotlib.*,PIL.*,qdrant_client.*"
    (path.parent / "mypy.ini").write_text(
        f"[mypy]\n[mypy-{skipped}]\nfollow_imports = skip\n", encoding="utf-8"
    )
    return path


def _lines(checker: list[str], script: Path, message: str) -> list[int]:
    """Return the lines of the script in which a checker reports a wrong keyword."""
    words = [Path(sys.executable).parent / checker[0], *checker[1:], script.name]
    done = subprocess.run(words, cwd=script.parent, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(rf"script\.py:(\d+).* error: {message}", done.stdout)
    return [int(number) for number in found]


def test_mypy_sees_a_wrong_keyword(installed: Environment, script: Path, pytestconfig: pytest.Config) -> None:
    cache = str(pytestconfig.cache.mkdir("mypy"))
    checker = ["mypy", "--python-executable", str(installed.python), "--cache-dir", cache]
    assert _lines(checker, script, 'Unexpected keyword argument "nonsense"') == [*range(2, len(NAMES) + 2)]


def test_pyright_sees_a_wrong_keyword(alone: Environment, script: Path) -> None:
    # Where torch and transformers are installed, pyright reads three thousand of their files, and finds the same.
    checker = ["basedpyright", "--level", "error", "--pythonpath", str(alone.python)]
    assert _lines(checker, script, 'No parameter named "nonsense"') == [*range(2, len(NAMES) + 2)]
