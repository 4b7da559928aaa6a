"""Jobs on small banks, in this process or in a process of their own that can be killed."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import latentbank.bank.manifest
import latentbank.ingest.job
import latentbank.ingest.planning
import latentbank.ingest.workers.shares
import latentbank.ingest.writer
from latentbank.bank.bank import Bank
from latentbank.bank.opening import delete_bank
from latentbank.bank.settings import Metric, load_settings
from latentbank.bank.where import Where
from latentbank.errors import LatentBankError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import Plan, PlanSettings, load_plan
from latentbank.ingest.planning import plan_for
from latentbank.ingest.workers.shares import parse_share
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.progress import Progress
from tests import (
    children,
    real_server,  # noqa: F401 - names collections on a real server, in child processes too
)

# Created here, in the process that all others are forked from; otherwise each would leave a lock of its own behind.
tqdm.get_lock()

LAYERS = (0, 2, 4)
BATCH = 128


def some_sentences(count: int = 120) -> list[str]:
    """Return sentences, many with the same beginning; the result is the same in every process."""
    chance = random.Random(3)
    who = ("A dog", "A cat", "The old fisherman", "Two children", "The baker", "A woman")
    verb = ("runs over", "sleeps near", "watches", "crosses", "builds", "reads about")
    what = ("the green grass", "a red ball", "the small village", "the stone oven", "a castle of sand")
    where = ("in the morning light.", "while the rain falls.", "near the sea.", "", "with a crowded café.")
    return [" ".join(map(chance.choice, (who, verb, what, where))).strip() + f" {i}" for i in range(count)]


@dataclass(frozen=True)
class Place:
    """Where a job works: all that another process has to know."""

    model: Path
    folder: Path
    url: str = ""
    grpc_port: int = 6334
    graph_from: int = 200
    metric: Metric = "cosine"
    prefer_grpc: bool = True
    timeout: int = 60
    retries: int = 2

    def bank(self, model: LanguageModel) -> Bank:
        """Open the bank, creating it if it is new."""
        return create_bank(
            "bank",
            model,
            LAYERS,
            url=self.url,
            grpc_port=self.grpc_port,
            data_dir=self.folder,
            prefer_grpc=self.prefer_grpc,
            retries=self.retries,
            retry_wait=0.01,
            timeout=self.timeout,
            graph_from=self.graph_from,
            metric=self.metric,
        )

    def plan(
        self,
        bank: Bank,
        model: LanguageModel,
        sentences: list[str],
        corpus: str = "c",
        progress: Progress | None = None,
        replace: bool = False,
        **choice: Any,
    ) -> Plan:
        """Return the plan of a corpus."""
        settings = PlanSettings(**{"contexts_per_token": 100, **choice})
        made = corpus_from_sentences(corpus, sentences)
        folder = self.folder / "plans" / corpus
        return plan_for(bank, made, model, folder, settings, progress, replace=replace)

    def job(self, model: LanguageModel, sentences: list[str], corpus: str = "c") -> JobReport:
        """Open the bank, plan, store the plan, and close the bank."""
        with self.bank(model) as bank:
            return store_plan(bank, self.plan(bank, model, sentences, corpus), model, batch=BATCH)

    def start_over(self) -> None:
        """Delete the bank and the plans."""
        settings = load_settings(url=self.url, grpc_port=self.grpc_port, data_dir=self.folder)
        delete_bank("bank", settings)
        shutil.rmtree(self.folder / "plans", ignore_errors=True)


@dataclass
class Calls:
    """Progress that counts its calls before the first stage, and calls `do` at the nth."""

    at: int = 0
    do: Callable[[], object] = lambda: None
    calls: int = 0
    last: tuple[float, float | None] = (0, None)
    stages: list[str] = field(default_factory=list)

    def stage(self, what: str, unit: str) -> None:
        self.stages.append(f"{what} {unit}")

    def update(self, done: float, total: float | None = None) -> None:
        if self.stages:
            return
        self.calls += 1
        self.last = (done, total)
        if self.calls == self.at:
            self.do()


# -- a process that can be killed ----------------------------------------------------------------

# A job's writer and its LLM send events at the same time.
_speaking = threading.Lock()
# Seconds that a process waits to be killed, at most.
_FOR_GOOD = 600.0
_SPIED = ("change_entry", "defer_index", "present", "upsert", "commit", "index")


@dataclass(frozen=True)
class Event:
    """A report of the other process: it begins or has ended something.

    An upsert names its layer and contexts; a job that stopped gives its error.
    """

    name: str
    begins: bool
    layer: int = -1
    ids: tuple[str, ...] = ()
    error: str = ""


def _say(line: Connection, event: Event) -> None:
    with _speaking:
        line.send(event)


def _spied(
    name: str, method: Callable[..., Any], line: Connection, last: tuple[str, int] = ("", 0)
) -> Callable[..., Any]:
    """Return a method that reports its calls; if it is the `last` one, its nth call waits to be killed."""
    calls = itertools.count(1)

    @functools.wraps(method)
    def call(*given: Any, **named: Any) -> Any:
        number = next(calls)
        _say(line, Event(name, True))
        if (name, number) == last:
            time.sleep(_FOR_GOOD)
        found = method(*given, **named)
        _say(line, Event(name, False, *((given[0], tuple(given[1].ids)) if name == "upsert" else ())))
        return found

    return call


class _Telling:
    """Progress of planning that reports each call, and waits at the nth call until the process is killed."""

    def __init__(self, line: Connection, last: int) -> None:
        self.line, self.left = line, last

    def update(self, done: float, total: float | None = None) -> None:
        self.line.send(Event("planning", True))
        self.left -= 1
        if self.left == 0:
            time.sleep(_FOR_GOOD)

    def stage(self, what: str, unit: str) -> None:
        """Report nothing."""


def set_clock(hours: float) -> None:
    """Set this process's clock ahead by some hours."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    for module in (latentbank.bank.manifest, latentbank.ingest.workers.shares):
        module.datetime = Clock  # type: ignore[attr-defined]


