"""Shares on a local Ray: two workers, one of them killed in the middle; and jobs that never reach Ray."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from latentbank.bank.settings import load_settings
from latentbank.errors import LatentBankError
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.ingest.workers.ray_cluster import RayJob, blind_nodes, run_on_ray
from latentbank.ingest.workers.ray_cluster import cluster as cluster_at
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Silent
from tests.ingest.conftest import Tiny, assert_same_bank, contents
from tests.ingest.jobs import LAYERS, Place, some_sentences
from tests.wire.double import QdrantDouble
from tests.wire.faults import Trouble

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


@pytest.fixture
def plan(model: LanguageModel, tmp_path: Path) -> Plan:
    corpus = corpus_from_sentences("c", some_sentences(12))
    return make_plan(corpus, model, tmp_path / "plan", PlanSettings(contexts_per_token=100))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start Ray with two processors, whose workers import this source tree."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # ranked behind the other tests, they hardly get on
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
        object_store_memory=100 << 20,
    )
    yield
    ray.shutdown()


def ray_job(server: QdrantDouble, plan: Plan, model: LanguageModel) -> RayJob:
    settings = load_settings(url=server.url, grpc_port=server.grpc_port, retry_wait=0.01, graph_from=200)
    return RayJob("bank", settings, plan.directory, model.name, LAYERS, batch=128)


def running(server: QdrantDouble) -> list[int]:
    """Return the processes of workers that have begun a share and are not done with it."""
    if "bank--ledger" not in server.collections:
        return []
    payloads = [fields for _, fields in server.points("bank--ledger").values()]
    shares = {fields["key"]: fields["record"] for fields in payloads if fields["kind"] == "share"}
    beats = {key: record for key, record in shares.items() if key.replace("/beat/", "/done/") not in shares}
    return sorted(int(record["worker"].rpartition(" ")[2]) for record in beats.values())


def kill_in_the_middle(server: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill one worker, and return a list that then holds its process.

    It is killed when a write arrives after the first contexts, before that is applied: so no share can be done before.
    """
    killed: list[int] = []
    take, one_at_a_time = server._handler.faults.take, threading.Lock()

    def kill_and_take(operation: str) -> Trouble | None:
        with one_at_a_time:
            written = {each.collection for each in server.requests if each.operation == "upsert"}
            begun = any(name is not None and name.startswith("bank--L") for name in written)
            if operation == "upsert" and begun and not killed and (workers := running(server)):
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)
        return take(operation)

    monkeypatch.setattr(server._handler.faults, "take", kill_and_take)
    return killed


def test_two_workers_one_killed_in_the_middle(
    cluster: None,
    tiny_dir: Callable[..., Path],
    quick_folder: Path,
    plan: Plan,
    model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("latentbank.ingest.workers.ray_cluster.SHARES_PER_WORKER", 2)
    place = Place(tiny_dir(), quick_folder)
    with place.bank(model) as bank:
        store_plan(bank, plan, model)
        expected = contents(bank)
    with QdrantDouble() as server:
        remote = Place(tiny_dir(), quick_folder, server.url, server.grpc_port)
        killed = kill_in_the_middle(server, monkeypatch)
        updates: list[tuple[float, float | None]] = []

        class Recorder:
            def update(self, done: float, total: float | None = None) -> None:
                updates.append((done, total))

            def stage(self, what: str, unit: str) -> None: ...

        marker = plan.directory / "marker"
        marker.write_text("seen")
        assert blind_nodes(marker, "seen", "auto", Silent()) == []
        (node,) = {node["NodeManagerAddress"] for node in ray.nodes()}
        assert blind_nodes(marker.with_name("none"), "seen", "auto", Silent()) == [node]

        report = run_on_ray(ray_job(server, plan, model), "auto", 2, Recorder())
        assert len(killed) == 1
        assert (report.corpus, report.contexts) == ("c", plan.contexts)
        assert report.encoded + report.found >= plan.contexts
        assert updates == [(done, 4) for done in range(1, 5)]
        with remote.bank(model) as bank:
            assert bank.corpora["c"].complete
            assert bank.verify() == []
            assert_same_bank(contents(bank), expected)
        assert server.invalid_requests == []


def test_an_embedded_bank_has_one_process(plan: Plan, model: LanguageModel, tmp_path: Path) -> None:
    embedded = RayJob("bank", load_settings(data_dir=tmp_path), plan.directory, model.name, LAYERS)
    with pytest.raises(LatentBankError, match=r"on a server, .*set LATENTBANK_URL"):
        run_on_ray(embedded, "local")


def test_a_plan_and_a_cluster_that_are_not_there(
    plan: Plan, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(url="http://127.0.0.1:1")
    with pytest.raises(LatentBankError, match="There is no plan in"):
        run_on_ray(RayJob("bank", settings, tmp_path / "none", model.name, LAYERS), "local")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Ray looks at all processes of the machine, on which another run of this suite may have a cluster.
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda _: set(), raising=False)
    with (
        pytest.raises(LatentBankError, match=r"no Ray at 'auto' .*use the address 'local'"),
        cluster_at("auto"),
    ):
        pass
