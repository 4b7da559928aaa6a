"""The runner of stages: what is done is skipped, what was begun goes on, what has changed runs again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentbank.errors import LatentBankError
from latentbank.progress import Progress
from latentbank.query.reproduction.measured import Measured
from latentbank.query.reproduction.stages import Stage, run_stages

ROW = Measured("shares", "m", "latent", "any", value=0.5)


def stage(name: str, ran: list[str], after: tuple[str, ...] = (), **inputs: Any) -> Stage:
    def run(folder: Path, progress: Progress) -> Iterable[Measured]:
        ran.append(name)
        return [replace(ROW, model=name)]

    return Stage(name, inputs, run, after)


def chain(ran: list[str], **inputs: Any) -> list[Stage]:
    """Three stages, of which the third is made from the first alone."""
    return [
        stage("bank/m", ran, **inputs),
        stage("tokens/m", ran),
        stage("readings/m", ran, ("bank/m",)),
    ]


def test_a_stage_runs_once(tmp_path: Path) -> None:
    ran: list[str] = []
    first = run_stages(chain(ran, a=1), tmp_path)
    again = run_stages(chain(ran, a=1), tmp_path)
    assert ran == ["bank/m", "tokens/m", "readings/m"]
    assert [done.skipped for done in first] == [False] * 3
    assert [done.skipped for done in again] == [True] * 3
    assert [done.rows for done in again] == [done.rows for done in first]
    assert again[0].rows == (replace(ROW, model="bank/m"),)


def test_what_depends_on_a_change_runs_again(tmp_path: Path) -> None:
    ran: list[str] = []
    run_stages(chain(ran, a=1), tmp_path)
    (tmp_path / "bank/m/left").write_text("from other inputs")
    ran.clear()
    run_stages(chain(ran, a=2), tmp_path)
    assert ran == ["bank/m", "readings/m"]
    assert not (tmp_path / "bank/m/left").exists()


@pytest.mark.parametrize("spoil", ["rows.parquet", "stage.json"])
def test_a_stage_without_its_result_runs_again(tmp_path: Path, spoil: str) -> None:
    ran: list[str] = []
    run_stages(chain(ran), tmp_path)
    ran.clear()
    (tmp_path / "tokens/m" / spoil).unlink()
    run_stages(chain(ran), tmp_path)
    assert ran == ["tokens/m"]


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    def fail(folder: Path, progress: Progress) -> Iterable[Measured]:
        (folder / "part").write_text("kept")
        raise LatentBankError("no.")

    ran: list[str] = []
    stages = [stage("bank/m", ran), Stage("tokens/m", {}, fail)]
    with pytest.raises(LatentBankError, match=r"^no\.$"):
        run_stages(stages, tmp_path)
    done = run_stages([stages[0], stage("tokens/m", ran)], tmp_path)
    assert [one.skipped for one in done] == [True, False]
    assert (tmp_path / "tokens/m/part").read_text() == "kept"  # the same inputs: its work goes on


_KILLED = """
import os, signal, sys
from pathlib import Path
from latentbank.query.reproduction.measured import Measured
from latentbank.query.reproduction.stages import Stage, run_stages

def count(folder, progress):
    with open(sys.argv[2], "a") as log:
        log.write(folder.parent.name)
    parts = len(list(folder.glob("part-*")))
    for number in range(parts, 3):
        (folder / f"part-{number}").touch()
        if folder.parent.name == "b" and parts == 0 and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return [Measured("shares", "m", "", "any", value=3 - parts)]

stages = [Stage("a/m", {}, count), Stage("b/m", {}, count, ("a/m",)), Stage("c/m", {}, count, ("b/m",))]
print([int(row.value) for done in run_stages(stages, Path(sys.argv[1])) for row in done.rows])
"""


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", _KILLED, str(tmp_path / "stages"), str(log)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert run().returncode == -signal.SIGKILL
    assert log.read_text() == "ab"
    second = run()
    assert second.returncode == 0, second.stderr
    # The first stage is skipped; the second has two of its three parts.
    assert second.stdout.strip() == "[3, 1, 3]"
    assert log.read_text() == "abbc"


def test_progress_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    say: Callable[[str], None] = said.append
    run_stages(chain([]), tmp_path, say=say)
    run_stages(chain([]), tmp_path, say=say)
    assert said[0] == "1 of 3, bank/m ..."
    assert said[-1] == "3 of 3, readings/m: done before, in 0 s"
