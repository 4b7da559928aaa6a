"""Estimates of what a plan costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from latentbank.bank.settings import Settings
from latentbank.bank.sizing import Machines
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.estimate import Speed, calibrate, estimate, estimate_cluster
from latentbank.ingest.plan import Plan
from latentbank.ingest.planning import make_plan
from tests.ingest.conftest import Tiny
from tests.tiny import TEXTS

SPEED = Speed(
    tokens_per_second=1000.0,
    contexts_stored_per_second=500.0,
    contexts_indexed_per_second=100.0,
    trial=4096,
    graph=True,
)


@pytest.fixture
def plan(tiny: Tiny, tmp_path: Path) -> Plan:
    return make_plan(corpus_from_sentences("c", TEXTS), tiny(), tmp_path / "plan")


def test_time_is_that_of_the_llm_of_storing_and_of_indexing(plan: Plan) -> None:
    found = estimate(plan, 32, [1, 2], Settings(), replace(SPEED, trial=plan.contexts))
    assert found.index_seconds == pytest.approx(plan.contexts / 100)
    assert found.seconds == pytest.approx(plan.prefixes / 1000 + plan.contexts / 500 + plan.contexts / 100)
    assert estimate(plan, 32, [1, 2], Settings()).seconds is None


def test_a_graph_of_more_contexts_than_were_tried_takes_longer_for_each(plan: Plan) -> None:
    large = replace(plan, contexts=4096 * 32)
    graph = estimate(large, 32, [1], Settings(), SPEED).index_seconds
    scanned = estimate(large, 32, [1], Settings(), replace(SPEED, graph=False)).index_seconds
    assert scanned == pytest.approx(large.contexts / 100)
    assert graph == pytest.approx(2**0.5 * large.contexts / 100)  # 32 to the power of a tenth


def test_what_the_bank_holds_counts_for_its_graph_and_for_indexing(plan: Plan) -> None:
    alone = estimate(plan, 32, [1], Settings(), SPEED)
    beside = estimate(plan, 32, [1], Settings(), SPEED, stored=100_000)
    assert beside.ram_bytes > alone.ram_bytes  # a graph from 60,000 contexts on
    assert beside.disk_bytes < 2 * alone.disk_bytes  # the plan's share only
    assert beside.index_seconds is not None
    assert alone.index_seconds is not None
    assert beside.index_seconds > 100 * alone.index_seconds


def test_a_calibration_tells_storing_from_indexing_and_makes_a_graph_if_the_bank_has_one(
    plan: Plan, tiny: Tiny, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    found = calibrate(plan, tiny(), [1, 2], settings)
    assert (found.trial, found.graph) == (plan.contexts, False)
    assert min(found.contexts_stored_per_second, found.contexts_indexed_per_second) > 0
    assert calibrate(plan, tiny(), [1, 2], settings, stored=100_000).graph
    assert not list((tmp_path / "data").iterdir())


def test_a_cluster_runs_the_llm_only_as_deep_as_the_layers(plan: Plan, tiny: Tiny) -> None:
    model = tiny()
    machines = Machines(gpu_flops=1e6)
    single = estimate_cluster(plan, model, [1], Settings(), machines)
    three = estimate_cluster(plan, model, [3], Settings(), machines)
    assert three.llm_hours == pytest.approx(3 * single.llm_hours)
    block = (
        2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    )  # queries and outputs, keys and values, MLP, norms
    assert single.llm_hours * 3600 == pytest.approx(2 * block * plan.prefixes / 1e6)
    assert single.layer.caption_index > 0  # a server builds it whatever the settings are
    whole = estimate_cluster(plan, model, [1], Settings(), machines, stored=99 * plan.contexts)
    assert whole.ram_bytes >= 100 * single.ram_bytes
