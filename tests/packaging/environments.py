"""Builds of the project, and environments without other copies of it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the dependencies of the development environment, but not its editable install."""

    folder: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    def run(self, *words: object, cwd: Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder, check that it exits with 0, and return the finished process."""
        program, *arguments = map(str, words)
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=cwd,
            env=environment() | {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done


def environment() -> dict[str, str]:
    """Return the environment variables for a user's process; none of them leads to the checkout."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LATENTBANK_", "PYTEST_"))
    }
    kept.pop("PYTHONPATH", None)
    return kept | {"COLUMNS": "110", "HF_HUB_OFFLINE": "1"}


def make(folder: Path, *, dependencies: bool = True) -> Environment:
    """Make an environment, by default with the development environment's packages.

    Nested `.pth` files, and so the editable install, are not read from a path that a `.pth` file names.
    """
    venv.create(folder, symlinks=True)
    made = Environment(folder)
    if not dependencies:
        return made
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (made.packages / "dependencies.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return made


def build(kind: str, source: Path, target: Path) -> Path:
    words = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", target, source]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built
