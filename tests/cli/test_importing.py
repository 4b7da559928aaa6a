"""`latentbank import connector` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import Run
from tests.models.composite.released import save_connector, save_encoder
from tests.tiny import save_tiny, tiny_tokenizer

SENTENCES = ["A dog runs over the green grass.", "A cat sits on the window sill.", "Snow covers the roofs."]


def test_a_connector_becomes_a_model_that_reads_images(
    run: Run, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokens = len(tiny_tokenizer())
    save_connector(tmp_path / "all" / "olmo-vit", "clip", tokens, tokens + 9)
    save_connector(tmp_path / "all" / "olmo-dino", "dinov2", tokens, tokens + 9)
    encoder = save_encoder(tmp_path / "encoder", "clip")
    llm = str(save_tiny(tmp_path / "olmo", "olmo2", vocab_size=tokens + 9))
    code, _, err = run("import", "connector", "all")
    assert (code, "olmo-dino, olmo-vit: name one (--name)" in err) == (2, True)
    code, _, err = run("import", "connector", "all", "--name", "olmo-vit")
    assert (code, "as its encoder: name it (--vision)" in err) == (2, True)
    code, out, err = run(
        "import", "connector", "all", "--name", "olmo-vit", "--vision", encoder, "--llm", llm
    )
    assert (code, err) == (0, "")
    assert "olmo-vit/projector.safetensors" in out
    assert "layers 9, 2" in out
    card = json.loads((tmp_path / "olmo-vit" / "projector.json").read_text())
    assert card["projector"]["kind"] == "swiglu"

    Image.new("RGB", (60, 24), "green").save(tmp_path / "grass.png")
    assert run("ingest", "run", corpus, "--model", llm, "--bank", "tiny", "--layers", "1,2")[0] == 0
    words = ("query", "image", "grass.png", "--bank", "tiny", "--model", "olmo-vit/projector.safetensors")
    code, out, err = run(*words, "--tokens", "all", "--answer", "2", "--json")
    assert (code, err) == (0, "searched: layers 1, 2, through the index\n")
    (reading,) = json.loads(out)
    labels = [
        token["label"] for token in reading["tokens"] if token.get("kind") == "prompt" and token["layer"] == 0
    ]
    assert labels[:2] == ["<|endoftext|>", "<im_start>"]
    assert labels[2:7] == ["<im_col>"] * 4 + ["<im_end>"]
    assert "".join(labels[7:]) == "long_caption 65:"
    assert {token["row"] for token in reading["tokens"] if "row" in token} == {
        1,
        2,
    }  # the first and the last row show padding only
