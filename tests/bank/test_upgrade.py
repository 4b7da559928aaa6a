"""Banks of earlier versions on a server: read and written as they are, and upgraded to a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.bank.opening import delete_bank, list_banks, open_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.server.client import Connection
from latentbank.bank.token import read_token
from latentbank.bank.upgrade import UpgradeReport, upgrade_bank
from latentbank.cli import app
from latentbank.errors import BankBusy, BankMismatch, BankNotFound, BankUnavailable, LatentBankError
from tests import real_server
from tests.bank.samples import Place, entry, fill, is_one_sentence, put_entry, sample_bank, units
from tests.bank.servers import KEY, Doubles, make_old, metadata_of, settings
from tests.wire.double import QdrantDouble

LOWEST = "bank--L04"
DONE = UpgradeReport("bank", True, False, "bank--ledger", [4, 8])


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other writers, except in tests that say so."""
    monkeypatch.setattr("latentbank.bank.store.server.manifest.SETTLE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def one_server(quick_disk: Path) -> Iterator[QdrantDouble]:
    """A double whose nodes know all metadata at once, because these tests do not wait for it."""
    if real_server.URL:
        pytest.skip("looks at metadata at once")
    with QdrantDouble(lag=0) as double:
        yield double


def old_bank(server: QdrantDouble, **changes: Any) -> Settings:
    """Make a bank as earlier versions did, with 10 contexts of `animals`."""
    where = settings(server, **changes)
    with sample_bank(Place("server", where)) as bank:
        fill(bank, 10)
    make_old(server, **changes)
    return where


def seen(where: Settings) -> tuple[dict[str, Any], dict[str, CorpusEntry], int]:
    """What readers see of a bank: its head, its corpora and how many contexts they find."""
    with open_bank("bank", where) as bank:
        return bank.manifest.head(), bank.corpora, len(bank.search(units(1), 4, 100)[0])


def test_an_old_bank_is_read_and_written_as_it_is(double: Doubles) -> None:
    """Also through a balancer to nodes that learn of metadata late: a process reads what it wrote itself."""
    server = double(lag=3, peers=3)
    where = old_bank(server)
    with open_bank("bank", where) as bank:
        fill(bank, 5, "plants", complete=False)
        assert list(bank.corpora) == ["animals", "plants"]
        bank.change_entry("plants", lambda old: old and replace(old, complete=True))
        assert bank.corpora["plants"].complete
        bank.store.write_shares("plants", {"0/2/beat": {"at": "now"}})
        assert bank.store.read_shares("plants") == {"0/2/beat": {"at": "now"}}
        assert bank.count() == 15
        assert bank.drop_corpus("plants") == 5
        assert list(bank.corpora) == ["animals"]
    assert set(metadata_of(server, LOWEST)) == {"latentbank", "corpus/animals"}
    assert metadata_of(server, LOWEST)["latentbank"]["schema"] == 1
    assert list_banks(where) == ["bank"]
    with Connection(where) as connection:
        assert not connection.rest.collection_exists("bank--ledger")
    server.settle()
    delete_bank("bank", where)
    server.settle()
    assert list_banks(where) == []


def test_an_old_banks_head_changes_as_it_did(
    shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """The last of several writers wins, for which each waits before it reads what became of it."""
    waited: list[float] = []
    monkeypatch.setattr("latentbank.bank.store.server.metadata.time.sleep", waited.append)
    with sample_bank(Place("server", settings(shared)), metric="centred") as bank:
        pass
    make_old(shared)
    with open_bank("bank", settings(shared)) as bank:
        bank.fix_means({layer: units(1)[0] for layer in bank.layers})
        assert bank.manifest.means
    assert sum(waited) == 2.0
    assert metadata_of(shared, LOWEST)["latentbank"]["means"]


def test_an_upgrade_changes_nothing_that_readers_see(shared: QdrantDouble) -> None:
    where = old_bank(shared)
    before = seen(where)
    with open_bank("bank", where) as reader:
        assert upgrade_bank("bank", where) == DONE
        assert seen(where) == before
        with open_bank("bank", where) as bank:
            fill(bank, 5, "plants")
            assert bank.verify() == []
        assert sorted(reader.corpora) == ["animals", "plants"]
    assert "corpus/plants" not in metadata_of(shared, LOWEST)
    assert list_banks(where) == ["bank"]
    assert upgrade_bank("bank", where) == replace(DONE, changed=False)


def test_earlier_versions_refuse_an_upgraded_bank(shared: QdrantDouble) -> None:
    where = old_bank(shared)
    for finish in (False, True):
        upgrade_bank("bank", where, finish=finish)
        with pytest.raises(BankMismatch, match="has manifest schema 2, this latentbank reads schema 1 or 3"):
            Manifest.from_dict(metadata_of(shared, LOWEST)["latentbank"], {})


def test_the_old_manifest_stays_until_the_upgrade_is_finished(shared: QdrantDouble) -> None:
    where = old_bank(shared)
    before = metadata_of(shared, LOWEST)
    upgrade_bank("bank", where)
    kept = metadata_of(shared, LOWEST)
    assert kept["corpus/animals"] == before["corpus/animals"]
    assert kept["latentbank"] == before["latentbank"] | {"schema": 2}
    assert kept["latentbank-ledger"] == {"ledger": "bank--ledger", "copied": True}
    found = seen(where)
    assert upgrade_bank("bank", where, finish=True) == replace(DONE, finished=True)
    assert set(metadata_of(shared, LOWEST)) == {"latentbank", "latentbank-ledger"}
    assert upgrade_bank("bank", where, finish=True) == replace(DONE, finished=True, changed=False)
    assert seen(where) == found
    delete_bank("bank", where)
    assert list_banks(where) == []


class Killed(BaseException):
    """The end of a process."""


def test_an_upgrade_that_is_killed_goes_on(shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every request: readers see the bank as it was, and the next upgrade ends with all of it."""
    kept = Connection.call
    where = old_bank(shared)
    before = seen(where)
    for moment in range(100):
        make_old(shared)
        left = [moment]

        def call(self: Connection, request: Callable[[], Any], left: list[int] = left) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return kept(self, request)

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "call", call)
            try:
                upgrade_bank("bank", where)
                break
            except Killed:
                pass
        assert seen(where) == before, moment
        upgrade_bank("bank", where)
        assert seen(where) == before, moment
        assert metadata_of(shared, LOWEST)["latentbank-ledger"]["copied"] is True
    assert 10 < moment < 100


def test_while_a_bank_is_upgraded_readers_read_and_writers_wait(shared: QdrantDouble) -> None:
    where = old_bank(shared)
    before = seen(where)
    with Connection(where) as connection:
        head = metadata_of(shared, LOWEST)["latentbank"] | {"schema": 2}
        mark = {"ledger": "bank--ledger", "copied": False}
        connection.rest.update_collection(LOWEST, metadata={"latentbank": head, "latentbank-ledger": mark})
    assert seen(where) == before
    store = backend(where).open("bank")
    with pytest.raises(BankBusy, match=r"is being upgraded; try again .* upgrade it again if") as caught:
        put_entry(store, "plants", entry("plants", 5).to_dict())
    assert is_one_sentence(caught.value)
    store.close()
    with pytest.raises(LatentBankError, match="is not upgraded yet"):
        upgrade_bank("bank", where, finish=True)


@pytest.mark.parametrize("what", ["entry", "head", "replaced"])
def test_a_change_that_an_upgrade_missed_is_made_in_the_ledger(
    shared: QdrantDouble, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer read the old manifest before the upgrade, and writes to it after everything was copied."""
    monkeypatch.setattr("latentbank.bank.store.server.metadata.time.sleep", lambda _: None)
    where = old_bank(shared)
    store = backend(where).open("bank")
    store.read_manifest()
    begun: list[bool] = []

    def late(record: Any) -> Any:
        if not begun:
            begun.append(True)
            upgrade_bank("bank", where)
        if what == "head":
            return {**record, "model": "late/model"}
        return entry("plants", 5).to_dict()

    if what == "head":
        store.change_head(late)
    else:
        store.change_entry("plants", late, instead_of="animals" if what == "replaced" else None)
    found = store.read_manifest()
    store.close()
    with open_bank("bank", where) as bank:
        assert found == (bank.manifest.head(), {name: e.to_dict() for name, e in bank.corpora.items()})
        assert bank.manifest.model == ("late/model" if what == "head" else "tiny/llama")
        assert (
            sorted(bank.corpora)
            == {
                "head": ["animals"],
                "entry": ["animals", "plants"],
                "replaced": ["plants"],
            }[what]
        )


def test_an_upgrade_waits_for_writers_that_have_not_seen_it(
    shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = old_bank(shared)
    waited: list[float] = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        if seconds == 3.0:  # an earlier version's job completes its corpus
            late = {"corpus/plants": entry("plants", 0).to_dict()}
            with Connection(where) as connection:
                connection.rest.update_collection(LOWEST, metadata=late)

    monkeypatch.setattr("latentbank.bank.store.server.manifest.SETTLE_SECONDS", 3.0)
    monkeypatch.setattr("latentbank.bank.store.server.manifest.time.sleep", meanwhile)
    upgrade_bank("bank", where)
    assert waited.count(3.0) == 1
    assert sorted(seen(where)[1]) == ["animals", "plants"]


def old_token(layers: tuple[int, ...] = (4, 8)) -> str:
    """A token as earlier versions made it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentbank.bank.token.ledger_name", lambda stored: f"{stored}--L{layers[0]:02d}-old")
        return read_token(KEY, ["bank"], layers, datetime.now(UTC) + timedelta(days=1))


def test_an_old_token_gets_one_sentence_that_asks_for_a_new_one(double: Doubles, transport: str) -> None:
    server = double(api_key=KEY, lag=0)
    where = old_bank(server, transport=transport, api_key=KEY)
    before = seen(where)
    reader = settings(server, transport, api_key=old_token())
    assert seen(reader) == before  # while the bank is as it was when the token was made
    with open_bank("bank", reader) as opened:
        for finish in (False, True):
            upgrade_bank("bank", where, finish=finish)
            for read in (lambda: open_bank("bank", reader), opened.reload):
                with pytest.raises(BankUnavailable, match="ask for a new token") as caught:
                    read()
                assert is_one_sentence(caught.value)
            assert list_banks(reader) == ["bank"]
    new = read_token(KEY, ["bank"], [4, 8], datetime.now(UTC) + timedelta(days=1))
    assert seen(settings(server, transport, api_key=new)) == before


def test_a_version_is_upgraded_alone(shared: QdrantDouble) -> None:
    where = settings(shared)
    for name in ("bank", "bank@2"):
        with sample_bank(Place("server", where), name) as bank:
            fill(bank, 3)
        make_old(shared, name)
    assert upgrade_bank("bank@2", where).ledger == "bank@2--ledger"
    assert metadata_of(shared, LOWEST)["latentbank"]["schema"] == 1
    assert seen(where)[2] == 3


def test_there_must_be_something_to_upgrade(shared: QdrantDouble, tmp_path: Any) -> None:
    where = settings(shared)
    for finish in (False, True):
        with pytest.raises(LatentBankError) as caught:
            upgrade_bank("nothing", where, finish=finish)
        assert isinstance(caught.value, BankNotFound) or finish
        assert is_one_sentence(caught.value)
        with pytest.raises(LatentBankError, match="is embedded: its manifest is a file"):
            upgrade_bank("nothing", load_settings(data_dir=tmp_path), finish=finish)


def test_the_command_upgrades_and_finishes(shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which tokens to issue again, and each step may be run again."""
    where = old_bank(shared)
    monkeypatch.setenv("LATENTBANK_GRPC_PORT", str(shared.grpc_port))

    def run(*more: str) -> str:
        done = CliRunner().invoke(app, ["--url", shared.url, "bank", "upgrade", "bank", *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    upgraded = run()
    assert "has a ledger now, bank--ledger" in upgraded
    assert "latentbank bank token --read --expires 30d --banks bank --layers 4,8" in upgraded
    assert run() == "The bank 'bank' has a ledger already, bank--ledger.\n"
    assert run("--finish").startswith("Removed the old manifest")
    assert run("--finish").startswith("There was no old manifest left")
    assert set(metadata_of(shared, LOWEST)) == {"latentbank", "latentbank-ledger"}
    assert [entry.name for entry in seen(where)[1].values()] == ["animals"]
