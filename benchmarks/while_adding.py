"""Searches while a corpus is added to an embedded bank: their 95th-percentile time, compared with an idle bank's.

    python -m benchmarks.while_adding --states DIR --contexts 100000 --json while-adding.json

An embedded bank belongs to one process. One of its threads searches for a token at a time. Another adds a corpus as a
job does: in batches at the rate of an LLM, with a commit every few seconds, the index and the ledger entry at the end,
and a job's switch interval of Python's threads. The LLM itself does not run, as it would take the same cores from any
search. Searches are due at fixed times, and their time counts from then, so that a search that waits for a slow one
counts too. Without --states contexts are made up: noisy copies of centres, a few for each word.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, answer_child, in_child, machine, parser_of, show, write_json
from benchmarks.states import CORPUS, open_states

BANK, ADDED = "benchmark", "added"
_MODULE = "benchmarks.while_adding"
_BATCH = 256
_WIDTH = 576
_CENTRES = 2000
# Seconds between two searches of the reader.
_EVERY = 0.05


def main() -> None:
    """Measure in a process of its own and print the table."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = in_child(
            _MODULE,
            "measure",
            work=folder,
            states=arguments.states and arguments.states.resolve(),
            layer=arguments.layer,
            count=arguments.contexts,
            added=arguments.added,
            rate=arguments.rate,
            idle=arguments.idle_seconds,
        )
    idle = found["idle"]["p95"]
    rows = [
        Row(
            f"95th percentile of a search, {what}",
            f"idle {idle * 1000:.1f} ms",
            f"{part['p95'] * 1000:.1f} ms (median {part['median'] * 1000:.1f}, longest {part['longest'] * 1000:.0f}, "
            f"{part['searches']:,} searches)",
            part["p95"] / idle,
            most=2.0 if what == "adding and indexing" else None,
        )
        for what, part in found.items()
        if isinstance(part, dict) and what != "idle"
    ]
    rows.append(Row("adding, then indexing", "", f"{found['add']:.0f} s, {found['index']:.0f} s", None))
    sizes = {
        "contexts": arguments.contexts,
        "added": arguments.added,
        "added per second": arguments.rate or "as fast as it goes",
        "layer": arguments.layer,
        "states": arguments.states.name if arguments.states else "made up",
    }
    where = machine()
    show("Searches while a corpus is added, embedded", sizes, rows, where)
    write_json(arguments.json, sizes, rows, found, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add("--states", type=Path, help="folder with encoded contexts, as benchmarks/search.py makes them")
    add("--layer", type=int, default=8)
    add("--contexts", type=int, default=100_000, help="contexts in the bank before")
    add("--added", type=int, default=25_000, help="contexts to add")
    add("--rate", type=float, default=1000.0, help="contexts to add per second; 0: as fast as possible")
    add("--idle-seconds", type=float, default=20.0)
    add("--json", type=Path, help="file for the results")
    return parser


Contexts = tuple[list[str], Any, list[dict[str, Any]]]


def made_up(first: int, count: int) -> Contexts:
    """Return made-up contexts: row i is near centre i % `_CENTRES`."""
    from latentbank.bank.points import context_id

    centres = np.random.default_rng(1).standard_normal((_CENTRES, _WIDTH)).astype(np.float32)
    numbers = range(first, first + count)
    noise = np.random.default_rng(first + 2).standard_normal((count, _WIDTH)).astype(np.float32)
    states = centres[np.arange(first, first + count) % _CENTRES] + noise * 0.8
    payloads = [
        {
            "corpus": CORPUS,
            "sentence": n // 8,
            "position": 1 + n % 8,
            "token_id": n % _CENTRES,
            "token": f" w{n % _CENTRES}",
            "word": f"w{n % _CENTRES}",
            "caption": f"A sentence with w{n % _CENTRES} in it, the {n}th.",
            "start": 16,
            "end": 18,
        }
        for n in numbers
    ]
    return [context_id(CORPUS, [n]) for n in numbers], states, payloads


def _contexts(states: str | None, layer: int, first: int, count: int) -> Iterator[Contexts]:
    """Yield contexts in batches."""
    if states is None:
        for at in range(first, first + count, _BATCH):
            yield made_up(at, min(_BATCH, first + count - at))
        return
    source = open_states(Path(states))
    if source.about["contexts"] < first + count:
        raise SystemExit(f"{states} holds {source.about['contexts']:,} contexts, not {first + count:,}.")
    hidden = source.hidden(layer)
    # Contexts of the bank and contexts to add are both spread over all sentences.
    order = np.random.default_rng(3).permutation(source.about["contexts"])[first : first + count]
    every = dict(enumerate(source.contexts()))
    for at in range(0, count, _BATCH):
        rows = order[at : at + _BATCH]
        pairs = [every[int(row)] for row in rows]
        yield [id_ for id_, _ in pairs], hidden[rows], [payload for _, payload in pairs]


class _Reader:
    """A thread that searches at fixed times and records how long each answer takes from its time on.

    A search belongs to the part of the run in which it is due. All searches that are due before the end are answered.
    """

    def __init__(self, bank: Any, queries: Any) -> None:
        self.parts: list[tuple[float, str]] = []
        self.seconds: dict[str, list[float]] = {}
        self.failure: BaseException | None = None
        self._bank, self._queries = bank, queries
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def begin(self, part: str) -> None:
        """Begin another part of the run."""
        self.parts.append((time.perf_counter(), part))

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _read(self) -> None:
        due = time.perf_counter() + _EVERY
        number = 0
        try:
            while not self._end.is_set() or due < time.perf_counter():
                time.sleep(max(due - time.perf_counter(), 0.0))
                found = self._bank.search(self._queries[number % len(self._queries)], self._bank.layers, 5)
                part = next((name for began, name in reversed(self.parts) if began <= due), "before")
                self.seconds.setdefault(part, []).append(time.perf_counter() - due)
                assert len(found[0]) == 5
                number, due = number + 1, due + _EVERY
        except BaseException as error:
            self.failure = error


def measure(
    work: str, states: str | None, layer: int, count: int, added: int, rate: float, idle: float
) -> dict[str, Any]:
    """Fill a bank; search it while it is idle, then while a corpus is added and indexed; return the times."""
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.bank.opening import create_bank
    from latentbank.ingest.writer import COMMIT_SECONDS, SWITCH_SECONDS

    about = open_states(Path(states)).about if states else {"model": "made up", "fingerprint": "f00d"}
    batches = _contexts(states, layer, 0, count)
    first = next(batches)
    with create_bank(
        BANK,
        data_dir=Path(work),
        model=about["model"],
        fingerprint=about["fingerprint"],
        layers=[layer],
        num_layers=max(layer, 1),
        hidden_size=first[1].shape[1],
    ) as bank:
        bank.store.defer_index(layer, count)
        for ids, rows, payloads in (first, *batches):
            bank.add(layer, ids, rows, payloads)  # type: ignore[arg-type]  # JSON, which has no TypedDicts
        bank.commit()
        bank.store.index(layer)
        bank.record(CorpusEntry(CORPUS, "", 0, 0, count, {}, complete=True))
        # Read before measuring: reading a file holds Python's lock, computing hidden states does not.
        more = list(_contexts(states, layer, count, added))
        queries = np.concatenate([first[1], more[0][1][:1]])
        with _Reader(bank, queries) as reader:
            reader.begin("warming up")
            time.sleep(2.0)
            reader.begin("idle")
            time.sleep(idle)
            reader.begin("adding")
            entry = CorpusEntry(ADDED, "", 0, 0, added, {}, complete=False)
            bank.record(entry)
            bank.store.defer_index(layer, count + added)
            switch = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_SECONDS)
            began = committed = time.monotonic()
            done = 0
            for ids, rows, payloads in more:
                mine = [{**payload, "corpus": ADDED} for payload in payloads]
                bank.add(layer, ids, rows, mine)  # type: ignore[arg-type]
                done += len(ids)
                if time.monotonic() - committed >= COMMIT_SECONDS:
                    bank.commit()
                    committed = time.monotonic()
                if rate:
                    time.sleep(max(began + done / rate - time.monotonic(), 0.0))
            bank.commit()
            stored = time.monotonic()
            sys.setswitchinterval(switch)
            reader.begin("indexing")
            bank.store.index(layer)
            bank.record(CorpusEntry(ADDED, "", 0, 0, added, {}, complete=True))
            indexed = time.monotonic()
            reader.begin("after")
        if reader.failure is not None:
            raise reader.failure
    seconds = reader.seconds
    parts = {
        "idle": seconds["idle"],
        "adding": seconds["adding"],
        "indexing": seconds.get("indexing", []),
        "adding and indexing": seconds["adding"] + seconds.get("indexing", []),
    }
    return {name: _summary(values) for name, values in parts.items() if values} | {
        "add": stored - began,
        "index": indexed - stored,
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    return {
        "searches": len(seconds),
        "median": float(np.median(seconds)),
        "p95": float(np.quantile(seconds, 0.95)),
        "longest": max(seconds),
    }


_TASKS = {"measure": measure}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
