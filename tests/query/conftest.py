"""A small bank of a tiny LLM, filled by a real job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentbank.bank.bank import Bank
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.query.banks import TWO, fill
from tests.query.images.drawn import fill_drawn
from tests.tiny import save_tiny


@pytest.fixture(scope="session", autouse=True)
def few_null_pictures() -> Iterator[None]:
    """Let calibrations look at few pictures with nothing to see, as tests take no p-values near 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentbank.query.silence.null_tokens.COUNT", 18)
        yield


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama-tiny")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> LanguageModel:
    return load_language_model(str(tiny_dir))


@pytest.fixture(scope="session")
def filled_dir(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the bank `small`, which has two corpora."""
    folder = tmp_path_factory.mktemp("banks")
    fill("small", folder, tiny, TWO, range(tiny.num_layers + 1)).close()
    return folder


@pytest.fixture(scope="session")
def drawn_dir(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the bank `small` and its drawn images; tests that change them copy it."""
    folder = tmp_path_factory.mktemp("drawn")
    fill_drawn(folder, tiny)
    return folder


@pytest.fixture(scope="module")
def drawn_copy(drawn_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `drawn_dir` for the tests of one file."""
    return shutil.copytree(drawn_dir, tmp_path_factory.mktemp("drawn") / "banks")


@pytest.fixture
def bank(filled_dir: Path) -> Iterator[Bank]:
    from latentbank.bank.opening import open_bank

    with open_bank("small", data_dir=filled_dir, url="") as opened:
        yield opened
