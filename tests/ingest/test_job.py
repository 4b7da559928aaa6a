"""Jobs: whole, repeated, interrupted, killed, refused; on an embedded bank and on a server."""

from __future__ import annotations

import gc
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import latentbank.ingest.planning
import latentbank.ingest.writer
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, BankUnavailable, CorpusError, LatentBankError, ModelError
from latentbank.ingest.corpus import open_corpus
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import PLAN_VERSION, PlanSettings, load_plan
from latentbank.ingest.planning import plan_for
from latentbank.ingest.writer import Writer
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.ingest.conftest import Contents, Tiny, assert_same_bank, contents
from tests.ingest.jobs import (
    BATCH,
    LAYERS,
    Calls,
    Event,
    Place,
    committed,
    kill_job,
    some_sentences,
    stored_contexts,
)
from tests.real_server import serving
from tests.wire.double import Fault, QdrantDouble

SENTENCES = some_sentences(40)


@pytest.fixture
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


@pytest.fixture
def embedded(tiny_dir: Callable[..., Path], tmp_path: Path) -> Place:
    return Place(tiny_dir(), tmp_path)


@pytest.fixture
def server() -> Iterator[QdrantDouble]:
    with serving() as server:
        yield server


@pytest.fixture
def remote(embedded: Place, server: QdrantDouble) -> Place:
    return replace(embedded, url=server.url, grpc_port=server.grpc_port)


@pytest.fixture(params=["embedded", "remote"])
def place(request: pytest.FixtureRequest) -> Place:
    """A place for a bank: embedded, and on a server."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Unbroken:
    """The result of a job that nothing disturbs."""

    report: JobReport
    contents: Contents


@pytest.fixture(scope="module")
def unbroken(tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    place, model = (
        Place(tiny_dir(), tmp_path_factory.mktemp("unbroken")),
        load_language_model(str(tiny_dir())),
    )
    report = place.job(model, SENTENCES)
    with place.bank(model) as bank:
        assert bank.verify() == []
        return Unbroken(report, contents(bank))


@pytest.fixture(autouse=True)
def _threads_and_switches() -> Iterator[None]:
    """Check that however a job ends, no writer is left and Python's threads switch as before."""
    before = sys.getswitchinterval()
    yield
    assert sys.getswitchinterval() == before
    assert "latentbank writer" not in {thread.name for thread in threading.enumerate()}


def throw(error: BaseException) -> Callable[[], object]:
    def thrower() -> None:
        raise error

    return thrower


def spy_forwards(
    monkeypatch: pytest.MonkeyPatch,
    model: LanguageModel,
    at: int = 0,
    do: Callable[[], object] = lambda: None,
) -> list[int]:
    """Record the tokens of the model's forward passes, and call a function before the nth."""
    assert model.packs  # tries packing now, so its forward passes are not counted
    sizes: list[int] = []
    forward = model._run

    def counted(inputs: dict[str, Any], layers: list[int]) -> Any:
        if len(sizes) + 1 == at:
            do()
        sizes.append(inputs["input_ids"].numel())
        return forward(inputs, layers)

    monkeypatch.setattr(model, "_run", counted)
    return sizes


def no_llm(monkeypatch: pytest.MonkeyPatch, model: LanguageModel) -> None:
    monkeypatch.setattr(model, "_run", lambda *_: pytest.fail("the LLM ran"))


def check_complete(place: Place, model: LanguageModel, unbroken: Unbroken) -> None:
    with place.bank(model) as bank:
        assert bank.corpora["c"].complete
        assert bank.verify() == []
        assert_same_bank(contents(bank), unbroken.contents)


# -- whole and repeated --------------------------------------------------------------------------


def test_a_whole_job(place: Place, model: LanguageModel, unbroken: Unbroken) -> None:
    progress = Calls()
    with place.bank(model) as bank:
        plan = place.plan(bank, model, SENTENCES)
        assert "c" not in bank.corpora
        report = store_plan(bank, plan, model, progress, batch=BATCH)
        assert (report.corpus, report.contexts, report.encoded, report.found) == (
            "c",
            plan.contexts,
            plan.contexts,
            0,
        )
        assert plan.prefixes <= report.computed_tokens < 1.5 * plan.prefixes
        assert progress.last == (plan.contexts, plan.contexts)
        assert progress.stages == ["indexing layers"]
        entry = bank.corpora["c"]
        assert (entry.content_hash, entry.sentences, entry.tokens) == (plan.content_hash, 40, plan.tokens)
        assert entry.plan == {"bos": "tokenizer", "skip": 1, "contexts_per_token": 100, "max_tokens": 512}
        assert stored_contexts(bank, "c") == entry.contexts == plan.contexts
        for state in bank.info().layers.values():
            assert state.indexed == state.points == plan.contexts
    check_complete(place, model, unbroken)


