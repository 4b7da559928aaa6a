"""Tiny saved models, each written once, and one thread for their small matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import save_tiny


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Run tiny models on one thread: handing their work to several costs ten times more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The directory of a tiny model of an architecture."""
    root = tmp_path_factory.mktemp("tiny")

    def directory(architecture: str) -> str:
        path: Path = root / architecture
        if not path.exists():
            save_tiny(path, architecture)
        return str(path)

    return directory
