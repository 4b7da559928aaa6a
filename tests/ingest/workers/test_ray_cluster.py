"""Shares on a local Ray: two workers, one of them killed in the middle; and jobs that never reach Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
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
from tests.wire.double import Fault, QdrantDouble

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
        killed: list[int] = []

        def kill_worker() -> None:
            with remote.bank(model) as bank:
                written = -1
                while True:  # Ray's start takes a minute or more, in which nothing is written
                    before, written = written, sum(each.operation == "upsert" for each in server.requests)
                    if written != before and bank.store.read_shares("c"):
                        break
                    time.sleep(0.02)
                server.inject(Fault.hang, operation="upsert", seconds=4.0)
                while server.faults_left:
                    time.sleep(0.02)
                beats = bank.store.read_shares("c")
            (worker, *_) = sorted(
                record["worker"] for key, record in beats.items() if f"{key[:-5]}/done" not in beats
            )
            killed.append(int(worker.rpartition(" ")[2]))
            os.kill(killed[0], signal.SIGKILL)
            server.clear_faults()

        killer = threading.Thread(target=kill_worker, daemon=True)
        killer.start()
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
        killer.join(60)
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
    with (
        pytest.raises(LatentBankError, match=r"no Ray at 'auto' .*use the address 'local'"),
        cluster_at("auto"),
    ):
        pass
