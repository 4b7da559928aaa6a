"""Banks pulled as snapshots of their layers: the same contexts as by scroll, with scroll as the fallback."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.embedded.indexing import Indexing
from latentbank.bank.transfer.copy import copy_bank
from latentbank.bank.where import Where
from latentbank.errors import BankUnavailable, LatentBankError
from latentbank.progress import Silent
from tests.bank.samples import Start, entry, fill, ids, is_one_sentence, next_line, payload, units
from tests.bank.servers import KEY, warned
from tests.bank.transfer.test_copy import (
    Doubles,
    a_bank,
    assert_equal_banks,
    here,
    settings_of,
    stored_contexts,
    supersede,
)
from tests.wire.double import Fault, QdrantDouble

__all__ = ["here"]
COUNT = 300
LAYERS = (4, 8)


def served(server: QdrantDouble, layers: tuple[int, ...] = (4,), index: bool = False, **changes: Any) -> Bank:
    """Provide a bank on a server with one corpus; `index` indexes it as an ingestion does."""
    given = {name: changes.pop(name) for name in ("api_key", "shard_number") if name in changes}
    source = a_bank(settings_of(server, graph_from=100, **given), layers=layers, **changes)
    fill(source, COUNT)
    for layer in layers if index else ():
        source.store.index(layer)
    return source


def operations(server: QdrantDouble) -> list[str]:
    return [request.operation for request in server.requests]


def leftovers(here: Settings) -> list[str]:
    """Return what is in a bank's folder beside its layers."""
    known = {"manifest.json", "lock", *(f"L{layer:02d}" for layer in LAYERS)}
    return sorted(path.name for path in (here.data_dir / "bank").iterdir() if path.name not in known)


@pytest.mark.parametrize("quantization", ["int8", "turbo", "none"])
def test_a_bank_pulled_by_snapshot_is_the_servers(
    server: QdrantDouble, here: Settings, quantization: str
) -> None:
    layers = LAYERS if quantization == "int8" else (4,)
    with served(server, layers, index=True, quantization=quantization) as source:
        queries, words = units(20, seed=9), Where(caption_contains="fire truck")
        by_words = [[n.id for n in row] for row in source.search(queries, 4, 3, words, exact=True)]
        server.requests.clear()
        report = copy_bank(source, here, by="snapshot")
        many = len(layers)
        assert (report.snapshots, report.written, report.wrong) == (many, many * COUNT, [])
        assert operations(server).count("shard_snapshot") == many
        assert leftovers(here) == []
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy, layers)
            assert copy.corpora == source.corpora
            assert replace(copy.manifest, corpora={}) == replace(source.manifest, corpora={})
            assert copy.verify() == []
            found, expected = (
                [[n.id for n in row] for row in bank.search(queries, 4, 3, Where(word="dog"), exact=True)]
                for bank in (copy, source)
            )
            assert found == expected
            assert [len(row) for row in by_words] == [3] * 20
            assert [[n.id for n in row] for row in copy.search(queries, 4, 3, words, exact=True)] == by_words


def test_what_the_server_has_indexed_is_not_indexed_again(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it was indexed anew")

    with served(server, index=True) as source:
        monkeypatch.setattr(Indexing, "_optimize", never)
        assert copy_bank(source, here, by="snapshot").wrong == []
        with open_bank("bank", here) as copy:
            assert copy.store.info(4).indexed == COUNT


def test_what_the_server_has_not_indexed_is_indexed_here(server: QdrantDouble, here: Settings) -> None:
    with served(server) as source:
        assert copy_bank(source, here, by="snapshot").wrong == []
        with open_bank("bank", here) as copy:
            assert copy.store.info(4).indexed == COUNT
            assert_equal_banks(source, copy, (4,))


def test_a_pulled_bank_can_be_added_to(server: QdrantDouble, here: Settings) -> None:
    """The copy keeps the server's segments until it is indexed again with the contexts that were added."""
    with served(server, index=True) as source:
        assert copy_bank(source, here, by="snapshot").snapshots == 1
        fill(source, 200, "plants")
        report = copy_bank(source, here)
        assert (report.snapshots, report.written, report.wrong) == (0, 200, [])
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy, (4,))
            assert_equal_banks(source, copy, (4,), "plants")
            assert copy.store.info(4).indexed == COUNT + 200
            copy.drop_corpus("animals")
            assert (copy.verify(), stored_contexts(copy)) == ([], 200)


