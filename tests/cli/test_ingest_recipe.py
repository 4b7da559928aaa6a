"""`ingest recipe` as a user types it, with a tiny LLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Run, caller

PHRASES = ["The dog chased a cat", "a cat on a table", "A red apple lies on the table", "the river bank", ""]


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    file = tmp_path / "region_descriptions.json"
    regions = [{"phrase": phrase} for phrase in PHRASES + PHRASES]
    file.write_text(json.dumps([{"id": 1, "regions": regions}]))
    return file


def test_the_papers_corpus_from_plan_to_bank(
    run: Run,
    regions: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = (
        "ingest",
        "recipe",
        "visual-genome",
        regions,
        "--model",
        model_dir,
        "--layers",
        "paper",
        "--json",
    )
    code, out, err = run(*words, "--dry-run", "--no-calibrate")
    planned = json.loads(out)
    assert (code, planned["layers"], planned["sentences"]) == (0, [1, 2, 3], 4)
    assert planned["recipe"]["cleaned"] == {
        "records": 10, "sentences": 4, "empty": 2, "fragments": 0, "duplicates": 4,
    }  # fmt: skip
    assert planned["recipe"]["licence"] == "CC BY 4.0"
    assert planned["settings"] == planned["choice"]
    assert (planned["choice"]["sampling"], planned["choice"]["contexts_per_token"]) == ("reservoir", 20)
    assert json.loads(run("bank", "list", "--json")[1])["banks"] == []
    assert "4 sentences of 10 records" in err
    assert "2 empty; 4 repeated" in err

    code, out, err = run(*words)
    stored = json.loads(out)
    assert (code, stored["corpus"], stored["contexts"]) == (0, "visual-genome", planned["contexts"])
    assert json.loads(run(*words)[1])["encoded"] == 0  # run again, it finds everything stored
    (entry,) = json.loads(run("ingest", "status", "--json")[1])["corpora"]
    assert entry["plan"] == {
        "bos": "tokenizer", "skip": 0, "contexts_per_token": 20, "max_tokens": 512, "sampling": "reservoir",
    }  # fmt: skip
    code, _, err = run(*words, "--first-position", "2")
    assert (code, "planned with" in err, "first_position=2" in err) == (2, True, True)
    # The same file gives the same plan in another place, under another name.
    elsewhere = caller(monkeypatch, capfd, tmp_path / "elsewhere", 150)
    again = json.loads(elsewhere(*words, "--dry-run", "--no-calibrate", "--name", "vg")[1])
    for key in ("content_hash", "contexts", "prefixes", "caption_bytes"):
        assert again[key] == planned[key]


def test_the_list_of_recipes(run: Run) -> None:
    recipes = json.loads(run("ingest", "recipe", "--json")[1])["recipes"]
    assert [recipe["name"] for recipe in recipes] == ["visual-genome", "wikipedia", "pixmo-cap", "concepts"]
    shown = run("ingest", "recipe")[1]
    for recipe in recipes:
        assert recipe["licence"] in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("visual-genome",), "Name the LLM with --model"),
        (("visual-genome", "--model", "m"), "needs a file: region_descriptions.json"),
        (("wiki",), "There is no recipe 'wiki'"),
        (("wiki", "--model", "m"), "There is no recipe 'wiki'"),
        (("concepts", "--model", "m", "--shard", "0/2"), "make it with --dry-run --plan DIR"),
        (("concepts", "--model", "m", "--sampling", "last"), "sampling is 'last'"),
    ],
)
def test_what_is_missing(words: tuple[str, ...], message: str, run: Run) -> None:
    code, _, err = run("ingest", "recipe", *words)
    assert (code, message in err) == (2, True), err
