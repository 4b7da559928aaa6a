"""The command line for a team: shares of a plan, replaced and incomplete corpora, keys that can only read."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.token import claims_of
from latentbank.ingest.job import JobReport
from latentbank.ingest.workers import ray_cluster
from tests.cli.commands import Run
from tests.wire.double import QdrantDouble

KEY, READER = "the-admin-key-of-this-server", "a-key-that-only-reads"
SENTENCES = ["The dog chased a cat.", "A red apple lies on the table.", "The river bank was muddy."]


def test_shares_of_a_plan(run: Run, corpus: Path, model_dir: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    words = (
        "ingest",
        "plan",
        corpus,
        "--model",
        model_dir,
        "--layers",
        "1,2",
        "--plan",
        plan,
        "--no-calibrate",
    )
    planned = json.loads(run(*words, "--json")[1])["contexts"]
    share = ("ingest", "run", "--plan", plan, "--layers", "1,2", "--shard")

    code, out, _ = run(*share, "1/2", "--json")
    first = json.loads(out)
    assert (code, first["share"], first["complete"]) == (0, "1/2", False)
    (entry,) = json.loads(run("ingest", "status", "--json")[1])["corpora"]
    assert (entry["complete"], entry["stored"]) == (False, first["contexts"])
    assert [(share["share"], share["state"], share["stored"]) for share in entry["shares"]] == [
        ("0/2", "missing", None),
        ("1/2", "done", first["contexts"]),
    ]
    table = run("ingest", "status")[1]
    assert "0/2" in table
    assert "missing" in table
    query = ("query", "text", SENTENCES[0], "--bank-layers", "all", "--json")
    assert not any(token["neighbors"] for token in json.loads(run(*query)[1])["tokens"])
    shown = json.loads(run(*query, "--include-incomplete")[1])["tokens"]
    assert all(token["neighbors"] for token in shown)

    assert "is stored" in run(*share, "1/2")[1]
    code, out, _ = run(*share, "0/2", "--json")
    last = json.loads(out)
    assert (code, last["complete"], first["contexts"] + last["contexts"]) == (0, True, planned)
    (entry,) = json.loads(run("ingest", "status", "--json")[1])["corpora"]
    assert (entry["complete"], entry["stored"], entry["shares"]) == (True, planned, [])
    assert all(token["neighbors"] for token in json.loads(run(*query)[1])["tokens"])
    assert run("bank", "verify")[0] == 0


def test_a_share_without_a_plan(run: Run, corpus: Path, model_dir: Path, tmp_path: Path) -> None:
    for words in ((corpus,), (corpus, "--plan", tmp_path), ()):
        code, _, err = run("ingest", "run", *words, "--model", model_dir, "--shard", "0/2")
        assert code == 2
        assert "--shard needs a plan that exists already" in err
    code, _, err = run("ingest", "run", corpus, "--model", model_dir, "--ray", "local")
    assert (code, err.count("\n")) == (2, 1)
    assert "Workers on Ray need a bank on a server" in err
    code, _, err = run("ingest", "run", "--plan", tmp_path, "--shard", "2/2")
    assert (code, err.count("\n")) == (2, 1)
    assert "'2/2' is not a share" in err


def test_a_plan_for_ray_is_made_where_all_machines_read(
    run: Run, corpus: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is made where each machine of the cluster reads what the job wrote; workers then get its folder."""
    asked: list[tuple[Any, ...]] = []
    blind = ["10.0.0.7"]

    def apart(work: functools.partial[Any], _progress: object = None) -> Any:
        asked.append(work.args)
        if work.func is ray_cluster.blind_nodes:
            assert work.args[0].read_text(encoding="utf-8") == work.args[1]
            return blind
        return JobReport("few", 1, 1, 0, 1, 0.0, 0.0)

    monkeypatch.setattr(ray_cluster, "drive_apart", apart)
    monkeypatch.setattr(ray_cluster, "check_server", lambda settings: None)
    words = ("ingest", "run", corpus, "--model", model_dir, "--ray", "auto")
    code, _, err = run(*words)
    assert code == 2
    assert "10.0.0.7 of the Ray cluster cannot read" in err
    assert err.rstrip().endswith("name a folder that all machines share (--plan).")
    blind.clear()
    code, _, err = run(*words, "--plan", tmp_path / "shared")
    assert code == 0, err
    job, address, *_ = asked[-1]
    assert (job.plan, address) == (tmp_path / "shared", "auto")
    assert job.load_plan().corpus == "few"
    assert sorted(path.suffix for path in job.plan.iterdir()) == [".arrow", ".json"]


def test_a_corpus_is_replaced(run: Run, corpus: Path, model_dir: Path) -> None:
    words = ("ingest", "run", corpus, "--model", model_dir)
    assert run(*words)[0] == 0
    corpus.write_text("A new sentence about a dog.\nAnother one about the river.", encoding="utf-8")
    code, _, err = run(*words)
    assert code == 2
    assert "replace the old one, or drop it first (--replace, latentbank bank drop-corpus)" in err
    assert run(*words, "--replace")[0] == 0
    corpora = json.loads(run("ingest", "status", "--json")[1])["corpora"]
    assert [(entry["name"], entry["complete"], entry["sentences"]) for entry in corpora] == [("few", True, 2)]
    reading = json.loads(run("query", "text", SENTENCES[0], "--where", "corpus=few", "--json")[1])
    found = [neighbor for token in reading["tokens"] for neighbor in token["neighbors"]]
    assert {neighbor["corpus"] for neighbor in found} == {"few"}
    assert all(
        "new sentence" in neighbor["caption"] or "Another" in neighbor["caption"] for neighbor in found
    )
    assert run("bank", "verify")[0] == 0