def test_running_again_does_nothing(
    place: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.job(model, SENTENCES)
    with place.bank(model) as bank:
        before = contents(bank), bank.corpora
    no_llm(monkeypatch, model)
    again = place.job(model, SENTENCES)
    assert again == JobReport("c", first.contexts, 0, first.contexts, 0, 0.0, 0.0)
    with place.bank(model) as bank:
        assert_same_bank(contents(bank), before[0])
        assert bank.corpora == before[1]


def test_a_second_job_in_the_same_open_bank(place: Place, model: LanguageModel) -> None:
    """Two corpora, one of which holds sentences of the other: each keeps its own contexts."""
    others = [*SENTENCES[:10], *some_sentences(60)[50:]]
    with place.bank(model) as bank:
        for corpus, sentences in (("c", SENTENCES), ("d", others)):
            store_plan(bank, place.plan(bank, model, sentences, corpus), model, batch=BATCH)
        assert bank.verify() == []
        counts = {corpus: bank.count(2, Where(corpus=corpus)) for corpus in ("c", "d")}
        assert counts == {name: entry.contexts for name, entry in bank.corpora.items()}
        assert bank.drop_corpus("d") == counts["d"]
        assert bank.verify() == []
        assert bank.count(2) == counts["c"]


def test_a_padding_model(tiny: Tiny, tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    place, bloom = Place(tiny_dir("bloom"), tmp_path), tiny("bloom")
    report = place.job(bloom, SENTENCES[:10])
    assert report.encoded == report.contexts
    with place.bank(bloom) as bank:
        assert bank.verify() == []


# -- interrupted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a progress bar broke")])
def test_an_interrupt_in_the_writer(
    error: BaseException, place: Place, model: LanguageModel, unbroken: Unbroken
) -> None:
    with place.bank(model) as bank:
        plan = place.plan(bank, model, SENTENCES)
        with pytest.raises(type(error)) as caught:
            store_plan(bank, plan, model, Calls(2, throw(error)), batch=BATCH)
        assert caught.value is error
        assert not bank.corpora["c"].complete
    report = place.job(model, SENTENCES)
    assert report.found + report.encoded == report.contexts
    assert report.found >= 2
    check_complete(place, model, unbroken)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("not finite")])
