"""Two jobs with the same corpus in one folder: one makes the plan, the other waits, and readers keep what they read."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import portalocker
import pytest

from latentbank.bank.bank import Bank
from latentbank.errors import LatentBankError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import Corpus, corpus_from_sentences
from latentbank.ingest.plan import Plan, PlanSettings, load_plan
from latentbank.ingest.plan_files import LOCK, planning, remove_plans
from latentbank.ingest.planning import make_plan, plan_for
from tests.ingest.conftest import Tiny
from tests.tiny import TEXTS

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def bank(tiny: Tiny, tmp_path: Path) -> Iterator[Bank]:
    with create_bank("bank", tiny(), [1], data_dir=tmp_path / "banks") as opened:
        yield opened


@dataclass
class Gated:
    """Sentences of which the last one waits until `go` is set; `reads` counts how often they were read."""

    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    reads: int = 0

    def __iter__(self) -> Iterator[str]:
        self.reads += 1
        yield from TEXTS
        self.begun.set()
        assert self.go.wait(30)
        yield "The last one."


class Job(threading.Thread):
    """A job in a thread, with its result or its error."""

    def __init__(self, do: Callable[[], Plan]) -> None:
        super().__init__(daemon=True)
        self.do, self.plan, self.error = do, None, None  # type: Callable[[], Plan], Plan | None, object
        self.start()

    def run(self) -> None:
        try:
            self.plan = self.do()
        except BaseException as error:
            self.error = error

    def result(self) -> Plan:
        self.join(30)
        assert self.error is None
        assert self.plan is not None
        return self.plan


def read(plan: Plan) -> list[str]:
    return sorted(row.caption for row in plan.read())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_waits_and_uses_the_plan_of_the_first(
    tiny: Tiny,
    bank: Bank,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("latentbank.locks._QUIET", 0.0)
    model, folder, sentences = tiny(), tmp_path / "plan", Gated()

    def job(given: Gated) -> Callable[[], Plan]:
        return lambda: plan_for(bank, Corpus("c", (), sentences=given), model, folder)

    with caplog.at_level(logging.WARNING, "latentbank"):
        first = Job(job(sentences))
        assert sentences.begun.wait(30)
        other = Gated()
        other.go.set()
        second = Job(job(other))
        while not caplog.messages:
            time.sleep(0.01)
        assert other.reads == 0
        sentences.go.set()
        assert first.result() == second.result()
    assert other.reads == 1  # to compare it with the plan, not to plan it again
    assert caplog.messages == [
        f"Another thread of this process makes a plan in {folder}; waiting for it.",
        "Another job has planned 'c' meanwhile; its plan is used.",
    ]
    assert names(folder) == ["plan.json", first.result().file]


def test_another_corpus_is_planned_after_the_first(tiny: Tiny, bank: Bank, tmp_path: Path) -> None:
    folder, sentences = tmp_path / "plan", Gated()
    first = Job(lambda: plan_for(bank, Corpus("c", (), sentences=sentences), tiny(), folder))
    assert sentences.begun.wait(30)
    second = Job(lambda: plan_for(bank, corpus_from_sentences("c", TEXTS[:3]), tiny(), folder))
    sentences.go.set()
    assert "The last one." in read(first.result())
    assert read(second.result()) == sorted(TEXTS[:3])
    assert load_plan(folder) == second.result()


def test_what_a_job_reads_stays_until_it_ends(tiny: Tiny, tmp_path: Path) -> None:
    """A job whose folder gets another plan reads its own to the end, opened again or not; then the file goes."""
    model = tiny()
    plan = make_plan(corpus_from_sentences("c", TEXTS), model, tmp_path)
    rows = plan.read()
    begun = [next(rows).caption]
    for sentences in (TEXTS[:2], TEXTS[:3]):
        make_plan(corpus_from_sentences("c", sentences), model, tmp_path)
    assert sorted(begun + [row.caption for row in rows]) == read(plan) == sorted(TEXTS)
    assert (tmp_path / plan.file).exists()
    used = replace(plan, corpus="stored")  # as a job does
    file = plan.file
    del plan, rows
    make_plan(corpus_from_sentences("c", TEXTS[:2]), model, tmp_path)
    assert read(used) == sorted(TEXTS)
    del used
    last = make_plan(corpus_from_sentences("c", TEXTS[:2]), model, tmp_path)
    assert not (tmp_path / file).exists()
    assert names(tmp_path) == ["plan.json", last.file]


def test_a_killed_planner_leaves_the_earlier_plan(tiny: Tiny, tmp_path: Path) -> None:
    plan = make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    ours, theirs = FORK.Pipe()

    def sentences() -> Iterator[str]:
        yield from (f"dog {i}" for i in range(2000))
        theirs.send("half")
        signal.pause()

    child = FORK.Process(target=lambda: make_plan(Corpus("c", (), sentences=sentences()), tiny(), tmp_path))
    child.start()
    assert ours.recv() == "half"
    assert len(names(tmp_path)) == 4  # the lock and the unsorted sentences
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert load_plan(tmp_path) == plan
    again = make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    del plan
    make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    assert again.file in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_plan_that_is_replaced_while_it_is_opened(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description is read, then another job replaces plan and sentences, then the sentences are opened."""
    make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    once = iter([True])

    def hold(path: Path) -> None:
        if next(once, False):
            make_plan(corpus_from_sentences("c", TEXTS[:2]), tiny(), tmp_path)
            assert not path.exists()

    monkeypatch.setattr("latentbank.ingest.plan.hold_shared", hold)
    found = load_plan(tmp_path)
    assert found is not None
    assert read(found) == sorted(TEXTS[:2])


