"""`ingest grow` as a user types it, with a small VLM over a tiny LLM and its bank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentbank.models.language.model import load_language_model
from tests.cli.commands import Run
from tests.query.patch_vlm import PatchVLM, picture
from tests.wire.chat import chat_stub

SENTENCES = ["The dog chased a cat.", "A red apple lies on the table.", "The river bank was muddy."]
STREAM = [
    f"The {thing} is {where} the {place}."
    for thing in ("cow", "fire")
    for where in ("in", "near")
    for place in ("garden", "truck")
]


@pytest.fixture
def photos(run: Run, model_dir: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images; the bank `tiny-llama` is filled, and any VLM is a PatchVLM over its LLM."""

    def load(name: str, *, dtype: Any, deepest_layer: Any, **_: Any) -> PatchVLM:
        return PatchVLM(load_language_model(model_dir, dtype=dtype, deepest_layer=deepest_layer))

    monkeypatch.setattr("latentbank.models.visual.load_visual_model", load)
    code, _, err = run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2")
    assert code == 0, err
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(20):
        picture(seed).save(folder / f"{seed:02d}.png")
    return folder


def test_a_stream_and_an_llm_grow_corpora_of_their_own(run: Run, photos: Path, tmp_path: Path) -> None:
    stream = tmp_path / "stream.txt"
    stream.write_text("\n".join(STREAM), encoding="utf-8")
    words = ("ingest", "grow", stream, "--bank", "tiny-llama", "--model", "vlm", "--images", photos)
    options = ("--visual-layers", "0,1", "--bank-layers", "all", "--least", "0")
    code, out, err = run(*words, *options, "--dry-run")
    assert code == 0, err
    assert "would be stored in 'grown-stream'; run again without --dry-run" in out
    code, out, _ = run("bank", "list")
    assert code == 0
    assert "grown" not in out

    code, out, err = run(*words, *options, "--json")
    assert code == 0, err
    assert "20 images: 120 visual tokens ask, 120 of other images are held out" in err
    report = json.loads(out)
    assert (report["bank"], report["corpus"], report["read"]) == ("tiny-llama", "grown-stream", len(STREAM))
    lines = [json.loads(line) for line in Path(report["file"]).read_text(encoding="utf-8").splitlines()]
    assert sum(line["kept"] for line in lines) == report["kept"] > 0
    assert all(STREAM[line["number"]] == line["sentence"] for line in lines)

    code, out, err = run(*words, *options)  # again: nothing is left to do
    assert code == 0, err
    assert f"{report['kept']} in 'grown-stream'" in out

    asked = " ".join(map(str, words)).replace(f" {stream}", "").split()
    with chat_stub(lambda body: "\n".join(STREAM)) as stub:
        code, out, err = run(
            *asked, *options, "--from-llm", stub.url, "--llm", "owner/writer", "--questions", "1", "--json"
        )
    assert code == 0, err
    assert json.loads(out)["corpus"] == "grown-writer"
    assert len(stub.bodies) == 1


def test_what_cannot_be_meant_is_refused(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("ingest", "grow", "--bank", "tiny-llama", "--model", "vlm", "--images", photos)
    code, _, err = run(*words)
    assert code == 2
    assert "Name either a stream of sentences" in err
    code, _, err = run(*words, "--from-llm", "http://localhost:1/v1")
    assert code == 2
    assert "Name the LLM that the endpoint shall use (--llm)" in err