def test_versions_of_a_bank(run: Run, corpus: Path, model_dir: Path, tmp_path: Path) -> None:
    words = ("ingest", "run", corpus, "--model", model_dir)
    assert run(*words, "--layers", "1")[0] == 0
    assert run("bank", "list")[1] == "tiny-llama\n"
    assert not re.search(r"^version", run("bank", "info")[1], re.MULTILINE)
    corpus.write_text("A new sentence about a dog.", encoding="utf-8")
    assert run(*words, "--bank", "tiny-llama@2", "--layers", "1,2")[0] == 0
    assert run("bank", "list")[1] == "tiny-llama  (versions 1, 2; in use: 1)\n"
    for bank, version in (("tiny-llama", 1), ("tiny-llama@1", 1), ("tiny-llama@2", 2)):
        info = json.loads(run("bank", "info", bank, "--json")[1])
        assert (info["bank"], info["bank_version"], info["in_use"]) == (bank, version, 1)
        assert (info["versions"], info["layers"]) == ([1, 2], [1, 2] if version == 2 else [1])

    code, out, _ = run("bank", "use", "tiny-llama@2")
    assert (code, out) == (
        0,
        "'tiny-llama' means version 2 now; `latentbank bank use tiny-llama@1` goes back.\n",
    )
    assert re.search(r"version\s+2 \(versions 1, 2; in use: 2\)", run("bank", "info")[1])
    reading = json.loads(run("query", "text", "The dog ran.", "--bank-layers", "all", "--json")[1])
    assert (reading["bank"], reading["bank_layers"]) == ("tiny-llama", [1, 2])
    captions = {neighbor["caption"] for token in reading["tokens"] for neighbor in token["neighbors"]}
    assert captions == {"A new sentence about a dog."}
    assert json.loads(run("bank", "use", "tiny-llama@1", "--json")[1]) == {
        "bank": "tiny-llama",
        "versions": [1, 2],
        "in_use": 1,
        "before": 2,
    }
    for words, message in (
        (("delete", "tiny-llama@1", "--yes"), "is in use; put another one in use first"),
        (("delete", "tiny-llama"), "has other versions than the one in use (tiny-llama@2)"),
        (("use", "tiny-llama"), "Name a version"),
        (("use", "tiny-llama@3"), "has no version 3; it has tiny-llama@1, tiny-llama@2"),
        (("info", "tiny-llama@0"), "cannot name a bank"),
    ):
        code, out, err = run("bank", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert run("bank", "delete", "tiny-llama@2", "--yes")[0] == 0
    assert json.loads(run("bank", "list", "--json")[1])["versions"] == {
        "tiny-llama": {"versions": [1], "in_use": 1}
    }


def test_a_token_for_a_reader(
    run: Run, corpus: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("bank", "token", "--read", "--expires", "30d", "--banks", "tiny-llama", "--layers", "1,2")
    code, _, err = run(*words)
    assert code == 2
    assert "set LATENTBANK_API_KEY" in err
    with QdrantDouble(api_key=KEY, read_only_key=READER) as server:
        monkeypatch.setenv("LATENTBANK_URL", server.url)
        monkeypatch.setenv("LATENTBANK_GRPC_PORT", str(server.grpc_port))
        monkeypatch.setenv("LATENTBANK_API_KEY", KEY)
        assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2")[0] == 0
        server.requests.clear()
        code, out, err = run(*words)
        assert code == 0, err
        asked = {request.operation for request in server.requests}  # for images that it opens, too
        assert asked == {"list_collections", "retrieve"}
        token = out.strip()
        assert claims_of(token)
        made = json.loads(run(*words, "--versions", "2,1", "--json")[1])
        assert (made["banks"], made["versions"]) == (["tiny-llama"], [1, 2])
        assert "'0' is not a list of versions" in run(*words, "--versions", "0")[2]
        assert "Say what the token allows" in run(*(word for word in words if word != "--read"))[2]

        for key in (token, READER):
            monkeypatch.setenv("LATENTBANK_API_KEY", key)
            for reads in (
                ("bank", "list"),
                ("bank", "info"),
                ("bank", "verify"),
                ("ingest", "status"),
                ("query", "text", SENTENCES[0]),
            ):
                assert run(*reads)[0] == 0, reads
            server.requests.clear()
            for writes in (
                ("ingest", "run", corpus, "--model", "no-such-model"),
                ("bank", "drop-corpus", "tiny-llama", "few"),
                ("bank", "delete", "tiny-llama"),
                ("bank", "use", "tiny-llama@2"),
                ("experiment", "corpus-swap", corpus, corpus),
                ("bank", "push", "no-such-bank"),
                ("bank", "import", tmp_path / "no-such-export"),
                ("ingest", "latentlens", tmp_path / "no-such-cache", "--model", "no-such-model"),
            ):
                code, out, err = run(*writes)
                assert (code, out) == (2, ""), writes
                assert "can only read banks, not create or change them" in err
                assert key not in err
            assert {request.operation for request in server.requests} <= {"update_aliases"}
        assert server.invalid_requests == []
