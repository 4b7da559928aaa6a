"""Versions of a bank: filled beside the version in use, and switched for all readers at once, back and forth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.opening import (
    bank_versions,
    delete_bank,
    list_banks,
    list_versions,
    open_bank,
    pinned_name,
    use_bank,
)
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.names import alias_name, collection_name
from latentbank.bank.token import read_token
from latentbank.bank.versions import Versions, split_name, stored_name, stored_parts
from latentbank.errors import (
    BankBusy,
    BankMismatch,
    BankNotFound,
    BankUnavailable,
    LatentBankError,
    LayerNotFound,
)
from tests.bank.samples import (
    WIDTH,
    Place,
    fill,
    is_one_sentence,
    put_head,
    sample_bank,
    soon,
    soon_raises,
    units,
)
from tests.bank.servers import KEY, Doubles, settings
from tests.real_server import PREFIX
from tests.wire.double import QdrantDouble
from tests.wire.faults import Fault


def make(place: Place, name: str, count: int, corpus: str = "animals", **given: Any) -> None:
    """A bank or version with one complete corpus."""
    with sample_bank(place, name, **given) as made:
        fill(made, count, corpus)


@pytest.fixture
def two(place: Place) -> Place:
    """Version 1 with 30 contexts in layers 4 and 8, version 2 with 20 in layers 4 and 12; 1 is in use."""
    make(place, "bank", 30)
    make(place, "bank@2", 20, "plants", layers=(4, 12))
    return place


def summary(place: Place, name: str = "bank") -> tuple[int, int, list[int], set[str]]:
    """Return what a new reader of a bank gets: version, contexts, layers, and the corpora that a search finds."""
    with open_bank(name, place.settings) as bank:
        assert bank.name == name
        found = bank.search(units(1), "all", 5)[0]
        return bank.version, bank.count(), bank.layers, {item.corpus for item in found}


FIRST, SECOND = (1, 30, [4, 8], {"animals"}), (2, 20, [4, 12], {"plants"})


@pytest.mark.parametrize("name", ["bank@0", "bank@01", "bank@", "bank@two", "@2", "bank@2@3", "bank@1234567"])
def test_names_without_a_version(name: str) -> None:
    with pytest.raises(LatentBankError, match="a version follows as in name@2") as caught:
        split_name(name)
    assert is_one_sentence(caught.value)
    assert stored_parts(name) is None


def test_names_of_versions() -> None:
    assert split_name("a.b-c") == ("a.b-c", None)
    assert split_name("a.b-c@12") == ("a.b-c", 12)
    assert (stored_name("a", 1), stored_name("a", 2)) == ("a", "a@2")
    assert (stored_parts("a"), stored_parts("a@2")) == (("a", 1), ("a", 2))
    assert stored_parts("a@1") is None


def test_a_version_is_put_in_use_and_gone_back_from(two: Place) -> None:
    assert (summary(two), summary(two, "bank@1"), summary(two, "bank@2")) == (FIRST, FIRST, SECOND)
    assert list_versions(two.settings) == [Versions("bank", (1, 2), 1)]
    assert use_bank("bank@2", two.settings) == 1
    assert (summary(two), summary(two, "bank@1"), summary(two, "bank@2")) == (SECOND, FIRST, SECOND)
    assert list_versions(two.settings) == [Versions("bank", (1, 2), 2)]
    assert list_banks(two.settings) == ["bank"]
    assert use_bank("bank@2", two.settings) == 2
    assert use_bank("bank@1", two.settings) == 2
    assert (summary(two), summary(two, "bank@2")) == (FIRST, SECOND)
    with open_bank("bank@2", two.settings) as bank:
        assert bank.verify() == []


def test_what_is_stored_says_which_version_it_is(two: Place) -> None:
    use_bank("bank@2", two.settings)
    for name, stored in (("bank", "bank@2"), ("bank@1", "bank")):
        with open_bank(name, two.settings) as bank:
            assert bank.store.bank == stored
            assert bank.manifest.bank == name
            assert ("(version 2)" in repr(bank)) == (name == "bank")
        head = backend(two.settings).peek_manifest(stored)
        assert head is not None
        assert head[0]["bank"] == stored


def test_the_bank_that_is_made_is_the_version_in_use(two: Place) -> None:
    use_bank("bank@2", two.settings)
    with sample_bank(two, "bank", layers=(4, 12)) as again:
        assert again.version == 2
        fill(again, 10, "more")
    with pytest.raises(BankMismatch, match="has layers 4, 12, not 4, 8"):
        sample_bank(two, "bank")
    assert bank_versions("bank", two.settings) == Versions("bank", (1, 2), 2)
    assert (summary(two)[1], summary(two, "bank@1")) == (30, FIRST)
    assert pinned_name("bank", two.settings) == "bank@2"
    assert pinned_name("bank@1", two.settings) == "bank@1"


def test_a_bank_that_begins_with_another_version(place: Place) -> None:
    make(place, "bank@3", 20, "plants")
    assert list_versions(place.settings) == [Versions("bank", (3,), None)]
    with pytest.raises(
        BankNotFound, match="No version of the bank 'bank' is in use; put one of bank@3 in use"
    ):
        open_bank("bank", place.settings)
    assert use_bank("bank@3", place.settings) is None
    assert summary(place)[:2] == (3, 20)


def test_what_cannot_be_put_in_use(two: Place) -> None:
    for name, error, message in (
        ("bank", LatentBankError, "Name a version of 'bank' to use"),
        ("bank@3", BankNotFound, "has no version 3; it has bank@1, bank@2"),
        ("other@2", BankNotFound, "There is no bank 'other'"),
    ):
        with pytest.raises(error, match=message) as caught:
            use_bank(name, two.settings)
        assert is_one_sentence(caught.value)
    with sample_bank(two, "bank@3") as third:
        fill(third, 10, complete=False)
    with pytest.raises(BankMismatch, match="'bank@3' holds no complete corpus yet"):
        use_bank("bank@3", two.settings)
    with pytest.raises(BankNotFound, match="has no version 7; it has bank@1, bank@2, bank@3"):
        open_bank("bank@7", two.settings)
    assert summary(two) == FIRST


def test_versions_are_deleted_but_for_the_one_in_use(two: Place) -> None:
    use_bank("bank@2", two.settings)
    for name, message in (
        ("bank@2", "'bank@2' is in use; put another one in use first, such as bank@1"),
        ("bank", r"has other versions than the one in use \(bank@1\)"),
    ):
        with pytest.raises(LatentBankError, match=message) as caught:
            delete_bank(name, two.settings)
        assert is_one_sentence(caught.value)
    assert (summary(two), summary(two, "bank@1")) == (SECOND, FIRST)

    delete_bank("bank@1", two.settings)
    assert summary(two) == SECOND
    no_version = "has no version 1; it has bank@2"
    # A node that still lists the layers lets them be deleted again.
    assert soon_raises(BankNotFound, no_version, lambda: delete_bank("bank@1", two.settings))
    with pytest.raises(BankNotFound, match=no_version):
        open_bank("bank@1", two.settings)
    with pytest.raises(LatentBankError, match="is the only one, so delete the bank 'bank' instead"):
        delete_bank("bank@2", two.settings)

    delete_bank("bank", two.settings)
    assert soon(lambda: list_versions(two.settings) == [])
    assert soon_raises(BankNotFound, "There is no bank 'bank'", lambda: delete_bank("bank", two.settings))
    make(two, "bank", 30)
    assert summary(two) == FIRST


def test_a_version_that_is_not_in_use_is_deleted_alone(two: Place) -> None:
    delete_bank("bank@2", two.settings)
    assert soon(lambda: list_versions(two.settings) == [Versions("bank", (1,), 1)])
    assert summary(two) == FIRST


def test_writers_stay_with_their_version(two: Place) -> None:
    with sample_bank(two, "bank") as writer:
        use_bank("bank@2", two.settings)
        fill(writer, 10, "more")
        assert writer.drop_corpus("animals") == 30
        assert writer.corpora.keys() == {"more"}
        assert writer.version == 1
    assert summary(two) == SECOND
    assert summary(two, "bank@1") == (1, 10, [4, 8], {"more"})


def test_what_others_keep_beside_banks_is_no_version(place: Place) -> None:
    make(place, "bank", 30)
    if place.kind == "embedded":
        for name in ("bank@1", "bank@x", "some folder"):
            folder = place.settings.data_dir / name
            folder.mkdir()
            (folder / "manifest.json").write_text("{}")
    else:
        for name in ("bank@1", "bank@x"):
            store = backend(place.settings).open(name)
            store.create(4, WIDTH, "int8")
            put_head(store, {"bank": name})
            store.close()
    assert list_versions(place.settings) == [Versions("bank", (1,), 1)]


# -- embedded ------------------------------------------------------------------------------------


@pytest.fixture
def folders(data_dir: Path) -> Place:
    """The same two versions, embedded."""
    place = Place("embedded", load_settings(data_dir=data_dir))
    make(place, "bank", 30)
    make(place, "bank@2", 20, "plants", layers=(4, 12))
    return place


def test_an_open_embedded_bank_stays_the_version_it_is(folders: Place) -> None:
    with open_bank("bank", folders.settings) as reader:
        use_bank("bank@2", folders.settings)
        with open_bank("bank", folders.settings) as other:
            assert (other.version, other.count()) == (2, 20)
            use_bank("bank@1", folders.settings)  # while it is open
            use_bank("bank@2", folders.settings)
        assert (reader.version, reader.count(), reader.shown_corpora.keys()) == (1, 30, {"animals"})
        with pytest.raises(BankBusy):
            open_bank("bank@1", folders.settings)


def test_one_small_file_says_which_folder_is_meant(folders: Place) -> None:
    data_dir = folders.settings.data_dir
    before = {path.name for path in data_dir.iterdir()}
    use_bank("bank@2", folders.settings)
    pointer = data_dir / "bank@in-use"
    assert {path.name for path in data_dir.iterdir()} - before == {pointer.name}
    assert pointer.read_text() == "bank@2\n"
    for text in ("", "other@2", "bank@1", "../bank", "bank@x"):
        pointer.write_text(text)
        with pytest.raises(
            BankUnavailable, match=r"it names no version of the bank.*put a version of 'bank' in use"
        ):
            open_bank("bank", folders.settings)
    pointer.write_bytes(b"\xff\xfe")
    with pytest.raises(BankUnavailable, match="it is not text"):
        list_versions(folders.settings)
    assert use_bank("bank@2", folders.settings) is None
    assert summary(folders) == SECOND


def test_a_killed_deletion_leaves_nothing_in_use(folders: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    use_bank("bank@2", folders.settings)
    delete_bank("bank@1", folders.settings)
    with monkeypatch.context() as killed:
        killed.setattr(
            "latentbank.bank.store.embedded.backend.remove_pointer",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            delete_bank("bank", folders.settings)
    with pytest.raises(BankNotFound):
        delete_bank("bank", folders.settings)
    make(folders, "bank", 30)
    assert summary(folders) == FIRST


# -- on a server ---------------------------------------------------------------------------------


@pytest.fixture
def team(shared: QdrantDouble) -> Place:
    """The same two versions on a server."""
    place = Place("server", settings(shared))
    make(place, "bank", 30)
    make(place, "bank@2", 20, "plants", layers=(4, 12))
    return place


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of readers."""
    now = [0.0]
    monkeypatch.setattr("latentbank.bank.view.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def client_of(server: QdrantDouble) -> QdrantRemote:
    return QdrantRemote(
        url=server.url, port=None, api_key=server.api_key, check_compatibility=False, timeout=60
    )


def aliases(server: QdrantDouble) -> dict[str, str]:
    return {
        alias.alias_name.removeprefix(PREFIX): alias.collection_name.removeprefix(PREFIX)
        for alias in client_of(server).get_aliases().aliases
        if alias.alias_name.startswith(PREFIX)
    }


def test_one_request_switches_all_layers(shared: QdrantDouble, team: Place) -> None:
    shared.requests.clear()
    use_bank("bank@2", team.settings)
    use_bank("bank@1", team.settings)
    sent = [
        request.summary["actions"] for request in shared.requests if request.operation == "update_aliases"
    ]
    assert len(sent) == 2
    assert aliases(shared) == {"bank@in-use--L04": "bank--L04", "bank@in-use--L08": "bank--L08"}
    use_bank("bank@2", team.settings)
    assert aliases(shared) == {"bank@in-use--L04": "bank@2--L04", "bank@in-use--L12": "bank@2--L12"}
    # Any other Qdrant client finds the version in use under the same names.
    assert client_of(shared).count("bank@in-use--L04", exact=True).count == 20
    delete_bank("bank@1", team.settings)
    delete_bank("bank", team.settings)
    assert aliases(shared) == {}
    assert soon(lambda: client_of(shared).get_collections().collections == [])


def test_an_open_reader_goes_to_the_version_in_use(team: Place, clock: list[float]) -> None:
    with open_bank("bank", team.settings) as reader, open_bank("bank@1", team.settings) as pinned:
        use_bank("bank@2", team.settings)
        assert (reader.version, reader.count()) == (1, 30)  # the manifest was read less than a second ago
        clock[0] += 2.0
        (found,) = reader.search(units(1), "all", 100)
        assert {(item.corpus, item.bank_layer) for item in found} == {("plants", 4), ("plants", 12)}
        assert (reader.version, reader.layers, reader.name) == (2, [4, 12], "bank")
        assert reader.words() != {}
        with pytest.raises(LayerNotFound, match="it has 4, 12"):
            reader.count(8)
        use_bank("bank@1", team.settings)
        assert reader.shown_corpora.keys() == {"animals"}  # reading the ledger asks the server at once
        assert (reader.version, reader.count()) == (1, 30)
        clock[0] += 2.0
        assert (pinned.version, pinned.count()) == (1, 30)


def test_a_search_under_way_reads_one_version(
    team: Place, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_bank("bank", team.settings) as reader:
        first = reader.store
        ask = first.search

        def meanwhile(layer: int, *given: Any, **more: Any) -> Any:
            use_bank("bank@2", team.settings)
            clock[0] += 2.0
            assert reader.count() == 20  # as in another thread
            return ask(layer, *given, **more)

        monkeypatch.setattr(first, "search", meanwhile)
        (found,) = reader.search(units(1), "all", 100)
        assert {(item.corpus, item.bank_layer) for item in found} == {("animals", 4), ("animals", 8)}
        (found,) = reader.search(units(1), "all", 100)
        assert {item.corpus for item in found} == {"plants"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fingerprint": "beef", "model": "tiny/other"}, "contexts of tiny/other .* not of tiny/llama"),
        ({"metric": "centred"}, "has another metric or other means; open it again"),
    ],
)
def test_a_reader_does_not_follow_to_what_its_queries_do_not_fit(
    team: Place, clock: list[float], other: dict[str, Any], message: str
) -> None:
    with sample_bank(team, "bank@3", **other) as third:
        if third.metric == "centred":
            third.fix_means(dict.fromkeys((4, 8), [1.0] * WIDTH))
        fill(third, 10)
    with open_bank("bank", team.settings) as reader:
        use_bank("bank@3", team.settings)
        clock[0] += 2.0
        for _ in range(2):
            with pytest.raises(BankMismatch, match=f"means its version 3 now, which .*{message}") as caught:
                reader.search(units(1), 4)
            assert is_one_sentence(caught.value)
        use_bank("bank@1", team.settings)
        assert reader.count() == 30


@pytest.mark.parametrize("fault", [Fault.refuse, Fault.drop_after_apply, Fault.cut, Fault.error500])
def test_a_switch_whose_answer_is_lost_is_made(shared: QdrantDouble, team: Place, fault: Fault) -> None:
    shared.inject(fault, times=1, operation="update_aliases")
    use_bank("bank@2", team.settings)
    assert summary(team) == SECOND


def test_a_version_without_a_layer_is_not_put_in_use(shared: QdrantDouble, team: Place) -> None:
    def refused() -> bool:
        """Return whether use_bank says that the layer is not there; a node that is late leads to another message."""
        with pytest.raises((BankMismatch, BankNotFound)) as caught:
            use_bank("bank@2", team.settings)
        return "Layer 12 of bank@2 has no collection" in str(caught.value)

    shared.delete("bank@2--L12")
    assert soon(refused)
    assert (aliases(shared), summary(team)) == ({}, FIRST)


def set_aliases(server: QdrantDouble, **leads: str) -> None:
    client_of(server).update_collection_aliases(
        [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(
                    collection_name=server.name(to), alias_name=server.name(f"bank@in-use--{layer}")
                )
            )
            for layer, to in leads.items()
        ]
    )


