"""Files that cannot be loaded: one whole sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from latentbank.errors import ModelError
from latentbank.models.language.explaining import reason
from latentbank.models.language.model import load_language_model
from tests.tiny import save_tiny_gguf

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def changed(key: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        f"pointer {name}": (written(name, POINTER), rf"{name} is a pointer of Git LFS.*: run git lfs pull")
        for name in ("model.safetensors", "tokenizer.json", "config.json")
    },
    "empty": (written("model.safetensors", b""), "weights of .* are damaged or incomplete: download them"),
    "cut": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:5000]
        ),
        "weights of .* are damaged or incomplete: download them again",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "has no tokenizer that can be read: it needs a tokenizer.json, or the packages sentencepiece and",
    ),
    "a page": (written("tokenizer.json", b"<html>"), "A JSON file of .* is damaged: download it again"),
    "a new type": (changed("model_type", "brandnew"), "type brandnew, which transformers .* does not know"),
    "other sizes": (changed("hidden_size", 64), "weights of .* have other sizes than its config.json states"),
    "a wrong value": (changed("num_attention_heads", "x"), "'num_attention_heads'.* expected int, got str"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_says_what_to_do(name: str, saved: Callable[[str], str], tmp_path: Path) -> None:
    change, expected = CASES[name]
    shutil.copytree(saved("llama"), tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(ModelError, match=expected) as caught:
        load_language_model(tmp_path / "model", device="cpu")
    text = str(caught.value)
    assert text.endswith(".")
    assert not text.endswith((":.", "..", ",."))
    assert "\n" not in text


@pytest.mark.parametrize("whole", [True, False])
def test_a_gguf_that_is_none(whole: bool, tmp_path: Path) -> None:
    path = save_tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(POINTER if whole else path.read_bytes()[:3000])
    with pytest.raises(ModelError, match="pointer of Git LFS" if whole else "damaged or incomplete"):
        load_language_model(path, device="cpu")


def test_reasons_are_whole_sentences() -> None:
    long = RuntimeError("It cannot go on. " + "Because of this and that it " * 20)
    assert reason(long) == "It cannot go on"
    assert reason(RuntimeError("word " * 100)).endswith("word …")
    assert reason(RuntimeError("Error(s) in loading:\n\tsize mismatch for q_proj.")) == (
        "Error(s) in loading: size mismatch for q_proj"
    )
    assert reason(KeyError("added_tokens")) == "there is no 'added_tokens'"
    assert reason(RuntimeError("see https://host/x?token=1 for it")) == "see ... for it"
