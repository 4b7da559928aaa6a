"""What only the server store does: retries, keys, TLS, gRPC or REST, restarts; over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from qdrant_client import QdrantClient, models

from bank.bank import delete_bank, list_banks, open_bank
from bank.settings import Settings, load_settings
from bank.store import Store, open_store
from bank.where import Where
from latentbank_errors import BankNotFound, BankUnavailable, LatentBankError
from tests.bank.samples import HEAD, WIDTH, Place, fill, ids, is_one_sentence, make_bank, points, units
from tests.wire.double import Fault, QdrantDouble

KEY = "the-key-that-nobody-may-see"
READER = "the-readers-key-that-nobody-may-see"
Doubles = Callable[..., QdrantDouble]


@dataclass(frozen=True)
class Call:
    """One thing a store is asked: `operation` names the request that faults strike, after the first `after`."""

    operation: str
    do: Callable[[Store], Any]
    bulk: bool = False  # goes over gRPC where that is preferred
    writes: bool = False
    after: int = 0


CALLS = {
    "create": Call("create_collection", lambda s: s.create(8, WIDTH, "int8"), writes=True),
    "create: indexes": Call("create_index", lambda s: s.create(8, WIDTH, "int8"), writes=True, after=1),
    "create again": Call("delete_collection", lambda s: s.create(4, WIDTH, "int8"), writes=True),
    "defer index": Call("update_collection", lambda s: s.defer_index(4), writes=True),
    "index": Call("get_collection", lambda s: s.index(4), writes=True),
    "upsert": Call("upsert", lambda s: s.upsert(4, points(50, first=20)), bulk=True, writes=True, after=1),
    "search": Call("query", lambda s: s.search(4, units(3), 5, exact=True), bulk=True),
    "present": Call("retrieve", lambda s: s.present(4, ids(range(30, 50))), bulk=True, after=1),
    "scroll": Call("scroll", lambda s: [p.id for p in s.scroll(4)], bulk=True, after=1),
    "count": Call("count", lambda s: s.count(4, Where(word="dog"))),
    "facet": Call("facet", lambda s: s.facet(4, "word")),
    "info": Call("get_collection", lambda s: s.info(4)),
    "layers": Call("list_collections", lambda s: s.layers()),
    "manifest": Call("get_collection", lambda s: s.read_manifest()),
    "head": Call("update_collection", lambda s: s.write_manifest(HEAD | {"model": "x"}), writes=True),
    "entry": Call("update_collection", lambda s: s.write_entry("late", {"name": "late"}), writes=True),
    "no entry": Call("update_collection", lambda s: s.write_entry("animals", None), writes=True),
    "delete corpus": Call("delete", lambda s: s.delete_corpus(4, "plants"), writes=True),
    "delete": Call("delete_collection", lambda s: s.delete(), writes=True),
}
# Every call over REST, and those that can also go over gRPC.
ROUTES = [(name, "rest") for name in CALLS] + [(name, "grpc") for name, call in CALLS.items() if call.bulk]


@pytest.fixture(scope="module")
def one_server(quick_disk: Path) -> Iterator[QdrantDouble]:
    """One double for the many tests that need no other."""
    with QdrantDouble() as one:
        yield one


@pytest.fixture
def shared(one_server: QdrantDouble) -> Iterator[QdrantDouble]:
    """The double of all tests, empty; what it was asked had to be valid."""
    one_server.wipe()
    one_server.clear_faults()
    one_server.requests.clear()
    yield one_server
    assert one_server.invalid_requests == []


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collects the seconds that retries would wait; nobody waits."""
    waited: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture(params=["rest", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def settings(server: QdrantDouble, transport: str = "grpc", **changes: Any) -> Settings:
    """Settings that lead to a double; `changes` are other settings."""
    given: dict[str, Any] = {
        "url": server.url,
        "grpc_port": server.grpc_port,
        "prefer_grpc": transport == "grpc",
        "tls_ca": server.ca_file,
        "timeout": 20,
        "retries": 4,
        "retry_wait": 0.001,
        "upload_batch": 16,
    }
    return load_settings(**{**given, **changes})


def filled(server: QdrantDouble, name: str = "bank", **changes: Any) -> Store:
    """A bank with 40 contexts of `animals` and 20 of `plants` in layer 4."""
    store = open_store(name, settings(server, **changes))
    store.create(4, WIDTH, "int8")
    store.write_manifest(HEAD)
    store.write_entry("animals", {"name": "animals"})
    for some in (points(40), points(20, "plants", seed=1)):
        store.upsert(4, some)
    return store


def state(server: QdrantDouble, name: str = "bank") -> Any:
    """Everything the server holds of a bank: configuration, indexes, manifest and points of each layer."""
    client = QdrantClient(url=server.url, check_compatibility=False, verify=False)
    held = {}
    for layer in (4, 8):
        collection = f"{name}--L{layer:02d}"
        if client.collection_exists(collection):
            info = client.get_collection(collection)
            content = {one: (row.tolist(), p) for one, (row, p) in server.points(collection).items()}
            held[layer] = (info.config.model_dump(), sorted(info.payload_schema), content)
    client.close()
    return held


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "latentbank"]


# -- retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
@pytest.mark.parametrize(("name", "transport"), ROUTES)
def test_a_call_outlasts_faults(
    shared: QdrantDouble,
    name: str,
    transport: str,
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers and leaves behind what an undisturbed one does, and says once that it had to try again."""
    monkeypatch.setattr("bank.store.server._SCROLL", 10)
    call = CALLS[name]
    untroubled, troubled = (filled(shared, bank, transport=transport) for bank in ("calm", "bank"))
    expected = call.do(untroubled)
    shared.inject(fault, times=2, operation=call.operation, after=call.after, seconds=0.02)
    assert call.do(troubled) == expected
    struck = [one for one in shared.requests if one.fault is not None]
    assert [(one.operation in call.operation or call.operation == "query") for one in struck] == [True, True]
    assert {one.transport for one in struck} == {transport}
    (warning,) = warned(caplog)
    assert warning.startswith(f"{shared.url}: ")
    assert warning.endswith("; trying again")
    assert state(shared) == state(shared, "calm")
    untroubled.close()
    troubled.close()


@pytest.mark.parametrize(("asked", "waited"), [(7, 7.0), (100_000, 300.0)])
def test_the_server_may_say_how_long_to_wait(
    shared: QdrantDouble, transport: str, waits: list[float], asked: int, waited: float
) -> None:
    store = filled(shared, transport=transport)
    shared.inject(Fault.too_many, times=2, operation="upsert", retry_after=asked)
    store.upsert(4, points(10, "late"))
    assert waits == [waited, waited]
    assert store.count(4) == 70
    store.close()


def test_waits_double_up_to_half_a_minute_with_jitter(shared: QdrantDouble, waits: list[float]) -> None:
    store = filled(shared, retries=10, retry_wait=0.5)
    shared.inject(Fault.unavailable503, times=10, operation="count")
    assert store.count(4) == 60
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len({wait / most for wait, most in zip(waits, longest, strict=True)}) > 1
    store.close()


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("name", ["upsert", "search", "count", "entry"])
def test_retries_end(
    shared: QdrantDouble, transport: str, name: str, retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(shared, transport=transport, retries=retries)
    shared.inject(Fault.error500, times=50, operation=CALLS[name].operation)
    with pytest.raises(
        BankUnavailable, match=rf"The server {shared.url} cannot be used: it answers"
    ) as found:
        CALLS[name].do(store)
    assert is_one_sentence(found.value)
    assert shared.faults_left == 50 - 1 - retries
    assert len(warned(caplog)) == min(1, retries)
    shared.clear_faults()
    CALLS[name].do(store)
    store.close()


def test_a_server_that_is_down(
    double: Doubles, transport: str, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server = double()
    store = filled(server, transport=transport)
    where = settings(server, transport)
    server.stop()
    attempts: list[Callable[[], Any]] = [
        lambda: store.count(4),
        lambda: store.search(4, units(1), 5),
        lambda: store.upsert(4, points(3, "late")),
        lambda: open_bank("bank", where),
        lambda: make_bank(Place("server", where)),
        lambda: list_banks(where),
        lambda: delete_bank("bank", where),
    ]
    for attempt in attempts:
        waits.clear()
        caplog.clear()
        with pytest.raises(BankUnavailable, match=rf"The server {server.url} cannot be used") as found:
            attempt()
        assert is_one_sentence(found.value)
        assert len(waits) == where.retries
        assert len(warned(caplog)) == 1
    store.close()


@pytest.mark.parametrize("name", ["count", "search"])
def test_a_server_that_does_not_answer_in_time(shared: QdrantDouble, transport: str, name: str) -> None:
    store = filled(shared, transport=transport, timeout=1, retries=0)
    shared.inject(Fault.hang, operation=CALLS[name].operation, seconds=60)
    with pytest.raises(BankUnavailable, match=r"cannot be used: .*(timed out|DEADLINE_EXCEEDED)") as found:
        CALLS[name].do(store)
    assert is_one_sentence(found.value)
    CALLS[name].do(store)
    store.close()


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "transport"), ROUTES)
def test_a_wrong_key_is_refused_at_once(double: Doubles, name: str, transport: str) -> None:
    server = double(api_key=KEY)
    filled(server, api_key=KEY).close()
    server.requests.clear()
    stranger = open_store("bank", settings(server, transport, api_key="a-wrong-key"))
    with pytest.raises(BankUnavailable, match=r"refuses the key; set LATENTBANK_API_KEY") as found:
        CALLS[name].do(stranger)
    assert is_one_sentence(found.value)
    assert "a-wrong-key" not in str(found.value)
    # Over gRPC one request more, which finds out whether gRPC is there.
    sent = ["collection_exists"] * (transport == "grpc") + [server.requests[-1].operation]
    assert [one.operation for one in server.requests] == sent
    assert not any(one.accepted for one in server.requests)
    stranger.close()


def test_a_reader_reads_and_may_not_write(double: Doubles, transport: str) -> None:
    server = double(api_key=KEY, read_only_key=READER)
    writer = filled(server, transport=transport, api_key=KEY)
    reader = open_store("bank", settings(server, transport, api_key=READER))
    before = {layer: server.points("bank--L04") for layer in writer.layers()}
    for name, call in CALLS.items():
        if not call.writes:
            assert call.do(reader) == call.do(writer), name
            continue
        server.requests.clear()
        with pytest.raises(BankUnavailable, match="refuses the key; .* to one that may do this") as found:
            call.do(reader)
        assert is_one_sentence(found.value)
        assert [one.accepted for one in server.requests].count(False) == 1, name
    after = {layer: server.points("bank--L04") for layer in writer.layers()}
    assert {4: set(before[4])} == {4: set(after[4])}
    with open_bank("bank", settings(server, transport, api_key=READER)) as opened:
        assert len(opened.search(units(1), "all")[0]) == 5
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    ("do", "error", "said"),
    [
        (lambda s: s.upsert(4, points(3, width=5)), BankUnavailable, "refuses the request: it answers"),
        (lambda s: s.upsert(9, points(3)), BankNotFound, "has no such bank"),
        (lambda s: s.search(9, units(1), 5), BankNotFound, "has no such bank"),
        (lambda s: s.search(4, units(1, width=5), 5), BankUnavailable, "refuses the request: it answers"),
    ],
)
def test_a_refused_request_is_not_sent_again(
    shared: QdrantDouble, transport: str, waits: list[float], do: Any, error: type[Exception], said: str
) -> None:
    store = filled(shared, transport=transport)
    shared.requests.clear()
    with pytest.raises(error, match=said) as found:
        do(store)
    assert is_one_sentence(found.value)
    assert len(shared.requests) == 1
    assert waits == []
    store.close()


def test_the_key_is_never_shown(double: Doubles, transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a log of any level, a repr or an error, whatever goes wrong."""
    caplog.set_level("DEBUG")
    server = double(api_key=KEY)
    where = settings(server, transport, api_key=KEY, retries=1)
    bank = make_bank(Place("server", where), layers=[4])
    fill(bank, 20)
    shown = [
        repr(where),
        str(where),
        str(where.model_dump()),
        repr(bank),
        repr(bank.store),
        repr(bank.manifest),
    ]

    def fails(attempt: Callable[[], Any]) -> None:
        with pytest.raises(LatentBankError) as found:
            attempt()
        error: BaseException | None = found.value
        while error is not None:
            shown.extend([str(error), repr(error), repr(vars(error))])
            error = error.__context__

    for fault in (Fault.refuse, Fault.error500, Fault.too_many, Fault.cut):
        server.inject(fault, times=10, operation="query")
        fails(lambda: bank.search(units(1), 4))
        server.clear_faults()
    fails(lambda: bank.store.search(9, units(1), 5))
    fails(lambda: open_bank("other", where))
    fails(lambda: open_bank("bank", settings(server, transport, api_key=KEY + "!", retries=0)))
    server.stop()
    fails(lambda: bank.count())
    bank.close()
    assert caplog.text
    assert not [text for text in [*shown, caplog.text] if KEY in text]
    unencrypted = [text for text in warned(caplog) if "sent unencrypted; use https://" in text]
    assert len(unencrypted) == 3  # one for each store


# -- gRPC or REST ------------------------------------------------------------------------------------


def used(server: QdrantDouble) -> dict[str, set[str]]:
    """The operations asked for over each transport."""
    return {
        transport: {one.operation for one in server.requests if one.transport == transport}
        for transport in ("rest", "grpc")
    }


def test_bulk_work_goes_over_grpc_and_the_rest_over_rest(
    shared: QdrantDouble, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(shared)
    for call in CALLS.values():
        if not call.writes:
            call.do(store)
    bulk = {"collection_exists", "upsert", "query_batch", "retrieve", "scroll"}
    assert used(shared)["grpc"] == bulk
    assert not used(shared)["rest"] & bulk
    store.close()
    shared.requests.clear()
    filled(shared, transport="rest").close()
    assert used(shared)["grpc"] == set()
    assert warned(caplog) == []


@pytest.mark.parametrize("port", ["closed", "silent", "not gRPC's"])
def test_without_grpc_everything_goes_over_rest(
    double: Doubles, port: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = double(grpc=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {"closed": server.grpc_port, "silent": silent.getsockname()[1]}
        number = ports.get(port, int(server.url.rsplit(":", 1)[1]))
        store = filled(server, grpc_port=number, timeout=1)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda row: store.search(4, units(1, seed=row), 1), range(8)))
    assert all(len(hits) == 1 for (hits,) in answers)
    assert CALLS["scroll"].do(store) == sorted(points(40).ids + points(20, "plants").ids)
    assert used(server)["grpc"] == set()
    assert warned(caplog) == [f"{server.url}: no gRPC on port {number}, bulk work goes over REST (slower)"]
    store.close()


@pytest.mark.parametrize("retry_after", [None, 1])
def test_a_busy_server_still_has_grpc(
    shared: QdrantDouble, retry_after: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    filled(shared).close()
    shared.requests.clear()
    store = open_store("bank", settings(shared))
    shared.inject(Fault.too_many, operation="collection_exists", retry_after=retry_after)
    assert len(store.search(4, units(1), 5)[0]) == 5
    assert shared.faults_left == 0
    assert "query_batch" in used(shared)["grpc"]
    assert warned(caplog) == []
    store.close()


# -- TLS ---------------------------------------------------------------------------------------------


def test_tls_with_an_authority_of_ones_own(
    double: Doubles, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = double(tls=True, api_key=KEY)
    store = filled(server, transport=transport, api_key=KEY)
    assert len(store.search(4, units(1), 5)[0]) == 5
    assert store.count(4) == 60
    assert ("upsert" in used(server)["grpc"]) == (transport == "grpc")
    assert warned(caplog) == []
    store.close()


@pytest.mark.parametrize("authority", ["another", "the system's"])
def test_a_certificate_that_cannot_be_trusted(
    double: Doubles, transport: str, authority: str, waits: list[float]
) -> None:
    server, other = double(tls=True), double(tls=True)
    store = open_store(
        "bank", settings(server, transport, tls_ca=other.ca_file if authority == "another" else None)
    )
    for ask in (store.layers, lambda: store.search(4, units(1), 5), lambda: store.upsert(4, points(1))):
        with pytest.raises(BankUnavailable, match=r"cannot be trusted; set LATENTBANK_TLS_CA") as found:
            ask()
        assert is_one_sentence(found.value)
    assert server.requests == []
    assert waits == []
    store.close()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_certificate_file_that_is_none(double: Doubles, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    where = settings(double(tls=True), tls_ca=file)
    with pytest.raises(
        BankUnavailable, match=r"ca.pem cannot be read \(.+\); correct LATENTBANK_TLS_CA"
    ) as found:
        open_bank("bank", where)
    assert is_one_sentence(found.value)


@pytest.mark.parametrize("tls", [False, True])
def test_the_wrong_scheme(double: Doubles, waits: list[float], tls: bool) -> None:
    server = double(tls=tls)
    address = server.url.split("://")[1]
    where = settings(server, url=f"{'http' if tls else 'https'}://{address}")
    with pytest.raises(BankUnavailable, match=r"cannot be used") as found:
        open_bank("bank", where)
    assert is_one_sentence(found.value)


# -- life --------------------------------------------------------------------------------------------


def test_a_restart_in_the_middle_of_use(double: Doubles, transport: str) -> None:
    """The same store goes on, and what was acknowledged or under way is there once."""
    server = double()
    store = filled(server, transport=transport, retries=8, retry_wait=0.1)
    given = points(400, "late", seed=3)
    server.requests.clear()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.upsert, 4, given)
        while len(server.requests) < 5 and not writing.done():
            pass
        server.stop()
        server.start()
        writing.result(timeout=60)
    assert {p.id for p in store.scroll(4, Where(corpus="late"))} == set(given.ids)
    assert store.count(4) == 460
    server.stop()
    server.start()
    assert len(store.search(4, units(1), 5)[0]) == 5
    assert store.read_manifest() == (HEAD, {"animals": {"name": "animals"}})
    store.close()


def test_a_bank_that_is_gone(double: Doubles, transport: str) -> None:
    server = double()
    where = settings(server, transport)
    with make_bank(Place("server", where), layers=[4]) as bank:
        fill(bank, 10)
        assert len(bank.search(units(1), 4)[0]) == 5
        server.wipe()
        attempts: list[Callable[[], Any]] = [
            bank.info,
            bank.count,
            lambda: bank.search(units(1), 4),
            lambda: fill(bank, 3),
            lambda: open_bank("bank", where),
            lambda: delete_bank("bank", where),
        ]
        for attempt in attempts:
            with pytest.raises(BankNotFound) as found:
                attempt()
            assert is_one_sentence(found.value)
    assert list_banks(where) == []


# -- what the server holds ------------------------------------------------------------------------------


def test_a_layer_collection_is_made_as_the_settings_say(shared: QdrantDouble) -> None:
    where = settings(shared, shard_number=2, replication_factor=1, hnsw_ef_construct=77)
    with make_bank(Place("server", where), layers=[4]):
        client = QdrantClient(url=shared.url, check_compatibility=False, verify=False)
        info = client.get_collection("bank--L04")
        client.close()
    vectors = info.config.params.vectors
    assert isinstance(vectors, models.VectorParams)
    assert (vectors.size, vectors.distance) == (WIDTH, models.Distance.COSINE)
    assert (vectors.datatype, vectors.on_disk) == (models.Datatype.FLOAT16, True)
    quantization = info.config.quantization_config
    assert isinstance(quantization, models.ScalarQuantization)
    assert (quantization.scalar.type, quantization.scalar.always_ram) == (models.ScalarType.INT8, True)
    assert (info.config.params.shard_number, info.config.params.on_disk_payload) == (2, True)
    assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (0, 77)
    assert info.config.optimizer_config.indexing_threshold == 0
    kinds = {field: index.data_type.value for field, index in info.payload_schema.items()}
    assert kinds == {"corpus": "keyword", "word": "keyword", "token_id": "integer", "position": "integer"}


def test_uploads_are_cut_into_batches_that_are_waited_for(shared: QdrantDouble, transport: str) -> None:
    filled(shared, transport=transport).close()
    uploads = [one.summary for one in shared.requests if one.operation == "upsert"]
    assert uploads == [{"points": count, "wait": True} for count in (16, 16, 8, 16, 4)]


def test_other_collections_are_left_alone(shared: QdrantDouble) -> None:
    strangers = ["animals", "photos--L1", "bank--Lxx", "bank--L04-old", "--L04", "stray--L04"]
    client = QdrantClient(url=shared.url, check_compatibility=False, verify=False)
    for name in strangers:
        client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.DOT))
    where = settings(shared)
    with make_bank(Place("server", where)) as bank:
        fill(bank, 5)
        assert bank.verify() == []
        assert bank.store.layers() == [4, 8]
    assert list_banks(where) == ["bank"]
    delete_bank("bank", where)
    assert sorted(one.name for one in client.get_collections().collections) == sorted(strangers)
    client.close()


def test_two_writers_do_not_overwrite_each_others_entries(shared: QdrantDouble) -> None:
    where = settings(shared)
    with make_bank(Place("server", where)) as one, open_bank("bank", where) as other:
        fill(one, 5, "a")
        fill(other, 7, "b")
        fill(one, 3, "c")
        assert list(other.corpora) == list(one.corpora) == ["a", "b", "c"]
        assert one.verify() == []
        other.drop_corpus("a")
        assert list(one.corpora) == ["b", "c"]
        assert one.verify() == []


def test_making_a_bank_that_is_there_opens_it(shared: QdrantDouble) -> None:
    place = Place("server", settings(shared))
    with make_bank(place) as one:
        fill(one, 5)
        with make_bank(place) as other:
            assert other.count() == 5