def test_pieces_added_to_a_pulled_layer_are_merged_with_it(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds too if the last piece was indexed at once, so that nothing is left to index."""
    monkeypatch.setattr("latentbank.bank.store.embedded.indexing.PIECE", 60)
    with served(server, index=True) as source:
        assert copy_bank(source, here, by="snapshot").snapshots == 1
    with open_bank("bank", here) as copy:
        copy.store.defer_index(4, COUNT + 240)
        for first in range(0, 240, 60):
            numbers = range(first, first + 60)
            copy.add(
                4, ids(numbers, "plants"), units(60, seed=first), [payload(n, "plants") for n in numbers]
            )
            copy.store.commit()
        assert copy.store.info(4).indexed == COUNT + 240
        pieces = list((here.data_dir / "bank" / "L04").rglob("matrix.dat"))
        copy.store.index(4)
        merged = list((here.data_dir / "bank" / "L04").rglob("matrix.dat"))
        assert len(merged) < len(pieces)
        assert copy.count(4) == COUNT + 240


def test_small_banks_are_scrolled_unless_snapshots_are_asked_for(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served(server) as source:
        assert copy_bank(source, here).snapshots == 0
        assert warned(caplog) == []
        shutil.rmtree(here.data_dir / "bank")
        monkeypatch.setattr("latentbank.bank.transfer.snapshots.SNAPSHOT_FROM", COUNT)
        assert copy_bank(source, here, by="scroll").snapshots == 0
        shutil.rmtree(here.data_dir / "bank")
        assert copy_bank(source, here).snapshots == 1


@pytest.fixture
def snapshots_of_small_banks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbank.bank.transfer.snapshots.SNAPSHOT_FROM", 1)


def fell_back(caplog: pytest.LogCaptureFixture, why: str) -> None:
    """Check that one line in the log says why contexts are copied by scroll."""
    (message,) = warned(caplog)
    assert message.startswith("Contexts are copied by scroll, not by snapshot: ")
    assert why in message
    assert message.endswith(".")
    assert "\n" not in message


def refused_if_requested(source: Bank, here: Settings, why: str, **given: Any) -> None:
    with pytest.raises(LatentBankError, match=why) as caught:
        copy_bank(source, here, by="snapshot", **given)
    assert is_one_sentence(caught.value)


def test_a_readers_key_gets_no_snapshots_but_the_bank(
    double: Doubles, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    server = double(api_key=KEY, read_only_key="reads")
    served(server, api_key=KEY).close()
    caplog.clear()
    with open_bank("bank", settings_of(server, api_key="reads")) as source:
        refused_if_requested(source, here, "only to keys that may write")
        caplog.clear()
        report = copy_bank(source, here)
    assert (report.snapshots, report.written, report.wrong) == (0, COUNT, [])
    fell_back(caplog, f"the server {server.url} gives snapshots only to keys that may write")


def test_a_key_that_may_write_gets_snapshots_and_is_never_shown(
    double: Doubles, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    server = double(api_key=KEY, tls=True)
    with served(server, api_key=KEY) as source:
        assert copy_bank(source, here).snapshots == 1
    assert KEY not in caplog.text


def test_a_collection_of_several_shards_is_scrolled(
    server: QdrantDouble, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    with served(server, shard_number=3) as source:
        report = copy_bank(source, here)
    assert (report.snapshots, report.wrong) == (0, [])
    fell_back(caplog, f"the collection {server.name('bank--L04')} has 3 shards")


def test_a_server_without_snapshots_is_scrolled(
    server: QdrantDouble,
    here: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    snapshots_of_small_banks: None,
) -> None:
    body = {"status": {"error": "Shard 0 is not a local shard"}}
    with served(server) as source:
        for status in (400, 404, 405, 501):
            answer = Answered(httpx.Response(status, json=body))
            monkeypatch.setattr(httpx.Client, "stream", lambda *_, given=answer, **__: given)
            report = copy_bank(source, here)
            assert (report.snapshots, report.written, report.wrong) == (0, COUNT, [])
            fell_back(caplog, f"gives no snapshot here (it answers {status})")
            caplog.clear()
            shutil.rmtree(here.data_dir / "bank")


@dataclass
class Answered:
    """An answer as `httpx.Client.stream` gives it."""

    response: httpx.Response

    def __enter__(self) -> httpx.Response:
        return self.response

    def __exit__(self, *_: object) -> None:
        pass


def _tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return out.getvalue()


def test_a_snapshot_that_cannot_be_read_changes_nothing(
    server: QdrantDouble,
    here: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    snapshots_of_small_banks: None,
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    with served(server) as source:
        for sent in (
            b"",
            b"this is no tar" * 100,
            _tar(nothing=b""),
            _tar(**{"segments/x/files/segment.json": b"{}"}),
            _tar(**{"segments/x/files/../../../../../manifest.json": b"evil"}),
            _tar(**{str(outside): b"evil"}),
        ):
            answer = Answered(httpx.Response(200, content=sent))
            monkeypatch.setattr(httpx.Client, "stream", lambda *_, given=answer, **__: given)
            report = copy_bank(source, here)
            assert (report.snapshots, report.written, report.wrong) == (0, COUNT, [])
            fell_back(caplog, "the server's snapshot")
            caplog.clear()
            assert leftovers(here) == []
            assert not outside.exists()
            with open_bank("bank", here) as copy:
                assert_equal_banks(source, copy, (4,))
            shutil.rmtree(here.data_dir / "bank")


def test_a_snapshot_with_other_contexts_than_the_ledger_says_is_not_taken(
    server: QdrantDouble, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    with served(server, LAYERS) as source:
        stray = units(1, seed=5)
        source.add(8, ids([0], "stray"), stray, [payload(0, "stray")])
        report = copy_bank(source, here)
        assert (report.snapshots, report.written) == (1, 2 * COUNT)
        fell_back(caplog, "the snapshot holds other contexts than the ledger says")
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy)
            assert stored_contexts(copy) == 2 * COUNT


def test_when_a_layer_is_not_to_be_copied_whole_it_is_scrolled(
    server: QdrantDouble, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    with served(server) as source:
        fill(source, 30, "plants")
        assert copy_bank(source, here, corpora=["plants"]).snapshots == 0
        fell_back(caplog, "only some of the bank's corpora are copied")
        caplog.clear()
        refused_if_requested(source, here, "the copy has some of the corpora already")
        assert copy_bank(source, here).snapshots == 0
        fell_back(caplog, "the copy has some of the corpora already")
        caplog.clear()
        shutil.rmtree(here.data_dir / "bank")
        source.record(entry("unfinished", 7, complete=False))
        refused_if_requested(source, here, "an incomplete corpus")
        assert copy_bank(source, here).snapshots == 0


def test_what_only_the_copy_has_is_never_replaced(
    server: QdrantDouble, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    with served(server) as source:
        with a_bank(here, layers=(4,)) as copy:
            fill(copy, 50, "mine")
        refused_if_requested(source, here, "holds contexts of other corpora")
        assert copy_bank(source, here).wrong == []
        with open_bank("bank", here) as copy:
            assert (copy.verify(), copy.count(4)) == ([], COUNT + 50)


def test_what_a_replacement_left_behind_does_not_come_along(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(server) as source:
        monkeypatch.setattr(source, "forget_obsolete", lambda _: None)  # as after a kill before this step
        supersede(source, 30)
        refused_if_requested(source, here, "still holds contexts of a corpus that was replaced")


def test_a_copy_that_is_compressed_in_another_way_stays_so(server: QdrantDouble, here: Settings) -> None:
    with served(server) as source:
        a_bank(here, layers=(4,), quantization="turbo").close()
        refused_if_requested(source, here, r"another way \(turbo, not int8\)")


def test_a_push_goes_by_upsert(
    server: QdrantDouble, here: Settings, caplog: pytest.LogCaptureFixture, snapshots_of_small_banks: None
) -> None:
    with a_bank(here) as source:
        fill(source, 20)
        refused_if_requested(source, settings_of(server), "a server cannot be filled from snapshots")
        assert copy_bank(source, settings_of(server)).snapshots == 0
    assert warned(caplog) == []


@pytest.mark.parametrize("fault", [Fault.refuse, Fault.error500, Fault.drop_after_apply, Fault.cut])
def test_a_download_that_breaks_begins_anew_with_its_layer(
    server: QdrantDouble, here: Settings, fault: Fault, waits: list[float]
) -> None:
    with served(server, LAYERS) as source:
        server.inject(fault, operation="shard_snapshot", after=1)
        with pytest.raises(BankUnavailable) as caught:
            copy_bank(source, here, by="snapshot")
        assert is_one_sentence(caught.value)
        assert leftovers(here) == []
        with open_bank("bank", here) as copy:
            assert [copy.store.count(layer) for layer in LAYERS] == [COUNT, 0]
            assert copy.count() == 0  # readers see complete corpora only
        server.requests.clear()
        report = copy_bank(source, here, by="snapshot")
        assert (report.snapshots, report.wrong) == (1, [])
        assert operations(server).count("shard_snapshot") == 1
        assert waits == []


def test_a_download_that_breaks_is_tried_again(
    server: QdrantDouble, here: Settings, waits: list[float]
) -> None:
    served(server).close()
    with open_bank("bank", settings_of(server, retries=2)) as source:
        for fault in (Fault.cut, Fault.unavailable503):
            server.inject(fault, operation="shard_snapshot")
        assert copy_bank(source, here, by="snapshot").wrong == []
        assert len(waits) == 2
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy, (4,))


def test_no_room_for_a_snapshot_is_logged_and_tried_again_later(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Too little room for the download, and again at the second attempt.
    free = iter([1 << 40] * 3 + [65 << 20] * 3)

    def usage(_: Path) -> Any:
        return shutil._ntuple_diskusage(1 << 40, 0, next(free, 65 << 20))  # type: ignore[attr-defined]

    with served(server) as source:
        with monkeypatch.context() as tight:
            tight.setattr("latentbank.bank.store.embedded.layers.shutil.disk_usage", usage)
            with pytest.raises(BankUnavailable, match="make room and run the command again"):
                copy_bank(source, here, by="snapshot")
        assert leftovers(here) == []
        assert copy_bank(source, here, by="snapshot").wrong == []


def test_a_scroll_that_another_run_began_is_overtaken(
    server: QdrantDouble, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(server) as source:
        monkeypatch.setattr("latentbank.bank.store.server.store._SCROLL", 50)
        monkeypatch.setattr("latentbank.bank.transfer.copy.BATCH", 10)
        server.inject(Fault.error500, operation="scroll", after=3)  # the first one reads the ledger
        with pytest.raises(BankUnavailable):
            copy_bank(source, here, by="scroll")
        with open_bank("bank", here) as copy:
            assert copy.store.count(4) == 100
        report = copy_bank(source, here, by="snapshot")
        assert (report.snapshots, report.wrong) == (1, [])
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy, (4,))


def _pull(url: str, grpc_port: str, folder: str) -> None:
    """Pull by snapshot in another process, and print the progress; stop in the middle of layer 8."""

    @dataclass
    class Printing(Silent):
        what: str = ""

        def stage(self, what: str, unit: str) -> None:
            self.what = what

        def update(self, done: float, total: float | None = None) -> None:
            if self.what.startswith("downloading layer 8 "):
                print("come", flush=True)
                sys.stdin.readline()

    there = load_settings(url=url, grpc_port=int(grpc_port))
    with open_bank("bank", there) as source:
        copy_bank(source, load_settings(data_dir=folder), progress=Printing(), by="snapshot")


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_a_pull_that_was_killed_goes_on_with_that_layer(
    server: QdrantDouble, here: Settings, start: Start
) -> None:
    with served(server, LAYERS) as source:
        child = start(_pull, server.url, server.grpc_port, here.data_dir)
        assert next_line(child) == "come"
        child.send_signal(signal.SIGKILL)
        child.wait()
        report = copy_bank(source, here, by="snapshot")
        assert (report.snapshots, report.wrong) == (1, [])
        assert leftovers(here) == []
        with open_bank("bank", here) as copy:
            assert_equal_banks(source, copy)


def test_a_layer_that_was_being_replaced_is_itself_again(server: QdrantDouble, here: Settings) -> None:
    """A kill leaves this state between the two renames, or after them."""
    with a_bank(here) as copy:
        fill(copy, 40)
    folder = here.data_dir / "bank"
    (folder / "L04").replace(folder / "L04.old")
    shutil.copytree(folder / "L04.old", folder / "L04.new")
    shutil.copytree(folder / "L08", folder / "L08.old")
    (folder / "L08.snapshot").touch()
    with open_bank("bank", here) as copy:
        assert copy.layers == list(LAYERS)
        assert [copy.store.count(layer) for layer in LAYERS] == [40, 40]
        assert copy.verify() == []
    assert leftovers(here) == []


def test_a_centred_bank_takes_its_means_along(server: QdrantDouble, here: Settings) -> None:
    mean = units(1, seed=4)[0] / 3
    with a_bank(settings_of(server), layers=(4,), metric="centred") as source:
        source.fix_means({4: mean})
        fill(source, COUNT)
        assert copy_bank(source, here, by="snapshot").wrong == []
        with open_bank("bank", here) as copy:
            np.testing.assert_array_equal(copy.text_mean(4), mean)
            assert_equal_banks(source, copy, (4,))


def test_progress_covers_each_download(server: QdrantDouble, here: Settings) -> None:
    class Recorder(Silent):
        def __init__(self) -> None:
            self.stages: list[tuple[str, str]] = []
            self.amounts: list[float] = []

        def update(self, done: float, total: float | None = None) -> None:
            if self.stages[-1][1] == "MiB":
                self.amounts.append(done)

        def stage(self, what: str, unit: str) -> None:
            self.stages.append((what, unit))

    recorder = Recorder()
    with served(server, LAYERS) as source:
        copy_bank(source, here, progress=recorder, by="snapshot")
    assert recorder.stages[:3] == [
        ("downloading layer 4 (1 of 2)", "MiB"),
        ("downloading layer 8 (2 of 2)", "MiB"),
        ("copying", "contexts"),
    ]
    assert len(recorder.amounts) >= len(LAYERS)
    assert max(recorder.amounts) > recorder.amounts[0] > 0