def _share(
    place: Place,
    directory: Path,
    text: str,
    line: Connection,
    batch: int,
    replace: bool,
    clock: float,
    last: tuple[str, int],
) -> None:
    torch.set_num_threads(1)
    set_clock(clock)
    latentbank.ingest.job.LEDGER_SECONDS = 0.0
    model, plan = load_language_model(str(place.model), device="cpu"), load_plan(directory)
    assert plan is not None
    with place.bank(model) as bank:
        for name in _SPIED:
            setattr(bank.store, name, _spied(name, getattr(bank.store, name), line, last))
        report = store_plan(bank, plan, model, batch=batch, share=parse_share(text), replace=replace)
    line.send(report)


@dataclass
class Worker:
    """A worker with a share of a plan, in a process of its own; see `start_worker`."""

    process: Any
    line: Connection
    last: tuple[str, int]

    def kill(self) -> None:
        """Wait until it begins what it begins last, and kill it with signal 9 there."""
        name, times = self.last
        while times:
            event = self.line.recv()
            assert isinstance(event, Event), f"it has finished before it began {name}"
            times -= event.begins and event.name == name
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.line.close()

    def report(self) -> JobReport:
        """Wait until it has finished, and return its report."""
        while not isinstance(received := self.line.recv(), JobReport):
            pass
        self.process.join()
        self.line.close()
        return received


def start_worker(
    place: Place,
    directory: Path,
    share: str,
    batch: int = BATCH,
    replace: bool = False,
    clock: float = 0.0,
    last: tuple[str, int] = ("", 0),
) -> Worker:
    """Start a worker with a share of the plan in `directory`.

    Args:
        place: where the bank is.
        directory: the plan's.
        share: such as 0/4.
        batch: tokens in a forward pass.
        replace: the corpus takes the place of the one of its name.
        clock: hours that its clock is ahead.
        last: what it begins last, and at which time; there it waits to be killed.
    """
    ours, theirs = _context().Pipe(duplex=False)
    given = (place, directory, share, theirs, batch, replace, clock, last)
    process = _context().Process(target=_share, args=given)
    process.start()
    theirs.close()
    return Worker(process, ours, last)


