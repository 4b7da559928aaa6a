"""Faults on one machine: the job is killed, or its disk is full."""

from __future__ import annotations

import gc
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from latentbank.ingest.plan import load_plan
from tests.faults.trial import BATCH, Outcome, Reference, Trial
from tests.ingest.jobs import Calls, Event, Place, acknowledged, start_job

# Seconds after the chosen moment at which a job is killed, at most: long enough for the next thing to begin.
_AFTER = 0.02


def kills(trial: Trial, chance: random.Random, times: int) -> Outcome:
    """Kill the job with signal 9 at random moments and continue it; when it ends, begin again with an empty bank.

    A moment is one of the things that an undisturbed job begins or ends (opening and making the bank, planning,
    forward passes, writes, commits, indexing, the ledger), and up to 20 ms after it.
    """
    shared, reference = bool(trial.place.url), trial.reference
    events = start_job(trial.place, reference.sentences, batch=BATCH).rest()
    assert events[-1].name == "end", events[-1].error
    moments, killed = len(events), 0
    start_over(trial)
    while killed < times:
        at, delay = chance.randrange(1, moments), chance.random() * _AFTER

        def now(events: list[Event], at: int = at) -> bool:
            return len(events) == at

        trial.outcome.runs += 1
        events = start_job(trial.place, reference.sentences, batch=BATCH).killed(now, delay)
        trial.safe |= acknowledged(events, shared=shared)
        if events[-1].name != "end":
            assert events[-1].name != "stopped", events[-1].error
            killed += 1
            trial.check()
        else:
            trial.count()
            start_over(trial)
    trial.outcome.struck += killed
    return trial.finish()


def start_over(trial: Trial) -> None:
    """Delete the bank and the plan."""
    trial.place.start_over()
    trial.safe.clear()


@contextmanager
def small_disk(path: Path) -> Iterator[Path | None]:
    """Mount a disk of 400 MB at `path`; returns None if that is not permitted (it takes root on Linux)."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield path
    finally:
        gc.collect()  # plans hold their files while they are kept in tracebacks
        subprocess.run(["umount", str(path)], check=True)


@dataclass(frozen=True)
class AtStage:
    """Progress that calls a function when a stage begins."""

    what: str
    do: Callable[[], None]

    def stage(self, what: str, unit: str) -> None:
        if what == self.what:
            self.do()

    def update(self, done: float, total: float | None = None) -> None:
        """Do nothing."""


def full_disk(reference: Reference, disk: Path, chance: random.Random, times: int) -> Outcome:
    """The disk is full: from the start, while planning, from a random batch on, while indexing.

    There is room again before each next run.
    """
    outcome, ballast = Outcome(), disk / "ballast"

    def fill_up(left: int = 0) -> None:
        # Written, because truncate would take no space. The engine may have taken some in the meantime.
        with suppress(OSError):
            ballast.write_bytes(bytes(max(shutil.disk_usage(disk).free - left, 0)))

    def fill_up_nearly() -> None:
        fill_up(1 << 20)

    for number in range(times):
        trial = Trial(reference, Place(reference.directory, disk / str(number)))
        trial.place.folder.mkdir()
        fill_up()
        assert trial.attempt() is None
        ballast.unlink()
        assert trial.attempt(planning=AtStage("sorting", fill_up)) is None
        ballast.unlink()
        assert load_plan(trial.place.folder / "plans" / "c") is None
        for progress in (Calls(chance.randint(1, 4), fill_up_nearly), AtStage("indexing", fill_up)):
            assert trial.attempt(progress) is None
            ballast.unlink()
            trial.check()
        assert trial.safe
        assert all("room" in message for message in trial.outcome.stops), trial.outcome.stops
        trial.outcome.struck = 4
        outcome.add(trial.finish())
        shutil.rmtree(trial.place.folder)
    return outcome
