"""Jobs on small banks, in this process or in one of their own that can be killed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import ingest.job
import ingest.plan
from bank.bank import Bank, create_bank
from bank.settings import Metric
from bank.where import Where
from ingest.corpus import corpus_from_sentences
from ingest.job import JobReport, ready_plan, run
from ingest.plan import Plan, PlanSettings, load_plan
from ingest.shares import parse_share
from latentbank_progress import Progress
from models.language import LanguageModel, load_language_model

# Made here, where it belongs to the process all others are forked from: each of them would leave its own behind.
tqdm.get_lock()

LAYERS = (0, 2, 4)
BATCH = 128


def some_sentences(count: int = 120) -> list[str]:
    """Sentences of which many begin alike, the same in every process."""
    chance = random.Random(3)
    who = ("A dog", "A cat", "The old fisherman", "Two children", "The baker", "A woman")
    does = ("runs over", "sleeps near", "watches", "crosses", "builds", "reads about")
    what = ("the green grass", "a red ball", "the small village", "the stone oven", "a castle of sand")
    where = ("in the morning light.", "while the rain falls.", "near the sea.", "", "with a crowded café.")
    return [" ".join(map(chance.choice, (who, does, what, where))).strip() + f" {i}" for i in range(count)]


@dataclass(frozen=True)
class Place:
    """Where a job works: all that another process has to know, too."""

    model: Path
    folder: Path
    url: str = ""
    grpc_port: int = 6334
    graph_from: int = 200
    metric: Metric = "cosine"

    def bank(self, model: LanguageModel) -> Bank:
        """Open the bank, made if it is new."""
        return create_bank(
            "bank",
            model=model.name,
            fingerprint=model.fingerprint(),
            layers=LAYERS,
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            url=self.url,
            grpc_port=self.grpc_port,
            data_dir=self.folder,
            retries=2,
            retry_wait=0.01,
            timeout=10,
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
        replacing: bool = False,
        **choice: Any,
    ) -> Plan:
        """Give the plan of a corpus."""
        settings = PlanSettings(**{"contexts_per_token": 100, **choice})
        made = corpus_from_sentences(corpus, sentences)
        folder = self.folder / "plans" / corpus
        return ready_plan(bank, made, model, folder, settings, progress, replacing=replacing)

    def job(self, model: LanguageModel, sentences: list[str], corpus: str = "c") -> JobReport:
        """Plan and run, from opening the bank to closing it."""
        with self.bank(model) as bank:
            return run(bank, self.plan(bank, model, sentences, corpus), model, batch=BATCH)


# -- a process that can be killed ----------------------------------------------------------------

_SPIED = ("write_entry", "defer_index", "present", "upsert", "commit", "index")


@dataclass(frozen=True)
class Event:
    """What the other process said: it begins or has ended something, with so many contexts."""

    name: str
    begins: bool
    contexts: int = 0


def _spied(name: str, method: Callable[..., Any], line: Connection) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*given: Any, **named: Any) -> Any:
        line.send(Event(name, True))
        found = method(*given, **named)
        line.send(Event(name, False, len(given[1].ids) if name == "upsert" and given[0] == LAYERS[-1] else 0))
        return found

    return call


class _Telling:
    """Progress of planning that is told, and waits at the nth time to be killed."""

    def __init__(self, line: Connection, last: int) -> None:
        self.line, self.left = line, last

    def update(self, done: float, total: float | None = None) -> None:
        self.line.send(Event("planning", True))
        self.left -= 1
        if self.left == 0:
            time.sleep(60)

    def stage(self, what: str, unit: str) -> None:
        """Nothing to tell."""


def _share(place: Place, directory: Path, text: str, line: Connection, batch: int, replacing: bool) -> None:
    torch.set_num_threads(1)
    ingest.job.LEDGER_SECONDS = 0.0
    model, plan = load_language_model(str(place.model), device="cpu"), load_plan(directory)
    assert plan is not None
    with place.bank(model) as bank:
        for name in _SPIED:
            setattr(bank.store, name, _spied(name, getattr(bank.store, name), line))
        report = run(bank, plan, model, batch=batch, share=parse_share(text), replacing=replacing)
    line.send(report)


@dataclass
class Worker:
    """A worker at a share of a plan, in a process of its own."""

    process: Any
    line: Connection

    def until(self, name: str, times: int = 1) -> None:
        """Wait until it begins `name` for the nth time."""
        while times:
            event = self.line.recv()
            assert isinstance(event, Event), f"it has finished before it began {name}"
            times -= event.begins and event.name == name

    def kill(self) -> None:
        """Kill it with signal 9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.line.close()

    def report(self) -> JobReport:
        """Wait until it has finished, and give its report."""
        while not isinstance(said := self.line.recv(), JobReport):
            pass
        self.process.join()
        self.line.close()
        return said


def start_worker(
    place: Place, directory: Path, share: str, batch: int = BATCH, replacing: bool = False
) -> Worker:
    """Start a worker at a share of the plan in `directory`."""
    ours, theirs = _context().Pipe(duplex=False)
    process = _context().Process(target=_share, args=(place, directory, share, theirs, batch, replacing))
    process.start()
    theirs.close()
    return Worker(process, ours)


def _work(place: Place, sentences: list[str], line: Connection, planning: int) -> None:
    torch.set_num_threads(1)
    ingest.job.COMMIT_SECONDS = 0.0  # after every batch
    ingest.job.LEDGER_SECONDS = 0.0
    ingest.plan._BATCH = 32
    model = load_language_model(str(place.model), device="cpu")
    with place.bank(model) as bank:
        for name in _SPIED:
            setattr(bank.store, name, _spied(name, getattr(bank.store, name), line))
        plan = place.plan(bank, model, sentences, progress=_Telling(line, planning))
        run(bank, plan, model, batch=BATCH)
    line.send(Event("end", True))


@functools.cache
def _context() -> Any:
    """A server that has imported everything and forks, so that each job starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ingest.jobs"])
    return context


def _events(line: Connection) -> Iterator[Event]:
    while True:
        try:
            yield line.recv()
        except EOFError:
            return


def kill_job(place: Place, sentences: list[str], name: str, times: int, delay: float) -> list[Event]:
    """Run the job in another process, killed `delay` seconds after it begins `name` for the nth time.

    Returns what it said before it died.
    """
    ours, theirs = _context().Pipe(duplex=False)
    process = _context().Process(
        target=_work, args=(place, sentences, theirs, times if name == "planning" else 0)
    )
    process.start()
    theirs.close()
    said: list[Event] = []
    for event in _events(ours):
        said.append(event)
        if event.begins and sum(one.begins and one.name == name for one in said) == times:
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            break
    said += _events(ours)
    process.join()
    ours.close()
    return said


def committed(said: list[Event]) -> int:
    """How many contexts had been committed for certain when the process died."""
    added = safe = 0
    for event in said:
        if not event.begins:
            added += event.contexts
            safe = added if event.name == "commit" else safe
    return safe


def stored_contexts(bank: Bank, corpus: str) -> int:
    """The least of the layers' counts: what every layer holds of a corpus."""
    return min(bank.store.count(layer, Where(corpus=corpus)) for layer in bank.layers)
