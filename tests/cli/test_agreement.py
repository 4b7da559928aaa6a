from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from latentbank.cli import app
from tests.cli.commands import Run

_VOTES = """study,item,rater,interpretable,relations
words,m/1/1,Ada,1,concrete
words,m/1/1,model-x,1,concrete
words,m/2/1,Ada,0,
words,m/2/1,model-x,1,global
"""


def test_agreement_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text(_VOTES)
    page = tmp_path / "out" / "page.html"
    done = CliRunner().invoke(
        app, ["agreement", str(tmp_path / "votes.csv"), "--judge", "model-x", "--page", str(page)]
    )
    assert done.exit_code == 0, done.output
    assert "words: the judge and the people's majority" in done.stdout
    assert "m/2/1" in page.read_text()
    assert "m/1/1" not in page.read_text()


def test_agreement_prints_json(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text(_VOTES)
    done = CliRunner().invoke(app, ["agreement", str(tmp_path / "votes.csv"), "--judge", "model-x", "--json"])
    (first, *_) = json.loads(done.stdout)
    assert (first["between"], first["kind"], first["items"]) == ("judge", "any", 2)
    assert first["accuracy"]["value"] == 0.5


def test_wrong_options_are_refused(run: Run, tmp_path: Path) -> None:
    votes = tmp_path / "votes.csv"
    votes.write_text(_VOTES)
    for words, message in (
        (("--judge", "gpt"), "There is no rater gpt; there are Ada, model-x (--judge)"),
        (("--readings", tmp_path), "name its file (--page)"),
        (("--page", tmp_path / "p.html", "--images", tmp_path), "name the readings (--readings)"),
        (("--page", tmp_path / "p.html", "--readings", tmp_path), "holds no readings"),
    ):
        code, out, err = run("agreement", votes, *words)
        assert (code, out) == (2, "")
        assert message in err
