"""`latentbank annotate` as a user starts it: it refuses what is wrong, serves guarded, and ends by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from latentbank.query.judging.annotations import Annotations
from tests import children
from tests.cli.commands import Run
from tests.query.judging.asked import readings_in

TOKEN = "correct-horse-battery"


def test_an_error_a_user_can_fix_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATENTBANK_TOKEN", raising=False)
    pictures, readings = readings_in(tmp_path, images=2)
    (tmp_path / "none").mkdir()
    port = ("--port", "0")
    for words, message in (
        ((readings, "--host", "0.0.0.0"), "give a --token"),
        ((tmp_path / "none", *port), "holds no readings"),
        ((readings, *port, "-o", "a.csv"), "a.csv is no .jsonl file"),
        ((readings, *port, "--controls", "2"), "(--controls)"),
        ((readings, *port, "--lens", "logit", "--sentences"), "There is nothing to ask"),
        ((readings, *port, "--images", tmp_path / "gone.png"), "gone.png"),
    ):
        code, out, err = run("annotate", *words)
        assert (code, out) == (2, ""), words
        assert message in err
    next(pictures.iterdir()).unlink()
    code, _, err = run("annotate", readings, *port)
    assert code == 2
    assert "is not there (1 of 2 are missing)" in err
    assert "(--images)" in err


def test_it_serves_questions_to_who_has_the_token_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    _, readings = readings_in(tmp_path, images=2)
    answers = tmp_path / "a.jsonl"
    words = [sys.executable, "-m", "latentbank", "annotate", str(readings), "-o", str(answers), "--port", "0"]
    environment = {**os.environ, "LATENTBANK_TOKEN": TOKEN}
    started = children.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    try:
        heard = [started.stderr.readline(), started.stderr.readline()]
        while heard[0].startswith(
            "choosing questions:"
        ):  # on a busy machine that takes long enough to be shown
            heard = [heard[1], started.stderr.readline()]
        assert heard[0] == f"8 questions; answers go to {answers}.\n"
        address = heard[1].split()[4].rstrip(";")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}api/questions/0?rater=Ada")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = f"{address}api/answers?rater=Ada&question=0&kinds=concrete,"
        with urllib.request.urlopen(urllib.request.Request(answer, headers=headers, method="POST")) as said:
            assert json.load(said) == {"kinds": ["concrete", ""]}
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
        assert TOKEN not in "".join(heard) + started.stderr.read()
    finally:
        started.kill()
        started.wait()
        started.stderr.close()
    assert list(Annotations(answers).of("Ada").values()) == [("concrete", "")]
