"""A small bank of a tiny LLM, filled by a real job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bank.bank import Bank, create_bank
from ingest.corpus import corpus_from_sentences
from ingest.job import ready_plan, run
from models.language import LanguageModel, load_language_model
from tests.tiny import save_tiny

SENTENCES = [
    "The dog chased a cat in the garden.",
    "A red apple lies on the wooden table.",
    "The bank of the river was muddy.",
    "She went to the bank to deposit money.",
    "My dog is called Rex and likes the garden.",
    "The fire truck is red and loud.",
]


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama-tiny")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> LanguageModel:
    return load_language_model(str(tiny_dir))


@pytest.fixture(scope="session")
def filled_dir(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one bank, `small`, of two corpora."""
    folder = tmp_path_factory.mktemp("banks")
    with create_bank(
        "small",
        data_dir=folder,
        url="",
        model=tiny.name,
        fingerprint=tiny.fingerprint(),
        layers=range(tiny.num_layers + 1),
        num_layers=tiny.num_layers,
        hidden_size=tiny.hidden_size,
    ) as bank:
        for name, sentences in (("first", SENTENCES[:4]), ("second", SENTENCES[4:])):
            plan = ready_plan(bank, corpus_from_sentences(name, sentences), tiny, folder / "plans" / name)
            run(bank, plan, tiny)
    return folder


@pytest.fixture
def bank(filled_dir: Path) -> Iterator[Bank]:
    from bank.bank import open_bank

    with open_bank("small", data_dir=filled_dir, url="") as opened:
        yield opened
