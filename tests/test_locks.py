"""Locks between threads and processes, after kills, and on file systems without locks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import portalocker
import pytest

from latentbank.locks import Locked, hold_shared, is_free, locked

FORK = multiprocessing.get_context("fork")


def test_one_at_a_time_and_the_second_says_that_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.locks._QUIET", 0.0)
    lock, inside, together = tmp_path / "lock", [], []

    def hold(number: int) -> None:
        with locked(lock, "counts") as held:
            assert held
            inside.append(number)
            together.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    with caplog.at_level(logging.WARNING, "latentbank"), locked(lock, "counts"):
        for thread in threads:
            thread.start()
        while len(caplog.messages) < 4:
            time.sleep(0.01)
    for thread in threads:
        thread.join(30)
    assert together == [1] * 4
    assert set(caplog.messages) == {"Another thread of this process counts; waiting for it."}
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_leaves_the_lock_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    ours, theirs = FORK.Pipe()

    def hold() -> None:
        with locked(lock, "counts"):
            theirs.send("held")
            signal.pause()

    child = FORK.Process(target=hold)
    child.start()
    assert ours.recv() == "held"
    with pytest.raises(Locked, match=rf"^Another process \(pid {child.pid}\) counts; wait for it to end"):
        locked(lock, "counts", wait=False).__enter__()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with locked(lock, "counts", wait=False) as held:
        assert held


def test_a_file_that_is_held_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert hold_shared(path) is None
    assert not is_free(path)
    path.touch()
    assert is_free(path)
    first, second = hold_shared(path), hold_shared(path)
    assert first is not None
    assert second is not None
    first.close()
    assert not is_free(path)
    second.close()
    assert is_free(path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise portalocker.LockException("No locks available")

    monkeypatch.setattr(portalocker, "lock", none)
    with locked(tmp_path / "lock", "counts") as held:
        assert not held
        with locked(tmp_path / "lock", "counts") as held:
            assert not held
    (tmp_path / "file").touch()
    file = hold_shared(tmp_path / "file")
    assert file is not None
    file.close()
    assert not is_free(tmp_path / "file")  # nobody can know
