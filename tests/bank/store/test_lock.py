"""The lock of an embedded bank: which processes hold it, and which are waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.opening import open_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.store.embedded import lock, optimizing
from latentbank.errors import BankBusy
from tests.bank.samples import Place, Start, fill, is_one_sentence, next_line, sample_bank

# Stands in for the process that indexes a layer: it holds the lock that it inherits until it is ended.
STAND_IN = """
import sys, time
from latentbank.bank.store.embedded.lock import record_indexer
if sys.argv[2] == "recorded":
    record_indexer(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(3600)
"""
# Seconds that one pause takes on the waiting process's clock: longer than any deadline.
LONG = 60.0


@pytest.fixture
def place(data_dir: Path) -> Place:
    place = Place("embedded", load_settings(data_dir=data_dir))
    with sample_bank(place) as made:
        fill(made, 10)
    return place


def work(data_dir: str, kind: str) -> None:
    """Open the bank in another process and start a stand-in, which inherits the lock; print the stand-in's pid."""
    bank = open_bank("bank", data_dir=data_dir)
    lock: Any = bank.store._access.lock  # type: ignore[attr-defined]  # past the interface, on purpose

    def stand_in(descriptor: int) -> None:
        command = [sys.executable, "-c", STAND_IN, str(descriptor), kind]
        child = subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        print(child.pid, flush=True)
        sys.stdin.readline()

    if kind == "not indexing":
        stand_in(lock._file.fileno())
    else:
        with lock.lend() as descriptor:
            stand_in(descriptor)


@dataclass
class Job:
    """A job that has the bank open, and the stand-in that it has started."""

    process: subprocess.Popen[str]
    stand_in: int

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL


@pytest.fixture
def job(place: Place, start: Start) -> Iterator[Callable[[str], Job]]:
    """Start jobs; their stand-ins are ended at the end."""
    jobs: list[Job] = []

    def begin(kind: str) -> Job:
        process = start(work, place.settings.data_dir, kind)
        jobs.append(Job(process, int(next_line(process))))
        return jobs[-1]

    yield begin
    for begun in jobs:
        with suppress(ProcessLookupError):
            os.kill(begun.stand_in, signal.SIGKILL)


class Clock:
    """The clock of a process that waits for the lock: each pause takes `step` seconds, after `count` `then` is called.

    From then on the clock stands still and pauses are real.
    """

    def __init__(self, step: float, count: int, then: Callable[[], object]) -> None:
        self.step, self.count, self.then = step, count, then
        self.now, self.pauses = 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        if self.pauses > self.count:
            time.sleep(seconds)
            return
        self.now += self.step
        if self.pauses == self.count:
            self.then()


@pytest.mark.parametrize("kind", ["recorded", "not yet recorded"])
def test_an_indexing_process_whose_job_has_ended_is_waited_for(
    place: Place,
    job: Callable[[str], Job],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The wait lasts as long as that process lives; here it ends after minutes on the waiting process's clock."""
    begun = job(kind)
    begun.kill()
    clock = Clock(LONG, 5, lambda: os.kill(begun.stand_in, signal.SIGKILL))
    monkeypatch.setattr(lock, "time", clock)
    with open_bank("bank", place.settings) as opened:
        assert clock.pauses >= 5
        assert opened.verify() == []
    named = begun.stand_in if kind == "recorded" else r"?"
    assert [record.getMessage() for record in caplog.records] == [
        f"The bank 'bank' is still being indexed by a process (pid {named}) whose job (pid {begun.process.pid}) has "
        "ended."
    ]


def test_an_indexing_process_that_does_not_end_is_named(
    place: Place, job: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = job("recorded")
    begun.kill()
    monkeypatch.setattr(lock, "time", Clock(lock._LONGEST_WAIT, 1, lambda: None))
    with pytest.raises(
        BankBusy, match=rf"is still being indexed by a process \(pid {begun.stand_in}\) whose job \(pid"
    ) as found:
        open_bank("bank", place.settings)
    assert is_one_sentence(found.value)
    os.kill(begun.stand_in, 0)  # it is still alive


@pytest.mark.parametrize(
    ("kind", "killed", "message"),
    [
        ("recorded", False, r"open in another process \(pid {job}\); close it there"),
        ("not indexing", False, r"open in another process \(pid {job}\); close it there"),
        (
            "not indexing",
            True,
            r"held by a process that the job which opened it \(pid {job}, ended\) has started, or by one that may",
        ),
    ],
)
def test_nobody_else_is_waited_for(
    place: Place,
    job: Callable[[str], Job],
    kind: str,
    killed: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = job(kind)
    if killed:
        begun.kill()
    clock = Clock(LONG, 1, lambda: None)
    monkeypatch.setattr(lock, "time", clock)
    with pytest.raises(BankBusy, match=message.format(job=begun.process.pid)) as found:
        open_bank("bank", place.settings)
    assert is_one_sentence(found.value)
    assert clock.pauses == 0


def test_the_process_that_indexes_adds_its_number(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizing, "_OTHER_PROCESS_FROM", 0)
    file, lower_priority = place.settings.data_dir / "bank" / "lock", optimizing._lower_priority
    noted: list[str] = []

    def wait(pid: int, *, read: bool) -> None:
        lower_priority(pid, read=read)
        last = f"{os.getpid()} indexing {pid}"
        while file.read_text() != last:
            time.sleep(0.01)
        noted.append(last)

    monkeypatch.setattr(optimizing, "_lower_priority", wait)
    with open_bank("bank", place.settings) as opened:
        opened.store.index(4)
        assert file.read_text() == str(os.getpid())
    assert len(noted) == 1


def test_a_job_that_nobody_has_waited_for_has_ended(place: Place, job: Callable[[str], Job]) -> None:
    """Only Linux tells which processes have ended without being waited for."""
    begun = job("recorded")
    begun.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, begun.process.pid, os.WEXITED | os.WNOWAIT)
    assert lock._exists(begun.process.pid)
    assert lock._has_ended(begun.process.pid) == sys.platform.startswith("linux")