def _work(place: Place, sentences: list[str], line: Connection, planning: int, batch: int) -> None:
    torch.set_num_threads(1)
    latentbank.ingest.writer.COMMIT_SECONDS = 0.0  # after every batch
    latentbank.ingest.job.LEDGER_SECONDS = 0.0
    latentbank.ingest.planning._BATCH = 32
    model = load_language_model(str(place.model), device="cpu")
    model._run = _spied("forward", model._run, line)  # type: ignore[method-assign]
    line.send(Event("open", True))
    try:
        with place.bank(model) as bank:
            for name in _SPIED:
                setattr(bank.store, name, _spied(name, getattr(bank.store, name), line))
            plan = place.plan(bank, model, sentences, progress=_Telling(line, planning))
            store_plan(bank, plan, model, batch=batch)
    except LatentBankError as error:
        line.send(Event("stopped", True, error=str(error)))
    else:
        line.send(Event("end", True))


@functools.cache
def _context() -> Any:
    """Return the context of a fork server that has imported everything, so that each job starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ingest.jobs"])
    children.start_fork_server()
    return context


def _events(line: Connection) -> Iterator[Event]:
    while True:
        try:
            yield line.recv()
        except EOFError:
            return


def kill_job(place: Place, sentences: list[str], name: str, times: int, delay: float) -> list[Event]:
    """Run the job in another process, killed `delay` seconds after it begins `name` for the nth time.

    Returns the events that it reported before it died.
    """
    job = start_job(place, sentences, times if name == "planning" else 0)
    return job.killed(
        lambda events: events[-1].begins and sum(e.begins and e.name == name for e in events) == times, delay
    )


@dataclass
class Job:
    """A whole job in a process of its own."""

    process: Any
    line: Connection

    def killed(self, when: Callable[[list[Event]], bool], delay: float) -> list[Event]:
        """Kill it with signal 9, `delay` seconds after its events so far make `when` true.

        Returns all its events. If `when` is never true, the job ends by itself.
        """
        events: list[Event] = []
        for event in _events(self.line):
            events.append(event)
            if when(events):
                time.sleep(delay)
                os.kill(self.process.pid, signal.SIGKILL)
                break
        return events + self.rest()

    def rest(self) -> list[Event]:
        """Wait until it has ended, and return its events from now on."""
        events = list(_events(self.line))
        self.process.join()
        self.line.close()
        return events


def start_job(place: Place, sentences: list[str], planning: int = 0, batch: int = BATCH) -> Job:
    """Start a whole job, which waits to be killed at the nth report of its planning.

    `batch`: tokens in a forward pass.
    """
    ours, theirs = _context().Pipe(duplex=False)
    process = _context().Process(target=_work, args=(place, sentences, theirs, planning, batch))
    process.start()
    theirs.close()
    return Job(process, ours)


def acknowledged(events: list[Event], *, shared: bool = False) -> set[tuple[int, str]]:
    """Return the contexts (layer and id) that were certainly safe when the process died.

    On a server (`shared`) these are the contexts of answered upserts, in an embedded bank the committed ones.
    """
    added: set[tuple[int, str]] = set()
    safe: set[tuple[int, str]] = set()
    for event in events:
        if not event.begins:
            added.update((event.layer, id_) for id_ in event.ids)
            if event.name == "commit" or shared:
                safe.update(added)
    return safe


def committed(events: list[Event]) -> int:
    """Return how many contexts every layer had certainly committed when the process died."""
    return sum(layer == LAYERS[-1] for layer, _ in acknowledged(events))


def stored_contexts(bank: Bank, corpus: str) -> int:
    """Return the smallest of the layers' counts of a corpus."""
    return min(bank.store.count(layer, Where(corpus=corpus)) for layer in bank.layers)
