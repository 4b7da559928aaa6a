"""The benchmark of a server, tiny and against the double."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import server as benchmark
from latentbank.bank.opening import list_banks
from latentbank.bank.settings import load_settings
from tests.wire.double import QdrantDouble


def test_a_run_fills_in_the_table_and_leaves_no_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, results = tmp_path / "page.md", tmp_path / "results.json"
    docs.write_text(f"# Page\n\n{benchmark.BEGIN}\nbefore\n{benchmark.END}\n\nmore\n")
    monkeypatch.setattr(benchmark, "_PROBE", 1 << 20)
    monkeypatch.setattr(benchmark, "_SLICE", 20)
    monkeypatch.setenv("LATENTBANK_API_KEY", "the-key")
    with QdrantDouble(api_key="the-key") as double:
        words = "--store 40 --store-widths 8,16 --connections 1,2 --batches 16 --turns 1 --contexts 30,50 --width 8 "
        words += f"--queries 7 --grpc-port {double.grpc_port} --json {results} --docs {docs} {double.url}"
        monkeypatch.setattr(sys, "argv", ["benchmarks.server", *words.split()])
        benchmark.main()
        settings = load_settings(url=double.url, grpc_port=double.grpc_port)
        assert list_banks(settings) == []
    found = json.loads(results.read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert rows["50 contexts: queries with the same nearest context"]["latentbank"] == "7 of 7"
    assert rows["storing, 16 dimensions, 2 connections, 16 a request: contexts/s"]["result"] > 0
    assert [part["contexts"] for part in found["measured"]["storing"]] == [40, 20]
    text = docs.read_text()
    assert text.startswith("# Page\n")
    assert text.endswith(f"{benchmark.END}\n\nmore\n")
    assert "before" not in text
    assert text.count("| 30 contexts: index, s |") == 1
    assert "Qdrant 1.18" in text
    assert "on this machine" in text
    assert "the-key" not in text + results.read_text() + capsys.readouterr().out


def test_a_page_without_a_place_for_the_table() -> None:
    with pytest.raises(SystemExit, match="no place for the table"):
        benchmark.filled_in("# Page\n", {}, [], {})
