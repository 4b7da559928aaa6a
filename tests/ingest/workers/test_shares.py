"""Many workers on one plan: on a server as processes, killed and duplicated; on an embedded bank one after another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.points import context_id
from latentbank.bank.store.base import Points
from latentbank.bank.where import Where
from latentbank.errors import BankUnavailable, LatentBankError
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.ingest.workers.shares import Heartbeat, Share, parse_share, share_states
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.ingest.conftest import Contents, Tiny, assert_same_bank, contents
from tests.ingest.jobs import BATCH, LAYERS, Place, some_sentences, start_worker
from tests.real_server import serving
from tests.wire.double import QdrantDouble

SENTENCES = some_sentences(30)


@pytest.fixture
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


@pytest.fixture
def embedded(tiny_dir: Callable[..., Path], quick_folder: Path) -> Place:
    return Place(tiny_dir(), quick_folder)


@pytest.fixture
def server(quick_folder: Path) -> Iterator[QdrantDouble]:
    with serving() as server:
        yield server


@pytest.fixture
def remote(embedded: Place, server: QdrantDouble) -> Place:
    return replace(embedded, url=server.url, grpc_port=server.grpc_port)


@pytest.fixture(scope="module")
def plan(tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    model = load_language_model(str(tiny_dir()), device="cpu")
    folder = tmp_path_factory.mktemp("plan")
    return make_plan(
        corpus_from_sentences("c", SENTENCES), model, folder, PlanSettings(contexts_per_token=100)
    )


@pytest.fixture(scope="module")
def unbroken(plan: Plan, tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The contents that one process stores."""
    place = Place(tiny_dir(), tmp_path_factory.mktemp("unbroken"))
    model = load_language_model(str(tiny_dir()), device="cpu")
    with place.bank(model) as bank:
        store_plan(bank, plan, model, batch=BATCH)
        return contents(bank)


def check_complete(bank: Bank, unbroken: Contents) -> None:
    assert bank.corpora["c"].complete
    assert bank.verify() == []
    assert_same_bank(contents(bank), unbroken)
    assert all(state.indexed == state.points for state in bank.info().layers.values())
    assert bank.store.read_shares("c") == {}


def states(bank: Bank) -> dict[str, str]:
    return {state.share: state.state for state in share_states(bank.store.read_shares("c"))}


# -- which sentences -----------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 2, 3, 7, 60, 100])
def test_shares_part_a_plan(plan: Plan, of: int) -> None:
    shares = [Share(index, of).rows(plan) for index in range(of)]
    assert [row for first, stop in shares for row in range(first, stop)] == list(
        range(plan.planned_sentences)
    )
    assert [sentence for rows in shares for sentence in plan.read(*rows)] == list(plan.read())
    counts = [plan.count_contexts(*rows) for rows in shares]
    assert sum(counts) == plan.contexts
    assert counts == [sum(len(sentence.positions) for sentence in plan.read(*rows)) for rows in shares]