def test_what_the_llm_has_computed_before_an_interrupt_is_stored(
    error: BaseException,
    place: Place,
    model: LanguageModel,
    unbroken: Unbroken,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress = Calls()
    with place.bank(model) as bank, monkeypatch.context() as patch:
        plan = place.plan(bank, model, SENTENCES)
        forwards = spy_forwards(patch, model, 4, throw(error))
        with pytest.raises(type(error)):
            store_plan(bank, plan, model, progress, batch=BATCH)
        assert len(forwards) == 3
        assert progress.calls == 3
        stored = stored_contexts(bank, "c")
        assert stored == progress.last[0] > 0
        assert not bank.corpora["c"].complete
    computed = spy_forwards(monkeypatch, model)
    report = place.job(model, SENTENCES)
    assert (report.found, report.encoded) == (stored, report.contexts - stored)
    assert sum(computed) < unbroken.report.computed_tokens
    check_complete(place, model, unbroken)


def test_only_committed_contexts_count_after_a_kill_between_layers(
    embedded: Place, model: LanguageModel, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that only some of the layers have stored is encoded again."""
    with embedded.bank(model) as bank:
        plan = embedded.plan(bank, model, SENTENCES)
        upsert = bank.store.upsert

        def half(layer: int, points: Any) -> None:
            if layer == LAYERS[1] and bank.store.count(layer):
                raise BankUnavailable("gone")
            upsert(layer, points)

        monkeypatch.setattr(bank.store, "upsert", half)
        with pytest.raises(BankUnavailable, match="gone"):
            store_plan(bank, plan, model, batch=BATCH)
        counts = [bank.store.count(layer) for layer in LAYERS]
        assert counts[0] > counts[1] == counts[2] == stored_contexts(bank, "c") > 0
    assert embedded.job(model, SENTENCES).found == counts[2]
    check_complete(embedded, model, unbroken)


def test_the_queue_is_bounded_and_the_writer_works_beside_the_llm(
    embedded: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits with its first batch until no further one finds a place in the queue."""
    forwards = spy_forwards(monkeypatch, model)
    ahead: list[int] = []
    begun, full, put = threading.Event(), threading.Event(), queue.Queue.put

    def put_or_tell(self: queue.Queue[Any], *given: Any, **named: Any) -> None:
        waits = begun.is_set()
        try:
            put(self, *given, **named)
        except queue.Full:
            if waits:  # the writer took nothing in the meantime
                full.set()
            raise

    with embedded.bank(model) as bank:
        plan = embedded.plan(bank, model, some_sentences(150))
        upsert = bank.store.upsert

        def late(layer: int, points: Any) -> None:
            begun.set()
            assert full.wait(60)
            ahead.append(len(forwards) - len(ahead) // len(LAYERS))
            upsert(layer, points)

        monkeypatch.setattr(bank.store, "upsert", late)
        monkeypatch.setattr(queue.Queue, "put", put_or_tell)
        store_plan(bank, plan, model, batch=BATCH)
    assert len(forwards) > 15
    # The batch that the writer stores, those in the queue, and one that waits for a place in it.
    assert max(ahead) == ahead[0] == 1 + latentbank.ingest.writer._QUEUE + 1


class Hanging:
    """Makes the writer hang in the store at its first batch, until `release` is set."""

    def __init__(self, bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs, self.release = threading.Event(), threading.Event()
        upsert = bank.store.upsert

        def hang(layer: int, points: Any) -> None:
            self.hangs.set()
            assert self.release.wait(60)
            upsert(layer, points)

        monkeypatch.setattr(bank.store, "upsert", hang)


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class Waits:
    """Tells each time when a job that was interrupted waits for its writer.

    It waits in such a way that Ctrl-C may strike anywhere in it. In Python's own waiting there are moments at which an
    exception leaves a lock behind.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        end = Writer._end

        def told(writer: Writer) -> None:
            monkeypatch.setattr(writer._done, "wait", lambda: self._wait(writer._done.is_set))
            end(writer)

        monkeypatch.setattr(Writer, "_end", told)

    def _wait(self, done: Callable[[], bool]) -> None:
        self._told.put(None)
        while not done():
            time.sleep(0.01)

    def wait_for_next(self) -> None:
        self._told.get(timeout=60)


def test_a_second_ctrl_c_gives_up_what_is_queued(
    embedded: Place, model: LanguageModel, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Calls()
    with embedded.bank(model) as bank, monkeypatch.context() as patch:
        plan = embedded.plan(bank, model, SENTENCES)
        store, waits = Hanging(bank, patch), Waits(patch)

        def again() -> None:
            waits.wait_for_next()
            press_ctrl_c()
            waits.wait_for_next()
            store.release.set()

        def first() -> None:
            assert store.hangs.wait(60)
            press_ctrl_c()

        forwards = spy_forwards(patch, model, 4, first)
        helper = threading.Thread(target=again)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            store_plan(bank, plan, model, progress, batch=BATCH)
        helper.join()
        assert len(forwards) == 3
        assert progress.calls == 1  # the batch that was being stored
        assert stored_contexts(bank, "c") == progress.last[0] > 0
    assert embedded.job(model, SENTENCES).found == progress.last[0]
    check_complete(embedded, model, unbroken)


def test_a_third_ctrl_c_leaves_at_once(
    embedded: Place, model: LanguageModel, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded.bank(model) as bank, monkeypatch.context() as patch:
        plan = embedded.plan(bank, model, SENTENCES)
        store, waits = Hanging(bank, patch), Waits(patch)

        def again() -> None:
            for _ in range(2):
                waits.wait_for_next()
                press_ctrl_c()

        def first() -> None:
            assert store.hangs.wait(60)
            press_ctrl_c()

        spy_forwards(patch, model, 4, first)
        helper = threading.Thread(target=again)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            store_plan(bank, plan, model, batch=BATCH)
        helper.join()
        assert not store.release.is_set()  # the job did not wait for the store
        store.release.set()
        for thread in threading.enumerate():
            if thread.name == "latentbank writer":
                thread.join(60)
    embedded.job(model, SENTENCES)
    check_complete(embedded, model, unbroken)


def test_an_error_of_the_llm_is_not_lost_to_one_of_the_writer(
    embedded: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded.bank(model) as bank:
        plan = embedded.plan(bank, model, SENTENCES)
        failed = threading.Event()

        def broken(layer: int, points: Any) -> None:
            assert failed.wait(60)
            raise BankUnavailable("the store broke")

        def fail() -> None:
            failed.set()
            raise ModelError("not finite")

        monkeypatch.setattr(bank.store, "upsert", broken)
        spy_forwards(monkeypatch, model, 2, fail)
        with pytest.raises(ModelError, match="not finite") as caught:
            store_plan(bank, plan, model, batch=BATCH)
        assert any("the store broke" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("what", ["commit", "index", "defer_index"])
def test_a_store_that_fails_later_on(
    what: str, embedded: Place, model: LanguageModel, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded.bank(model) as bank:
        plan = embedded.plan(bank, model, SENTENCES)
        monkeypatch.setattr(bank.store, what, lambda *_: throw(BankUnavailable("gone"))())
        with pytest.raises(BankUnavailable, match="gone"):
            store_plan(bank, plan, model, batch=BATCH)
        assert not bank.corpora["c"].complete
    embedded.job(model, SENTENCES)
    check_complete(embedded, model, unbroken)


# -- killed --------------------------------------------------------------------------------------

MOMENTS = (
    ("planning", 1),
    ("change_entry", 1),
    ("upsert", 1),
    ("commit", 1),
    ("upsert", 4),
    ("commit", 2),
    ("index", 1),
    ("index", 3),
    ("change_entry", 2),
)


def test_kill_9_at_any_moment(place: Place, model: LanguageModel, unbroken: Unbroken) -> None:
    """One job is killed repeatedly, each time shortly after some step began; then it runs undisturbed."""
    chance, safe = random.Random(place.url == ""), 0
    moments = MOMENTS if not place.url else MOMENTS[2::2]
    for name, times in moments:
        events = kill_job(place, SENTENCES, name, times, chance.random() * 0.03)
        if Event(name, True) not in events:
            # An earlier job was killed so late that nothing was left to do.
            assert events[-1].name == "end", f"{name} never came"
            place.start_over()
            safe, events = 0, kill_job(place, SENTENCES, name, times, chance.random() * 0.03)
        assert Event(name, True) in events, f"{name} never came"
        safe += committed(events)
        begun, ended = (events.count(Event("change_entry", begins)) for begins in (True, False))
        with place.bank(model) as bank:
            if "c" in bank.corpora:
                # If the job was killed while it wrote the last entry, the entry may be written or not.
                assert bank.corpora["c"].complete in {begun == 2, ended == 2}
                assert stored_contexts(bank, "c") >= safe
    report = place.job(model, SENTENCES)
    assert report.found + report.encoded == report.contexts
    assert report.found >= safe > 0
    check_complete(place, model, unbroken)


def test_a_kill_while_planning_leaves_no_plan(embedded: Place) -> None:
    for times in (1, 2):
        events = kill_job(embedded, SENTENCES, "planning", times, 0.0)
        assert events.count(Event("planning", True)) == times
        assert load_plan(embedded.folder / "plans" / "c") is None


# -- refused -------------------------------------------------------------------------------------


def test_a_corpus_that_changed_under_the_same_name(
    place: Place, model: LanguageModel, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.job(model, SENTENCES)
    no_llm(monkeypatch, model)
    changed = [*SENTENCES[:-1], "Something else."]
    with place.bank(model) as bank:
        before = load_plan(place.folder / "plans" / "c")
        for _ in range(2):
            with pytest.raises(CorpusError, match="'c' has changed since it was ingested into bank 'bank'"):
                place.plan(bank, model, changed)
        assert load_plan(place.folder / "plans" / "c") == before  # which still fits the bank
        shutil.rmtree(place.folder / "plans")
        with pytest.raises(CorpusError, match="replace the old one, or drop it first"):
            place.plan(bank, model, changed)
    check_complete(place, model, unbroken)


def test_a_corpus_may_change_before_anything_is_stored(embedded: Place, model: LanguageModel) -> None:
    with embedded.bank(model) as bank:
        first = embedded.plan(bank, model, SENTENCES)
        other = embedded.plan(bank, model, SENTENCES[:20])
        assert first.content_hash != other.content_hash
        assert store_plan(bank, other, model).contexts == other.contexts


def test_other_plan_settings(embedded: Place, model: LanguageModel, unbroken: Unbroken) -> None:
    embedded.job(model, SENTENCES)
    with embedded.bank(model) as bank:
        before = load_plan(embedded.folder / "plans" / "c")
        with pytest.raises(
            CorpusError, match=r"planned with bos=tokenizer, skip=1, .*, not with .*skip=0"
        ) as caught:
            embedded.plan(bank, model, SENTENCES, skip=0)
        assert str(caught.value).endswith("another name, or replace the corpus.")
        assert load_plan(embedded.folder / "plans" / "c") == before
    check_complete(embedded, model, unbroken)


def test_another_sampling(embedded: Place, model: LanguageModel) -> None:
    """A ledger keeps the sampling, and one of a version without it means the first contexts."""
    with embedded.bank(model) as bank:
        choice = {"sampling": "reservoir", "seed": 3, "contexts_per_token": 1}
        sampled = embedded.plan(bank, model, SENTENCES, **choice)
        store_plan(bank, sampled, model)
        assert bank.corpora["c"].plan == PlanSettings(**choice).to_dict()
        assert embedded.plan(bank, model, SENTENCES, **choice) == sampled
        for other in ({"seed": 4}, {"sampling": "first", "seed": 0}, {"first_position": 1}):
            with pytest.raises(CorpusError, match="sampling=reservoir, seed=3, not with"):
                embedded.plan(bank, model, SENTENCES, **choice | other)
        bank.drop_corpus("c")
        store_plan(bank, embedded.plan(bank, model, SENTENCES), model)
        assert sorted(bank.corpora["c"].plan) == ["bos", "contexts_per_token", "max_tokens", "skip"]


def test_a_plan_is_used_again_unless_something_differs(
    embedded: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = latentbank.ingest.planning._make
    monkeypatch.setattr(
        latentbank.ingest.planning, "_make", lambda *given: (made.append(given), make(*given))[1]
    )
    with embedded.bank(model) as bank:
        for times, sentences, choice in (
            (1, SENTENCES, {}),
            (1, SENTENCES, {}),
            (2, SENTENCES[:9], {}),
            (3, SENTENCES[:9], {"skip": 0}),
            (3, SENTENCES[:9], {"skip": 0}),
        ):
            embedded.plan(bank, model, sentences, **choice)
            assert len(made) == times
        file = embedded.folder / "plans" / "c" / "plan.json"
        file.write_text(file.read_text().replace(f'"version": {PLAN_VERSION}', '"version": 0'))
        embedded.plan(bank, model, SENTENCES[:9], skip=0)
        assert len(made) == 4


def test_standard_input_is_planned_anew(
    embedded: Place, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Standard input can be read only once, so an earlier plan of it must not be used."""

    def planned(text: str) -> Any:
        (tmp_path / "in").write_text(text)
        with (tmp_path / "in").open() as stream, embedded.bank(model) as bank:
            monkeypatch.setattr(sys, "stdin", stream)
            return plan_for(bank, open_corpus("c", "-"), model, tmp_path / "plan", PlanSettings())

    first, other = planned("A dog runs.\n"), planned("A cat sleeps.\n")
    assert [s.caption for s in other.read()] == ["A cat sleeps."]
    with embedded.bank(model) as bank:
        store_plan(bank, other, model)
    with pytest.raises(CorpusError, match="has changed"):
        planned("A dog runs.\n")
    assert planned("A cat sleeps.\n").content_hash == other.content_hash != first.content_hash


def test_a_plan_or_a_model_that_is_not_the_banks(
    embedded: Place, tiny: Tiny, model: LanguageModel, tmp_path: Path
) -> None:
    other = tiny("qwen3")
    foreign = replace(embedded, folder=tmp_path / "other")
    with foreign.bank(other) as bank:
        plan = foreign.plan(bank, other, SENTENCES)
    with embedded.bank(model) as bank:
        own = embedded.plan(bank, model, SENTENCES)
        with pytest.raises(BankMismatch, match=Path(model.name).name):
            store_plan(bank, plan, model)
        with pytest.raises(BankMismatch, match=Path(model.name).name):
            store_plan(bank, own, other)
        with pytest.raises(BankMismatch, match=Path(model.name).name):
            embedded.plan(bank, other, SENTENCES)
        assert bank.corpora == {}


# -- repaired ------------------------------------------------------------------------------------


def test_a_layer_that_lost_everything_is_filled_again(
    place: Place, model: LanguageModel, unbroken: Unbroken
) -> None:
    place.job(model, SENTENCES)
    with place.bank(model) as bank:
        bank.store.delete_corpus(2, "c")
        assert bank.corpora["c"].complete
        assert bank.verify() != []
    assert place.job(model, SENTENCES).encoded == unbroken.report.contexts
    check_complete(place, model, unbroken)


def test_contexts_that_one_layer_lost_are_encoded_again_and_no_others(
    remote: Place, server: QdrantDouble, model: LanguageModel, unbroken: Unbroken
) -> None:
    remote.job(model, SENTENCES)
    lost = sorted(server.points("bank--L02"))[::50]
    server.remove("bank--L02", lost)
    report = remote.job(model, SENTENCES)
    assert report.encoded == len(lost) > 3
    assert report.found == report.contexts - len(lost)
    assert report.computed_tokens < unbroken.report.computed_tokens / 2
    check_complete(remote, model, unbroken)


def test_contexts_that_are_not_planned_are_an_error_that_says_what_to_do(
    embedded: Place, model: LanguageModel
) -> None:
    embedded.job(model, SENTENCES)
    with embedded.bank(model) as bank:
        (state,) = model.hidden_states([[5, 6]], [2])
        payload = contents(bank)[2].popitem()[1][0]
        bank.add(2, ["00000000-0000-0000-0000-000000000001"], state[2][:1].numpy(), [payload])
        plan = embedded.plan(bank, model, SENTENCES)
        with pytest.raises(LatentBankError, match="drop the corpus and ingest it again"):
            store_plan(bank, plan, model)
        assert not bank.corpora["c"].complete
        bank.drop_corpus("c")
        assert store_plan(bank, plan, model).encoded == plan.contexts
        assert bank.verify() == []


# -- a server that fails -------------------------------------------------------------------------


def test_faults_that_pass_do_not_show(
    remote: Place, server: QdrantDouble, model: LanguageModel, unbroken: Unbroken
) -> None:
    server.inject(Fault.unavailable503, times=2, operation="upsert", after=2)
    server.inject(Fault.drop_after_apply, operation="upsert", after=6)
    server.inject(Fault.too_many, operation="count", retry_after=0)
    report = remote.job(model, SENTENCES)
    assert report.encoded == report.contexts
    assert server.faults_left == 0
    check_complete(remote, model, unbroken)


def test_a_server_that_dies_in_the_middle(
    remote: Place, server: QdrantDouble, model: LanguageModel, unbroken: Unbroken
) -> None:
    progress = Calls(2, server.stop)
    bank = remote.bank(model)
    plan = remote.plan(bank, model, SENTENCES)
    with pytest.raises(BankUnavailable) as caught:
        store_plan(bank, plan, model, progress, batch=BATCH)
    assert "\n" not in str(caught.value)
    assert progress.calls == 2
    bank.close()
    server.start()
    with remote.bank(model) as bank:
        stored = stored_contexts(bank, "c")
        assert stored >= progress.last[0] > 0
        assert not bank.corpora["c"].complete
    report = remote.job(model, SENTENCES)
    assert report.found == stored
    check_complete(remote, model, unbroken)


# -- a disk that is full -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = (
        sys.platform == "linux"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(path)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk takes root on Linux")
    yield path
    gc.collect()  # plans hold their files while they are kept in tracebacks
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_in_the_middle(
    embedded: Place, small_disk: Path, model: LanguageModel, unbroken: Unbroken
) -> None:
    place = replace(embedded, folder=small_disk)
    ballast = small_disk / "ballast"

    def fill_up() -> None:
        free = shutil.disk_usage(small_disk).free
        with suppress(OSError):  # the engine may have taken some in the meantime
            ballast.write_bytes(bytes(free - (1 << 20)))  # written, because truncate would take no space

    progress = Calls(3, fill_up)
    with place.bank(model) as bank:
        plan = place.plan(bank, model, SENTENCES)
        with pytest.raises(BankUnavailable, match=r"full.*make room and run the command again") as caught:
            store_plan(bank, plan, model, progress, batch=BATCH)
        assert "\n" not in str(caught.value)
        assert progress.calls == 3
    ballast.unlink()
    with place.bank(model) as bank:
        stored = stored_contexts(bank, "c")
        assert not bank.corpora["c"].complete
    report = place.job(model, SENTENCES)
    assert report.found == stored
    check_complete(place, model, unbroken)
