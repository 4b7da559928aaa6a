"""Banks copied between a server and this machine: the same contexts, whatever interrupts the copy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentbank.bank.transfer.copy
import latentbank.bank.transfer.receive
from latentbank.bank.bank import Bank
from latentbank.bank.manifest import Manifest
from latentbank.bank.opening import create_from_manifest, delete_bank, open_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.base import Points
from latentbank.bank.transfer.copy import copy_bank
from latentbank.bank.transfer.receive import MoveReport
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, BankUnavailable, CorpusError, LatentBankError, LayerNotFound
from latentbank.progress import Silent
from tests.bank.samples import HEAD, Start, entry, fill, ids, is_one_sentence, next_line, payload, units
from tests.bank.servers import settings as server_settings
from tests.wire.double import Fault, QdrantDouble

Doubles = Callable[..., QdrantDouble]


def settings_of(server: QdrantDouble, transport: str = "grpc", **changes: Any) -> Settings:
    """Settings for a double, without retries."""
    return server_settings(server, transport, **{"retries": 0, "graph_from": 1000, **changes})


@pytest.fixture
def here(data_dir: Path) -> Settings:
    """Where the copies are: embedded."""
    return load_settings(data_dir=data_dir, graph_from=1000)


def a_bank(settings: Settings, layers: tuple[int, ...] = (4, 8), **changes: Any) -> Bank:
    """An empty bank with an unusual rotation seed."""
    head = {**HEAD, "layers": layers, **changes}
    return create_from_manifest(Manifest.from_dict(head, {}), settings, lambda bank: None)


def contents(bank: Bank, layer: int, corpus: str = "animals") -> dict[str, tuple[Any, Any]]:
    points = bank.store.scroll(layer, Where(corpus=corpus), vectors=True, payloads=True)
    return {point.id: (point.payload, point.vector) for point in points}


def assert_equal_banks(
    source: Bank, other: Bank, layers: tuple[int, ...] = (4, 8), corpus: str = "animals"
) -> None:
    """Both hold the same contexts, with the same payloads and the same stored vectors."""
    for layer in layers:
        left, right = contents(source, layer, corpus), contents(other, layer, corpus)
        assert list(left) == list(right)
        assert len(left) > 0
        for id_, (data, vector) in left.items():
            assert data == right[id_][0]
            np.testing.assert_allclose(vector, right[id_][1], atol=1e-3)


def stored_contexts(bank: Bank) -> int:
    """How many contexts the layers hold together, also those that readers are not shown."""
    return sum(bank.store.count(layer) for layer in bank.layers)


def supersede(bank: Bank, count: int, corpus: str = "animals") -> None:
    """Replace a corpus by a new one of `count` contexts, which is stored under `name@2`."""
    stored = f"{corpus}@2"
    fill(bank, count, stored, states=lambda layer: units(count, seed=100 + layer), complete=False)
    bank.supersede(replace(bank.corpora[stored], replaces=corpus, content_hash="new"))


def test_a_pulled_bank_is_the_servers(server: QdrantDouble, here: Settings, transport: str) -> None:
    there = settings_of(server, transport)
    with a_bank(there, quantization="turbo") as source:
        states = fill(source, 300)
        fill(source, 40, "plants")
        source.record(entry("unfinished", 7, complete=False))
        report = copy_bank(source, here)
        assert report == MoveReport("bank", [4, 8], ["animals", "plants"], 340, 680, ["unfinished"], [])
        with open_bank("bank", here) as copy:
            for corpus in ("animals", "plants"):
                assert_equal_banks(source, copy, corpus=corpus)
                assert copy.corpora[corpus] == source.corpora[corpus]
            assert replace(copy.manifest, corpora={}) == replace(source.manifest, corpora={})
            assert copy.manifest.rotation_seed == HEAD["rotation_seed"]
            assert "unfinished" not in copy.corpora
            queries = states[4][:20]
            found, expected = (
                [
                    [n.id for n in row]
                    for row in bank.search(queries, 4, 3, Where(corpus="animals"), exact=True)
                ]
                for bank in (copy, source)
            )
            assert found == expected
            assert [row[0] for row in found] == ids(range(20))
            assert copy.verify() == []


def test_a_pushed_bank_is_the_embedded_one(server: QdrantDouble, here: Settings, transport: str) -> None:
    with a_bank(here) as source:
        fill(source, 100)
        report = copy_bank(source, settings_of(server, transport))
        assert (report.written, report.wrong) == (200, [])
        with open_bank("bank", settings_of(server)) as copy:
            assert_equal_banks(source, copy)
            assert copy.verify() == []


def test_a_copy_of_chosen_layers_and_corpora_takes_more_corpora_later(
    server: QdrantDouble, here: Settings
) -> None:
    with a_bank(settings_of(server), layers=(2, 4, 8)) as source:
        fill(source, 60)
        fill(source, 30, "plants")
        report = copy_bank(source, here, layers=[4, 8], corpora=["plants"])
        assert (report.layers, report.corpora, report.written) == ([4, 8], ["plants"], 60)
        with open_bank("bank", here) as copy:
            assert list(copy.corpora) == ["plants"]
            assert copy.count() == 30
        again = copy_bank(source, here, layers=[4, 8])
        assert (again.corpora, again.written, again.wrong) == (["animals", "plants"], 120, [])
        with pytest.raises(BankMismatch, match="has layers 4, 8, but 2, 4, 8 would be stored") as caught:
            copy_bank(source, here)
        assert is_one_sentence(caught.value)
        with pytest.raises(LayerNotFound, match="no layer 5"):
            copy_bank(source, here, layers=[5])


def test_pulling_writes_nothing_there_so_a_readers_key_suffices(double: Doubles, here: Settings) -> None:
    server = double(api_key="writes", read_only_key="reads")
    with a_bank(settings_of(server, api_key="writes")) as source:
        fill(source, 50)
    server.requests.clear()
    with open_bank("bank", settings_of(server, api_key="reads")) as source:
        assert copy_bank(source, here).wrong == []
    reads = {"version", "health", "list_collections", "get_collection", "collection_exists", "count", "facet"}
    assert {request.operation for request in server.requests} <= reads | {"scroll", "list_aliases"}


def test_pushing_with_a_readers_key_says_which_key_is_needed(double: Doubles, here: Settings) -> None:
    server = double(api_key="writes", read_only_key="reads")
    with a_bank(here) as source:
        fill(source, 10)
        with pytest.raises(BankUnavailable, match="refuses the key") as caught:
            copy_bank(source, settings_of(server, api_key="reads"))
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("after", [2, 5])
def test_a_pull_that_failed_goes_on_where_it_stopped(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr("latentbank.bank.store.server.store._SCROLL", 50)
    monkeypatch.setattr("latentbank.bank.transfer.copy.BATCH", 10)
    with a_bank(settings_of(server)) as source:
        fill(source, 200)
        server.inject(Fault.error500, operation="scroll", after=after + 1)  # the first one reads the ledger
        with pytest.raises(BankUnavailable):
            copy_bank(source, here)
        with open_bank("bank", here) as copy:
            assert not copy.corpora["animals"].complete
            assert copy.count(4) == copy.count(8) == 0
            kept = stored_contexts(copy)
        assert kept == 50 * after
        report = copy_bank(source, here)
        assert (report.written, report.wrong) == (400 - kept, [])
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy)
            assert copy.corpora["animals"].complete
        assert copy_bank(source, here).written == 0


def test_a_gap_in_the_middle_of_what_is_there_is_filled(server: QdrantDouble, here: Settings) -> None:
    """The copy continues from the first context that is missing, whatever a kill has left."""
    with a_bank(settings_of(server)) as source:
        fill(source, 100)
        order = [point.id for point in source.store.scroll(4)]
        with a_bank(here) as copy:
            kept = contents(source, 4)
            few = [id_ for at, id_ in enumerate(order) if at < 30 or 50 <= at < 60]
            points = Points(few, np.stack([kept[id_][1] for id_ in few]), [kept[id_][0] for id_ in few])
            copy.store.upsert(4, points)
            copy.commit()
            copy.record(replace(source.corpora["animals"], complete=False))
        report = copy_bank(source, here)
        assert (report.written, report.wrong) == (70 + 100, [])
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy)


def _pull(url: str, grpc_port: str, folder: str, last: str) -> None:
    """Pull in another process, with a commit every 64 contexts; print the progress, and stop once it is `last`."""
    latentbank.bank.transfer.receive.COMMIT, latentbank.bank.transfer.copy.BATCH = 64, 32

    @dataclass
    class Printing(Silent):
        def update(self, done: float, total: float | None = None) -> None:
            print(int(done), flush=True)
            if done >= int(last):
                sys.stdin.readline()

    there = load_settings(url=url, grpc_port=int(grpc_port))
    with open_bank("bank", there) as source:
        copy_bank(source, load_settings(data_dir=folder), progress=Printing())


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_a_pull_that_was_killed_goes_on_and_loses_nothing(
    server: QdrantDouble, here: Settings, start: Start
) -> None:
    reached = 700  # of 1,000 in both layers
    with a_bank(settings_of(server)) as source:
        fill(source, 500)
        child = start(_pull, server.url, server.grpc_port, here.data_dir, reached)
        while int(next_line(child)) < reached:
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        with open_bank("bank", here) as copy:
            kept = stored_contexts(copy)
        assert reached - 64 - 32 <= kept < 1000
        report = copy_bank(source, here)
        assert report.wrong == []
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy)


def test_a_centred_bank_takes_its_means_along(server: QdrantDouble, here: Settings) -> None:
    means = {layer: units(1, seed=layer)[0] / 3 for layer in (2, 4, 8)}
    with a_bank(settings_of(server), layers=(2, 4, 8), metric="centred") as source:
        source.fix_means(means)
        fill(source, 50)
        assert copy_bank(source, here, layers=[4, 8]).wrong == []
        with open_bank("bank", here) as copy:
            for layer in (4, 8):
                np.testing.assert_array_equal(copy.text_mean(layer), means[layer])
            assert_equal_banks(source, copy)


def test_a_replaced_corpus_is_copied_under_the_name_it_is_stored_under(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.bank.transfer.copy.BATCH", 10)
    with a_bank(settings_of(server)) as source:
        fill(source, 60)
        assert copy_bank(source, here).wrong == []
        fill(source, 20, "plants")
        supersede(source, 30)
        with pytest.raises(CorpusError, match=r"another corpus 'animals' .*drop it first") as caught:
            copy_bank(source, here)
        assert is_one_sentence(caught.value)
        with open_bank("bank", here) as copy:
            copy.drop_corpus("animals")
        server.inject(Fault.error500, operation="scroll", after=1)
        with pytest.raises(BankUnavailable):
            copy_bank(source, here)
        report = copy_bank(source, here)
        assert (report.corpora, report.contexts, report.wrong) == (["animals", "plants"], 50, [])
        with open_bank("bank", here) as copy:
            assert copy.corpora == source.corpora
            assert copy.corpora["animals"].stored == "animals@2"
            assert_equal_banks(source, copy, corpus="animals@2")
            assert_equal_banks(source, copy, corpus="plants")
            found = copy.search(units(3), "all", 100, Where(corpus="animals"))
            assert {(item.corpus, len(row)) for row in found for item in row} == {("animals", 60)}
            assert (copy.verify(), stored_contexts(copy)) == ([], 2 * 50)
        assert copy_bank(source, here).written == 0


def test_what_a_replacement_left_behind_is_not_copied(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_bank(settings_of(server)) as source:
        fill(source, 40)
        monkeypatch.setattr(source, "forget_obsolete", lambda _: None)  # as after a kill before this step
        supersede(source, 30)
        (message,) = copy_bank(source, here).wrong
        assert message.startswith("In the source: Corpus 'animals' was replaced")
        with open_bank("bank", here) as copy:
            assert copy.corpora["animals"].obsolete == ()
            assert_equal_banks(source, copy, corpus="animals@2")
            assert (copy.verify(), stored_contexts(copy)) == ([], 2 * 30)


def test_the_same_sentences_stored_under_another_name_are_not_taken_for_a_copy(
    server: QdrantDouble, here: Settings
) -> None:
    with a_bank(settings_of(server)) as source, a_bank(here) as copy:
        fill(source, 40)
        supersede(source, 30)
        fill(copy, 30)
        copy.record(entry("animals", 30, content_hash="new"))
        copy.close()
        with pytest.raises(
            CorpusError, match=r"another corpus 'animals' \(stored as 'animals', not"
        ) as caught:
            copy_bank(source, here)
        assert is_one_sentence(caught.value)


def test_a_corpus_is_announced_to_readers_before_its_first_context_is_pushed(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = settings_of(server)
    a_bank(there).close()
    states: list[tuple[bool, int]] = []

    def sleep(seconds: float) -> None:
        if seconds > 500 and not states:
            with open_bank("bank", there) as reader:
                states.append((reader.corpora["animals"].complete, stored_contexts(reader)))

    monkeypatch.setattr("latentbank.bank.transfer.receive.LEDGER_SECONDS", 1000.0)
    monkeypatch.setattr("latentbank.bank.transfer.receive.time.sleep", sleep)
    with a_bank(here) as source:
        fill(source, 20)
        assert copy_bank(source, there).written == 40
    assert states == [(False, 0)]


def test_a_copy_that_differs_is_found(server: QdrantDouble, here: Settings) -> None:
    with a_bank(settings_of(server)) as source, a_bank(here) as copy:
        fill(source, 50)
        fill(copy, 50, states=lambda layer: units(50, seed=99 if layer == 8 else 4))
        copy.close()
        (message,) = copy_bank(source, here).wrong
        assert "other vectors in layer 8" in message

    with a_bank(settings_of(server), bank="two") as source, a_bank(here, bank="two") as copy:
        fill(source, 50)
        for layer in (4, 8):
            copy.add(layer, ids(range(1, 51)), units(50, seed=layer), [payload(n) for n in range(1, 51)])
        copy.commit()
        copy.record(source.corpora["animals"])
        copy.close()
        (message,) = copy_bank(source, here).wrong
        assert "other contexts than the source" in message


def test_layers_of_the_source_that_differ_are_found(server: QdrantDouble, here: Settings) -> None:
    with a_bank(settings_of(server)) as source:
        fill(source, 20)
        for layer, last in ((4, 20), (8, 21)):
            source.add(layer, ids([last]), units(1), [payload(last)])
        source.record(entry("animals", 21))
        wrong = copy_bank(source, here).wrong
    assert [message.split(":")[0] for message in wrong] == ["In the copy", "In the source"]
    assert all("Layer 8 holds other contexts than layer 4" in message for message in wrong)


def test_what_cannot_be_copied(server: QdrantDouble, here: Settings) -> None:
    def refused(kind: type[LatentBankError], saying: str, **given: Any) -> None:
        with pytest.raises(kind, match=saying) as caught:
            copy_bank(source, here, **given)
        assert is_one_sentence(caught.value)

    with a_bank(settings_of(server)) as source:
        source.record(entry("unfinished", 7, complete=False))
        refused(CorpusError, "no complete corpus")
        fill(source, 10)
        refused(CorpusError, "no corpus 'plants'; it has animals, unfinished", corpora=["plants"])
        refused(CorpusError, "'unfinished' of bank 'bank' is incomplete", corpora=["unfinished"])
        for changes, kind, saying in (
            ({"fingerprint": "beef"}, BankMismatch, "not of tiny/llama"),
            ({"rotation_seed": 8}, BankMismatch, r"another rotation seed \(8, not 7\)"),
            ({"metric": "centred"}, BankMismatch, r"another metric \(centred, not cosine\)"),
        ):
            a_bank(here, **changes).close()
            refused(kind, saying)
            delete_bank("bank", here)
        with a_bank(here) as copy:
            copy.record(entry("animals", 10, content_hash="other"))
        refused(CorpusError, "another corpus 'animals'")


def test_progress_covers_all_layers(server: QdrantDouble, here: Settings) -> None:
    class Recorder(Silent):
        def __init__(self) -> None:
            self.stages: list[str] = []
            self.last: tuple[float, float | None] = (0, 0)

        def update(self, done: float, total: float | None = None) -> None:
            if not self.stages:
                self.last = (done, total)

        def stage(self, what: str, unit: str) -> None:
            self.stages.append(what)

    recorder = Recorder()
    with a_bank(settings_of(server)) as source:
        fill(source, 50)
        copy_bank(source, here, progress=recorder)
    assert recorder.last == (100, 100)
    assert recorder.stages == ["indexing", "comparing", "comparing"]
