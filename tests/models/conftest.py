"""Tiny saved models, each written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the directory of a tiny model of an architecture."""
    root = tmp_path_factory.mktemp("tiny")

    def directory(architecture: str) -> str:
        path: Path = root / architecture
        if not path.exists():
            save_tiny(path, architecture)
        return str(path)

    return directory