def test_aliases_that_others_have_mixed_up(shared: QdrantDouble, team: Place) -> None:
    set_aliases(shared, L04="bank@2--L04", L08="bank--L08")
    with pytest.raises(
        BankUnavailable, match=r"several versions \(bank@1, bank@2\); put one of them in use"
    ) as caught:
        open_bank("bank", team.settings)
    assert is_one_sentence(caught.value)
    assert summary(team, "bank@2") == SECOND
    assert use_bank("bank@2", team.settings) is None
    assert summary(team) == SECOND


def test_aliases_that_lead_to_no_version_are_not_followed(shared: QdrantDouble, team: Place) -> None:
    make(team, "other", 10)
    set_aliases(shared, L04="other--L04")
    assert summary(team) == FIRST


@pytest.mark.parametrize("first", ["both", "none"])
def test_a_list_of_aliases_read_during_a_switch_is_read_again(
    team: Place, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    use_bank("bank@2", team.settings)
    answers: list[models.CollectionsAliasesResponse] = []
    listed = QdrantRemote.get_aliases

    def between(self: QdrantRemote, **given: Any) -> models.CollectionsAliasesResponse:
        answer = listed(self, **given)
        answers.append(answer)
        if len(answers) > 1:
            return answer
        if first == "none":
            return models.CollectionsAliasesResponse(aliases=[])
        old = models.AliasDescription(
            alias_name=alias_name("bank", 8), collection_name=collection_name("bank", 8)
        )
        return models.CollectionsAliasesResponse(aliases=[*answer.aliases, old])

    monkeypatch.setattr(QdrantRemote, "get_aliases", between)
    assert backend(team.settings).names_in_use(["bank"]) == {"bank": "bank@2"}
    assert len(answers) == 2


def test_two_who_switch_at_the_same_moment(team: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make(team, "bank@3", 10)
    change = QdrantRemote.update_collection_aliases
    turns = iter(["bank@3"])

    def slower(self: QdrantRemote, **given: Any) -> bool:
        done = change(self, **given)
        for name in turns:
            use_bank(name, team.settings)
        return done

    monkeypatch.setattr(QdrantRemote, "update_collection_aliases", slower)
    with pytest.raises(BankBusy, match="Another process has switched the bank 'bank'"):
        use_bank("bank@2", team.settings)
    assert bank_versions("bank", team.settings).in_use == 3


# -- readers' keys -------------------------------------------------------------------------------


def reader_of(
    server: QdrantDouble, transport: str, *banks: str, versions: tuple[int, ...] = (1, 2)
) -> Settings:
    expires = datetime.now(UTC) + timedelta(days=1)
    token = read_token(KEY, banks, [4, 8, 12], expires, versions)
    return settings(server, transport, api_key=token)


def test_a_readers_token_opens_a_banks_versions(double: Doubles, transport: str, clock: list[float]) -> None:
    server = double(api_key=KEY)
    place = Place("server", settings(server, transport, api_key=KEY))
    make(place, "bank", 30)
    make(place, "bank@2", 20, "plants", layers=(4, 12))
    make(place, "secret", 5)
    reader = Place("reader", reader_of(server, transport, "bank"))
    assert (summary(reader), summary(reader, "bank@2")) == (FIRST, SECOND)
    with open_bank("bank", reader.settings) as opened:
        use_bank("bank@2", place.settings)
        clock[0] += 2.0
        assert opened.count() == 20
    assert (summary(reader), summary(reader, "bank@1")) == (SECOND, FIRST)
    assert list_versions(reader.settings) == [Versions("bank", (1, 2), 2)]
    with pytest.raises(BankUnavailable, match="refuses the key"):
        use_bank("bank@1", reader.settings)
    with pytest.raises(BankUnavailable, match="refuses the key"):
        delete_bank("bank@1", reader.settings)

    alone = Place("reader", reader_of(server, transport, "bank@2"))
    assert summary(alone, "bank@2") == SECOND
    with pytest.raises(BankNotFound):
        open_bank("bank@1", alone.settings)


def test_a_token_that_lacks_a_version_is_refused(double: Doubles, transport: str) -> None:
    server = double(api_key=KEY)
    place = Place("server", settings(server, transport, api_key=KEY))
    make(place, "bank", 30)
    make(place, "bank@2", 20, "plants", layers=(4, 12))
    few = Place("reader", reader_of(server, transport, "bank", versions=(1,)))
    assert summary(few) == FIRST
    use_bank("bank@2", place.settings)
    with pytest.raises(
        BankUnavailable, match="does not open the version of the bank 'bank' that is in use"
    ) as caught:
        open_bank("bank", few.settings)
    assert is_one_sentence(caught.value)
    assert summary(few, "bank@1") == FIRST