def test_a_part_that_spans_several_batches_of_the_file(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.ingest.planning._BATCH", 7)
    made = make_plan(corpus_from_sentences("c", SENTENCES), model, tmp_path)
    every = list(made.read())
    assert len(every) > 14
    for first, stop in ((0, 7), (3, 5), (6, 15), (7, 14), (0, len(every)), (len(every), len(every))):
        assert list(made.read(first, stop)) == every[first:stop]
        assert made.count_contexts(first, stop) == sum(
            len(sentence.positions) for sentence in every[first:stop]
        )


@pytest.mark.parametrize("text", ["", "1", "2/2", "3/2", "-1/2", "0/0", "a/b", "1/2/3"])
def test_invalid_shares(text: str) -> None:
    with pytest.raises(LatentBankError, match=r"is not a share; write 0/4"):
        parse_share(text)
    assert parse_share(" 1/2 ") == Share(1, 2)


# -- many workers --------------------------------------------------------------------------------


def test_workers_at_once_one_killed_one_share_twice(
    remote: Place, plan: Plan, model: LanguageModel, unbroken: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bank is new; the last share is begun, killed, and done at the end."""
    monkeypatch.setattr("latentbank.ingest.workers.shares.STALLED_SECONDS", 3600.0)
    doomed = start_worker(remote, plan.directory, "2/3", batch=16, last=("upsert", 4))
    others = [start_worker(remote, plan.directory, share) for share in ("1/3", "0/3", "1/3")]
    doomed.kill()
    reports = [worker.report() for worker in others]
    assert [report.complete for report in reports] == [False] * 3
    assert [report.contexts for report in reports] == [
        plan.count_contexts(*Share(index, 3).rows(plan)) for index in (1, 0, 1)
    ]
    with remote.bank(model) as bank:
        assert not bank.corpora["c"].complete
        assert states(bank) == {"0/3": "done", "1/3": "done", "2/3": "running"}
        assert bank.count() == 0  # readers do not see it yet
        report = store_plan(bank, plan, model, batch=BATCH, share=Share(2, 3))
        assert report.complete
        assert report.share == "2/3"
        assert report.found > 0
        assert report.encoded + report.found == report.contexts
        check_complete(bank, unbroken)
        assert bank.count() == plan.contexts


def test_two_workers_complete_the_corpus_at_the_same_moment(
    remote: Place, plan: Plan, model: LanguageModel, unbroken: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one worker builds the index, another with the same share finds all contexts stored and builds it too."""
    inner: list[JobReport] = []
    with remote.bank(model) as first, remote.bank(model) as other:
        store_plan(first, plan, model, batch=BATCH, share=Share(0, 2))
        index = first.store.index

        def meanwhile(layer: int) -> None:
            if layer == LAYERS[1]:
                inner.append(store_plan(other, plan, model, batch=BATCH, share=Share(1, 2)))
                assert other.corpora["c"].complete
            index(layer)

        monkeypatch.setattr(first.store, "index", meanwhile)
        report = store_plan(first, plan, model, batch=BATCH, share=Share(1, 2))
        assert report.complete
        assert (inner[0].complete, inner[0].encoded, inner[0].found) == (True, 0, report.contexts)
        check_complete(first, unbroken)


def test_shares_of_different_splits_fill_one_bank(
    remote: Place, plan: Plan, model: LanguageModel, unbroken: Contents
) -> None:
    with remote.bank(model) as bank:
        for share in (Share(0, 2), Share(2, 3)):
            assert not store_plan(bank, plan, model, batch=BATCH, share=share).complete
        assert states(bank) == {
            "0/2": "done",
            "1/2": "missing",
            "0/3": "missing",
            "1/3": "missing",
            "2/3": "done",
        }
        assert store_plan(bank, plan, model, batch=BATCH, share=Share(1, 3)).complete
        check_complete(bank, unbroken)


@pytest.mark.parametrize("where", ["embedded", "remote"])
def test_shares_one_after_the_other(
    where: str,
    plan: Plan,
    model: LanguageModel,
    unbroken: Contents,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place: Place = request.getfixturevalue(where)
    for index in (2, 0, 1):
        with place.bank(model) as bank:
            report = store_plan(bank, plan, model, batch=BATCH, share=Share(index, 3))
            assert report.complete == (index == 1)
            assert report.encoded == report.contexts
            if index != 1:
                assert states(bank)[f"{index}/3"] == "done"
    monkeypatch.setattr(model, "_run", lambda *_: pytest.fail("the LLM ran"))
    with place.bank(model) as bank:
        check_complete(bank, unbroken)
        again = store_plan(bank, plan, model, batch=BATCH, share=Share(0, 3))
        assert (again.complete, again.encoded, again.found) == (True, 0, again.contexts)
        assert store_plan(bank, plan, model).encoded == 0
        check_complete(bank, unbroken)


def test_a_share_that_lost_contexts_is_filled_again(
    remote: Place, plan: Plan, model: LanguageModel, unbroken: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shares are done, but a layer's contexts were deleted meanwhile: the corpus does not become complete."""
    monkeypatch.setattr("latentbank.ingest.job._RECOUNTS", 2)
    with remote.bank(model) as bank:
        store_plan(bank, plan, model, batch=BATCH, share=Share(0, 2))
        bank.store.delete_corpus(2, "c")
        with pytest.raises(LatentBankError, match=r"something else changed the bank; ingest it again"):
            store_plan(bank, plan, model, batch=BATCH, share=Share(1, 2))
        assert not bank.corpora["c"].complete
        assert store_plan(bank, plan, model, batch=BATCH, share=Share(0, 2)).complete
        check_complete(bank, unbroken)


@pytest.mark.parametrize("again", [Share(0, 2), None], ids=["a share", "all"])
def test_an_index_that_a_late_worker_put_off_is_built_again(
    remote: Place,
    plan: Plan,
    model: LanguageModel,
    again: Share | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker began before the corpus was complete and was killed afterwards."""
    monkeypatch.setattr("latentbank.bank.store.server.store.FEW", 100)
    with remote.bank(model) as bank:
        for share in (Share(0, 2), Share(1, 2)):
            store_plan(bank, plan, model, batch=BATCH, share=share)
        bank.store.defer_index(2, 0)
        points = contents(bank)[
            2
        ].values()  # the same contexts under other ids: enough points that are not indexed
        vectors = np.stack([vector for _, vector in points])
        ids = [context_id("d", [number]) for number in range(len(points))]
        bank.store.upsert(2, Points(ids, vectors, [{**payload, "corpus": "d"} for payload, _ in points]))
        assert bank.store.info(2).indexed < bank.store.info(2).points
        store_plan(bank, plan, model, batch=BATCH, share=again)
        assert bank.store.info(2).indexed == bank.store.info(2).points == 2 * plan.contexts


def test_a_dropped_corpus_takes_the_records_of_its_shares_along(
    remote: Place, plan: Plan, model: LanguageModel
) -> None:
    with remote.bank(model) as bank:
        store_plan(bank, plan, model, batch=BATCH, share=Share(0, 2))
        assert states(bank) == {"0/2": "done", "1/2": "missing"}
        bank.drop_corpus("c")
        assert states(bank) == {}
        assert bank.store.count(2, Where(corpus="c")) == 0


# -- heartbeats ----------------------------------------------------------------------------------


def record(seconds_ago: float, stored: int = 3) -> dict[str, Any]:
    at = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")
    return {"at": at, "stored": stored, "contexts": 9, "worker": "gpu7, process 1"}


def test_records_describe_shares() -> None:
    records = {
        "0/5/beat": record(5000),
        "0/5/done": record(4000, 9),
        "1/5/beat": record(10),
        "2/5/beat": record(3600),
        "4/5/beat": record(-3600),  # its clock is an hour ahead
    }
    found = share_states(records)
    assert [(state.share, state.state, state.stored) for state in found] == [
        ("0/5", "done", 9),
        ("1/5", "running", 3),
        ("2/5", "stalled", 3),
        ("3/5", "missing", None),
        ("4/5", "running", 3),
    ]
    assert found[1].heartbeat == records["1/5/beat"]["at"]
    assert share_states({}) == []


def test_a_worker_beats_while_it_works_and_survives_a_failing_beat(
    embedded: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.ingest.workers.shares.BEAT_SECONDS", 0.01)
    with embedded.bank(model) as bank:
        written: list[int] = []
        enough = threading.Event()

        def write(corpus: str, records: dict[str, Any]) -> None:
            written.extend(record["stored"] for record in records.values())
            if len(written) == 5:
                enough.set()
            if len(written) == 3:
                raise BankUnavailable("gone")

        monkeypatch.setattr(bank.store, "write_shares", write)
        with Heartbeat(bank.store, "c", Share(0, 2), 9, lambda: len(written)) as heartbeat:
            assert enough.wait(30)
        beats = len(written)
        assert written == list(range(beats))
        heartbeat.done()
        assert len(written) == beats + 1
