"""The commands that move banks, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import latentlens
import pytest
import torch

from tests import hub
from tests.cli.commands import Run
from tests.real_server import serving
from tests.tiny import TEXTS
from tests.wire.double import QdrantDouble


@pytest.fixture
def contexts(run: Run, model_dir: Path, tmp_path: Path) -> int:
    """Fill an embedded bank; returns the number of its contexts."""
    corpus = tmp_path / "few.txt"
    corpus.write_text("\n".join(TEXTS), encoding="utf-8")
    code, out, _ = run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2", "--json")
    assert code == 0
    return int(json.loads(out)["contexts"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantDouble]:
    with serving() as server:
        monkeypatch.setenv("LATENTBANK_GRPC_PORT", str(server.grpc_port))
        yield server


def test_export_and_import(run: Run, contexts: int, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    code, out, _ = run("bank", "export", "tiny-llama", folder, "--json")
    report = json.loads(out)
    assert (code, report["contexts"], report["layers"], report["corpora"]) == (0, contexts, [1, 2], ["few"])
    code, out, _ = run("bank", "import", folder, "--name", "back", "--json")
    moved = json.loads(out)
    assert (code, moved["bank"], moved["written"], moved["sound"]) == (0, "back", 2 * contexts, True)
    assert moved["where"] == str(tmp_path / "data")
    assert json.loads(run("bank", "verify", "back", "--json")[1])["sound"]
    assert "0 written now" in " ".join(run("bank", "export", "tiny-llama", folder)[1].split())
    assert "It is verified." in " ".join(run("bank", "import", folder, "--name", "back")[1].split())
    (folder / "few" / "L01-00000.safetensors").unlink()
    code, _, err = run("bank", "import", folder, "--name", "third")
    assert (code, err.count("\n")) == (2, 1)
    assert "is damaged (it is missing)" in err


def test_a_bank_over_the_hub(
    run: Run, contexts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serving() as double:
        hub.use(double, tmp_path / "hf", monkeypatch)
        code, out, _ = run("bank", "export", "tiny-llama", "--push", "lab/few", "--license", "mit", "--json")
        report = json.loads(out)
        assert (code, report["directory"], report["contexts"]) == (0, "", contexts)
        assert report["pushed"]["url"] == f"{double.url}/datasets/lab/few"
        assert (report["pushed"]["private"], report["pushed"]["files"]) == (True, 5)
        code, out, _ = run("bank", "import", "lab/few", "--layers", "2", "--name", "back", "--json")
        moved = json.loads(out)
        assert (code, moved["layers"], moved["written"], moved["sound"]) == (0, [2], contexts, True)
        shown = " ".join(
            run("bank", "export", "tiny-llama", tmp_path / "kept", "--push", "lab/few")[1].split()
        )
        assert f"5 in {tmp_path / 'kept'}" in shown
        assert f"{double.url}/datasets/lab/few (private), commit" in shown
        double.repositories["datasets", "lab/few"].private = False
        code, _, err = run("bank", "export", "tiny-llama", "--push", "lab/few")
        assert (code, err.count("\n")) == (2, 1)
        assert err.endswith("allow that, or choose another repository (--public).\n")
    code, _, err = run("bank", "export", "tiny-llama")
    assert (code, err) == (
        2,
        "latentbank: Name a folder to export to, or a repository on the hub (--push).\n",
    )
    for words in (("--public",), ("--license", "mit")):
        code, _, err = run("bank", "export", "tiny-llama", tmp_path / "out", *words)
        assert (code, err.endswith("name a repository (--push).\n")) == (2, True)
    assert not (tmp_path / "out").exists()


def test_push_and_pull(run: Run, contexts: int, server: QdrantDouble, tmp_path: Path) -> None:
    code, out, _ = run("--url", server.url, "bank", "push", "tiny-llama", "--json")
    pushed = json.loads(out)
    assert (code, pushed["where"], pushed["written"], pushed["sound"]) == (0, server.url, 2 * contexts, True)
    laptop = tmp_path / "laptop"
    words = ("bank", "pull", "tiny-llama", laptop, "--layers", "2", "--corpus", "few", "--json")
    code, out, _ = run("--url", server.url, *words)
    pulled = json.loads(out)
    assert (code, pulled["where"], pulled["layers"], pulled["written"]) == (0, str(laptop), [2], contexts)
    assert json.loads(run("--data-dir", laptop, "bank", "verify", "--json")[1])["sound"]
    assert "It is verified." in " ".join(
        run("--url", server.url, "bank", "pull", "tiny-llama", laptop, "--layers", "2")[1].split()
    )
    server.wipe()
    assert run("--url", server.url, "bank", "pull", "tiny-llama", laptop)[0] == 2


def test_pull_by_snapshot(run: Run, contexts: int, server: QdrantDouble, tmp_path: Path) -> None:
    assert run("--url", server.url, "bank", "push", "tiny-llama")[0] == 0
    pull = ("--url", server.url, "bank", "pull", "tiny-llama", tmp_path / "laptop", "--layers", "2", "--by")
    code, _, err = run(*pull, "pigeon")
    assert (code, err) == (
        2,
        "latentbank: Unknown value 'pigeon' for --by; use snapshot or scroll.\n",
    )
    code, out, _ = run(*pull, "snapshot", "--json")
    pulled = json.loads(out)
    assert (code, pulled["snapshots"], pulled["written"], pulled["sound"]) == (0, 1, contexts, True)
    assert json.loads(run("--data-dir", tmp_path / "laptop", "bank", "verify", "--json")[1])["sound"]


@pytest.mark.parametrize("command", ["pull", "push"])
def test_both_need_a_server(run: Run, command: str) -> None:
    code, _, err = run("bank", command, "tiny-llama")
    assert (code, err) == (
        2,
        "latentbank: Name the server with --url before the command, or LATENTBANK_URL.\n",
    )


def test_a_pull_that_is_not_sound_exits_with_1(
    run: Run, contexts: int, server: QdrantDouble, tmp_path: Path
) -> None:
    from latentbank.bank.opening import open_bank
    from latentbank.bank.where import Where
    from tests.bank.samples import units

    assert run("--url", server.url, "bank", "push", "tiny-llama")[0] == 0
    with open_bank("tiny-llama", data_dir=tmp_path / "data") as opened:
        points = list(opened.store.scroll(1, Where(corpus="few"), payloads=True))
        payloads = [point.payload for point in points if point.payload is not None]
        states = units(contexts, width=opened.hidden_size)
        opened.add(1, [point.id for point in points], states, payloads)
        opened.commit()
    code, out, _ = run("--url", server.url, "bank", "pull", "tiny-llama")
    assert code == 1
    assert "other vectors in layer 1" in out
    assert "It is not sound." in " ".join(out.split())


def test_ingest_latentlens(run: Run, model_dir: Path, tmp_path: Path) -> None:
    network, tokenizer = latentlens.load_model(str(model_dir), device="cpu", dtype=torch.float32)
    index = latentlens.build_index(
        str(model_dir),
        list(TEXTS),
        layers=[1, 3],
        show_progress=False,
        model=network,
        tokenizer=tokenizer,
    )
    cache = tmp_path / "official"
    index.save(cache)
    code, out, _ = run("ingest", "latentlens", cache, "--model", model_dir, "--json")
    report = json.loads(out)
    assert (code, report["move"]["sound"], report["move"]["layers"]) == (0, True, [1, 3])
    assert (report["move"]["bank"], report["move"]["corpora"]) == ("tiny-llama", ["official"])
    assert set(report["cosines"]) == {"1", "3"}
    assert json.loads(run("bank", "verify", "--json")[1])["sound"]
    again = " ".join(run("ingest", "latentlens", cache)[1].split())
    assert "0 vectors written now. It is verified." in again
    assert "cosine with the LLM 1: 1.000, 3: 1.000" in again
    words = ("ingest", "latentlens", cache, "--bank", "other", "--model", model_dir)
    code, _, err = run(*words, "--layers", "paper")  # of four blocks: 1, 2 and 3
    assert (code, "layer 2" in err) == (2, True), err
    code, _, err = run(*words, "--name", "a b")
    assert code == 2
    assert "cannot name a corpus" in err
