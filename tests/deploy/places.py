"""Where the tested files are, and the tools that read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return [
        document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None
    ]


def manifests() -> list[dict[str, Any]]:
    """Return all Kubernetes manifests."""
    files = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "qdrant-values.yaml")
    assert files
    return [document for path in files for document in documents(path)]


def tool(name: str) -> str:
    """Return a program that a package of the extra `dev` installed beside this Python."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is missing: install the extra dev"
    return str(path)


def system_tool(name: str, variable: str, *elsewhere: str) -> str:
    """Return a program of the system. Without it the test is skipped, unless the environment variable names it."""
    given = os.environ.get(variable)
    found = given or shutil.which(name) or next((path for path in elsewhere if os.path.exists(path)), None)
    if found is None:
        pytest.skip(f"there is no {name} here; {variable} may name one")
    return found


def run(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program and return its output."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, **more)
