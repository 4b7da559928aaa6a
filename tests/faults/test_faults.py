"""Faults that a job meets: nothing acknowledged is lost, nothing doubled, a rerun completes (docs/faults.md)."""

from __future__ import annotations

import multiprocessing.util
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from latentbank.errors import BankBusy
from tests.faults import embedded, scenarios
from tests.faults.trial import Outcome, Reference, Site, Trial, make_reference
from tests.ingest.jobs import Place
from tests.tiny import save_tiny
from tests.wire.double import Fault, QdrantDouble

SEED = 4


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return make_reference(save_tiny(folder / "model"), folder / "undisturbed")


@pytest.fixture(scope="module")
def double(folder: Path) -> Iterator[QdrantDouble]:
    multiprocessing.util.get_temp_dir()  # made before, because it must outlive the tests' folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        server = QdrantDouble()
    with server:
        yield server
        assert server.invalid_requests == []


@pytest.fixture(scope="module", params=["grpc"])
def site(request: pytest.FixtureRequest, reference: Reference, double: QdrantDouble, folder: Path) -> Site:
    """A server whose bulk work goes over gRPC and everything else over REST. A test may also choose REST only."""
    return Site(reference, double, folder / request.param, request.param)


@pytest.fixture(scope="module")
def requests(site: Site) -> Counter[str]:
    """The requests of an undisturbed job, by operation."""
    return site.undisturbed()


@pytest.fixture
def chance() -> random.Random:
    return random.Random(SEED)


def check(outcome: Outcome) -> None:
    assert outcome.struck > 0
    assert outcome.acknowledged > 0
    assert (outcome.lost, outcome.doubled) == (0, 0)


# A selection: benchmarks/faults.py tries all faults, each over both transports.
FAULTS = [Fault.drop_after_apply, Fault.hang, Fault.too_many, Fault.error500, Fault.cut]
both_ways = pytest.mark.parametrize("site", ["rest", "grpc"], indirect=True, scope="module")


# Of a server's own errors, here the one that a hanging node leads to.
@pytest.mark.parametrize("fault", [*FAULTS[:3], Fault.timeout408, Fault.cut], ids=lambda fault: fault.name)
def test_a_fault_that_passes(site: Site, requests: Counter[str], fault: Fault) -> None:
    check(scenarios.passing(site, fault, requests))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_that_lasts(site: Site, requests: Counter[str], fault: Fault, chance: random.Random) -> None:
    check(scenarios.lasting(site, fault, requests, chance, 1))


@both_ways
def test_slow_reads(site: Site, requests: Counter[str], chance: random.Random) -> None:
    check(scenarios.slow(site, requests))
    check(scenarios.lasting(site, Fault.slow, requests, chance, 1))


@pytest.mark.parametrize("site", ["rest"], indirect=True, scope="module")
def test_a_truncated_response_of_bulk_work_over_rest(site: Site, requests: Counter[str]) -> None:
    check(scenarios.passing(site, Fault.cut, requests))


def test_connection_refused(site: Site, chance: random.Random) -> None:
    check(scenarios.refused(site, chance, 2))


def test_a_server_restarted_empty(site: Site, requests: Counter[str], chance: random.Random) -> None:
    check(scenarios.restarted_empty(site, requests, chance, 2))


def test_a_collection_deleted_under_a_running_job(
    site: Site, requests: Counter[str], chance: random.Random
) -> None:
    check(scenarios.collection_deleted(site, requests, chance, 3))


def test_two_jobs_on_one_corpus(site: Site) -> None:
    check(scenarios.two_jobs(site))


def test_two_jobs_on_one_corpus_of_an_embedded_bank(reference: Reference, tmp_path: Path) -> None:
    trial = Trial(reference, Place(reference.directory, tmp_path))
    with trial.place.bank(reference.model), pytest.raises(BankBusy, match="open in this process already"):
        trial.place.bank(reference.model)
    check(replace(trial.finish(), struck=1))


def test_clocks_that_are_an_hour_off(site: Site) -> None:
    check(scenarios.clock_skew(site))


@pytest.mark.parametrize("where", ["embedded", "server"])
def test_kill_9_at_random_moments(
    where: str, reference: Reference, double: QdrantDouble, folder: Path, chance: random.Random
) -> None:
    path = folder / f"killed-{where}"
    trial = (
        Site(reference, double, path, "grpc").trial()
        if where == "server"
        else Trial(reference, Place(reference.directory, path))
    )
    outcome = embedded.kills(trial, chance, 3)
    assert outcome.struck == 3
    check(outcome)


def test_a_full_disk(reference: Reference, tmp_path: Path, chance: random.Random) -> None:
    with embedded.small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("mounting a small disk takes root on Linux")
        check(embedded.full_disk(reference, disk, chance, 1))
