"""Faults of a server, or of other clients, while a job runs: one function per fault.

Each function returns an `Outcome`. Moments come from a seeded `Random`; additional guarantees are asserted here.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import tenacity

from latentbank.bank.opening import delete_bank
from latentbank.bank.settings import load_settings
from tests.faults.trial import BATCH, Outcome, Site, Trial
from tests.ingest.jobs import LAYERS, Calls, acknowledged, start_job, start_worker
from tests.wire.double import Fault

# Faults that keep striking.
_FOR_GOOD = 1_000_000
# Faults that a job notices by its deadline.
_LATE = (Fault.hang, Fault.slow)


def passing(site: Site, fault: Fault, requests: Counter[str]) -> Outcome:
    """A fault that passes: every third request of each operation is struck twice. The job is not affected.

    Of creations it is every fourth: one whose answer is lost is there when it is requested again, not a third time.
    """
    trial = site.trial()
    for operation, number in requests.items():
        # These are requested once: whether there is gRPC, without which REST is used from then on, and how many cores
        # the server has.
        if operation not in ("collection_exists", "telemetry"):
            step = 4 if operation == "create_collection" else 3
            for at in range(-(-number // step)):
                site.server.inject(fault, 2, operation, after=step * at, seconds=0.02)
    trial.outcome.struck = site.server.faults_left
    assert trial.attempt() is not None, trial.outcome.stops
    assert site.server.faults_left == 0
    ways = {
        request.transport
        for request in site.server.requests
        if request.operation == "upsert" and request.collection != "bank--ledger"
    }
    assert ways == {site.transport}
    return trial.count()


def lasting(site: Site, fault: Fault, requests: Counter[str], chance: random.Random, times: int) -> Outcome:
    """A fault that lasts, from a random moment on: the job stops, and continues when the fault has passed."""
    outcome = Outcome()
    # A part of the job for each time, so that the moments are spread over it.
    for part in range(times):
        after = int(requests.total() * (part + chance.random()) / times)
        trial = _stopped(site, fault, after)
        while fault in _LATE and not site.struck:  # the machine itself paused for longer than the deadline
            trial = _stopped(site, fault, after)
        trial.outcome.struck = site.struck
        assert trial.outcome.struck > 0
        site.server.clear_faults()
        outcome.add(trial.finish())
    return outcome


def _stopped(site: Site, fault: Fault, after: int) -> Trial:
    """Return a trial whose job has stopped for a fault that lasts, from a request on."""
    trial = site.trial()
    site.server.inject(fault, _FOR_GOOD, after=after, seconds=60)
    changes = {"timeout": 1} if fault in _LATE else {}
    assert trial.attempt(retries=0, **changes) is None, after
    return trial


def slow(site: Site, requests: Counter[str]) -> Outcome:
    """Slow answers to all reads: the job waits for them and requests nothing twice."""
    trial = site.trial()
    reads = {name: requests[name] for name in requests if not name.startswith(("create", "update", "upsert"))}
    for name, number in reads.items():
        site.server.inject(Fault.slow, number, name, seconds=0.02)
    assert trial.attempt() is not None
    trial.outcome.struck = site.struck
    assert trial.outcome.struck == sum(reads.values())
    again = Counter(request.operation for request in site.server.requests)
    assert {name: again[name] for name in requests} == dict(requests)
    return trial.count()


def refused(site: Site, chance: random.Random, times: int) -> Outcome:
    """The server is down, at the start and from a random batch on; it comes back later, or while the job waits."""
    outcome = Outcome()
    for _ in range(times):
        trial = site.trial()
        site.server.stop()
        assert trial.attempt() is None
        site.server.start()
        progress = Calls(chance.randint(1, 4), site.server.stop)
        assert trial.attempt(progress) is None
        assert progress.calls == progress.at
        site.server.start()
        trial.outcome.struck = 2
        outcome.add(trial.finish())

    trial = site.trial()
    sleep, one_at_a_time = time.sleep, threading.Lock()

    def wait(seconds: float) -> None:
        with one_at_a_time:
            site.server.start()
        sleep(seconds)  # a gRPC client waits a second before it connects again

    with mock.patch.object(tenacity.nap, "time", SimpleNamespace(sleep=wait)):
        progress = Calls(chance.randint(1, 4), site.server.stop)
        assert trial.attempt(progress, retries=15) is not None, trial.outcome.stops
    assert progress.calls >= progress.at
    trial.outcome.struck = 1
    outcome.add(trial.count())
    return outcome


def restarted_empty(site: Site, requests: Counter[str], chance: random.Random, times: int) -> Outcome:
    """The server loses everything at a random moment: the job stops, and creates the bank again when it is rerun."""
    outcome = Outcome()
    for part in range(times):
        trial = site.trial()

        def lose(trial: Trial = trial) -> None:
            trial.strike(site.server.wipe, *LAYERS)

        site.server.when(int(requests.total() * (part + chance.random()) / times), lose)
        trial.attempt()  # at an early moment there was nothing to lose, so the job may end
        assert trial.outcome.struck == 1
        outcome.add(trial.finish())
    return outcome


def collection_deleted(site: Site, requests: Counter[str], chance: random.Random, times: int) -> Outcome:
    """Somebody deletes a layer or the ledger at a random moment: the job stops. A layer is filled again."""
    outcome = Outcome()
    for number in range(times):
        layer, trial = (*LAYERS[:2], None)[number % 3], site.trial()

        def delete(layer: int | None = layer, trial: Trial = trial) -> None:
            name = "bank--ledger" if layer is None else f"bank--L{layer:02d}"
            trial.strike(lambda: site.server.delete(name), *() if layer is None else (layer,))

        # After the collections are created, and before they are read for the last time.
        site.server.when(int(requests.total() * chance.uniform(0.45, 0.9)), delete)
        assert trial.attempt() is None
        assert trial.outcome.struck == 1
        if layer is None and trial.safe:
            assert trial.attempt() is None
            assert "restore the manifest, or delete the bank" in trial.outcome.stops[-1]
            delete_bank("bank", load_settings(url=site.server.url, grpc_port=site.server.grpc_port))
            trial.safe.clear()
        outcome.add(trial.finish())
    return outcome


def two_jobs(site: Site) -> Outcome:
    """Two whole jobs on one corpus at the same time, neither knowing of the other."""
    trial = site.trial()
    places = [replace(trial.place, folder=site.folder / name) for name in ("one", "other")]
    jobs = [start_job(place, site.reference.sentences, batch=BATCH) for place in places]
    for job in jobs:
        events = job.rest()
        assert events[-1].name == "end", events[-1].error
        trial.safe |= acknowledged(events, shared=True)
    trial.check()
    trial.outcome.struck = 1
    trial.outcome.runs = len(jobs)
    return trial.count()


def clock_skew(site: Site) -> Outcome:
    """Two workers whose clocks are an hour ahead and an hour behind; one is killed and rerun with the other's clock."""
    trial = site.trial()
    with trial.place.bank(site.reference.model) as bank:
        directory = trial.place.plan(bank, site.reference.model, site.reference.sentences).directory
    doomed = start_worker(trial.place, directory, "1/2", batch=16, clock=1.0, last=("upsert", 4))
    doomed.kill()
    workers = [
        start_worker(trial.place, directory, share, batch=BATCH, clock=clock)
        for share, clock in (("0/2", 1.0), ("1/2", -1.0))
    ]
    reports = [worker.report() for worker in workers]
    assert any(item.complete for item in reports)
    assert reports[1].found > 0
    trial.outcome.struck = 3
    trial.outcome.runs = 3
    return trial.count()
