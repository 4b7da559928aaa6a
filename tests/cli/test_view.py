"""`latentbank view` as a user starts it: it refuses wrong options, starts guarded and ends by Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from latentbank.bank.settings import load_settings
from latentbank.cli.options.models import demo_folder
from latentbank.cli.view import shipped_pictures, shown_names
from latentbank.demo.names import LANGUAGE_NAME
from latentbank.errors import ModelError
from latentbank.found_models import remember
from latentbank.identity import Identity
from tests import children
from tests.cli.commands import Run, caller

ROOT = Path(__file__).parents[2]
TOKEN = "correct-horse-battery"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.delenv("LATENTBANK_TOKEN", raising=False)
    return caller(monkeypatch, capfd, tmp_path / "data", 100)


def test_an_error_a_user_can_fix_is_one_line(run: Run) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for words, message in (
        (("--host", "0.0.0.0"), "give a --token"),
        (("--token", "short"), "give one of 12 letters or more"),
        (("--port", port), f"cannot be shown on 127.0.0.1, port {port}"),
        (("--port", "0"), "Name a bank; there is none yet"),
        (("--model", "a", "--model", "b", "--revision", "main"), "--revision is for one model"),
        (("--correct", "all"), "There is no correction 'all'; there are hubs, mean, both"),
    ):
        code, out, err = run("view", *words)
        assert (code, out) == (2, "")
        assert message in err
        assert "short" not in err or "short enough" in err
    taken.close()


def test_the_environment_may_name_the_models(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBANK_VLM", "a b")
    code, _, err = run("view", "--revision", "main")
    assert code == 2
    assert "--revision is for one model" in err


def test_it_starts_guarded_and_ends_by_ctrl_c() -> None:
    words = [sys.executable, "-m", "latentbank", "view", "--saved-only", "--port", "0"]
    started = children.Popen(
        words, cwd=ROOT, env={**os.environ, "LATENTBANK_TOKEN": TOKEN}, stderr=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    try:
        line = started.stderr.readline()
        address = line.split()[4].rstrip(";")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address)
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request) as answer:
            assert b"<!doctype html>" in answer.read()
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
        assert TOKEN not in line + started.stderr.read()
    finally:
        started.kill()
        started.wait()
        started.stderr.close()


def test_without_the_demos_pictures_there_is_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModelError("not installed")

    monkeypatch.setattr("latentbank.demo.scenes.load_things", missing)
    assert list(shipped_pictures()) == ["a cat"]


def test_models_are_chosen_by_names_without_their_paths(tmp_path: Path) -> None:
    for folder in ("one/llava", "two/llava"):
        (tmp_path / folder).mkdir(parents=True)
    first, second = (str(tmp_path / folder) for folder in ("one/llava", "two/llava"))
    assert shown_names(["demo", first, "org/llava", second, "demo"]) == {
        "demo": "demo",
        "llava": first,
        "org/llava": "org/llava",
        "llava (2)": second,
    }


def test_the_demos_llm_is_taken_from_where_it_lies(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "banks", url="")
    kept = tmp_path / "banks" / ".models" / "demo"
    assert demo_folder(settings) == kept
    beside = tmp_path / LANGUAGE_NAME
    for folder in (beside, elsewhere := tmp_path / "other" / LANGUAGE_NAME, kept):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        if folder == elsewhere:
            remember(settings.data_dir, str(elsewhere), Identity("f"))
        assert demo_folder(settings) == folder