def test_foreign_files_in_the_folder_stay(tiny: Tiny, tmp_path: Path) -> None:
    mine = ["sentences-mine.arrow", "sentences.arrow", "notes.txt", ".hidden", "captions.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    plan = make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    assert names(tmp_path) == sorted([*mine, "plan.json", plan.file])
    del plan
    remove_plans(tmp_path)
    assert names(tmp_path) == sorted(mine)


def test_the_plan_of_an_earlier_version_is_read_and_replaced(tiny: Tiny, tmp_path: Path) -> None:
    plan = make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    (tmp_path / plan.file).rename(tmp_path / "sentences.arrow")
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace(f',\n "file": "{plan.file}"', ""))
    del plan
    old = load_plan(tmp_path)
    assert old is not None
    assert (old.file, read(old)) == ("sentences.arrow", sorted(TEXTS))
    del old
    plan = make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path)
    assert names(tmp_path) == ["plan.json", plan.file]


def test_plans_are_removed_but_for_what_is_in_use(tiny: Tiny, tmp_path: Path) -> None:
    root = tmp_path / "bank"
    make_plan(corpus_from_sentences("a", TEXTS), tiny(), root / "a")
    kept = make_plan(corpus_from_sentences("b", TEXTS), tiny(), root / "b")
    make_plan(corpus_from_sentences("c", TEXTS), tiny(), root / "c")
    with planning(root / "c"):
        remove_plans(root)
        assert load_plan(root / "c") is not None
    assert (names(root), names(root / "b")) == (["b", "c"], [kept.file])
    assert read(kept) == sorted(TEXTS)
    del kept
    remove_plans(root)
    assert not root.exists()


def test_a_plan_that_is_gone_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    plan = make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path / "plan")
    shutil.rmtree(tmp_path / "plan")
    with pytest.raises(LatentBankError, match=r"cannot be read any more .*run the job again"):
        next(plan.read())


def test_a_file_system_without_locks(
    tiny: Tiny, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs may then plan at once; each gets a whole plan, and nothing is removed under the other."""

    def none(*_: object) -> None:
        raise portalocker.LockException("No locks available")

    monkeypatch.setattr(portalocker, "lock", none)
    sentences = Gated()
    first = Job(lambda: plan_for(bank, Corpus("c", (), sentences=sentences), tiny(), tmp_path / "p"))
    assert sentences.begun.wait(30)
    second = plan_for(bank, corpus_from_sentences("c", TEXTS[:3]), tiny(), tmp_path / "p", PlanSettings())
    sentences.go.set()
    assert "The last one." in read(first.result())
    assert read(second) == sorted(TEXTS[:3])
    assert LOCK not in names(tmp_path / "p")
