"""Properties of the server store: keys, gRPC or REST, TLS, restarts, and how it keeps banks on a server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from qdrant_client import QdrantClient, models

from latentbank.bank.opening import delete_bank, list_banks, open_bank
from latentbank.bank.store.backends import backend
from latentbank.bank.store.server.client import warn_unencrypted
from latentbank.bank.where import Where
from latentbank.errors import BankNotFound, BankUnavailable, LatentBankError
from tests.bank.samples import HEAD, WIDTH, Place, fill, is_one_sentence, points, sample_bank, soon, units
from tests.bank.servers import ANIMALS, CALLS, KEY, ROUTES, Doubles, filled, settings, used, warned
from tests.real_server import PREFIX
from tests.wire import engine
from tests.wire.double import Fault, QdrantDouble

READER = "the-readers-key-that-nobody-may-see"


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "transport"), ROUTES)
def test_a_wrong_key_is_refused_at_once(double: Doubles, name: str, transport: str) -> None:
    server = double(api_key=KEY)
    filled(server, api_key=KEY).close()
    server.requests.clear()
    stranger = backend(settings(server, transport, api_key="a-wrong-key")).open("bank")
    with pytest.raises(BankUnavailable, match=r"refuses the key; set LATENTBANK_API_KEY") as found:
        CALLS[name].do(stranger)
    assert is_one_sentence(found.value)
    assert "a-wrong-key" not in str(found.value)
    # With gRPC, one more request finds out whether the server has gRPC.
    sent = ["collection_exists"] * (transport == "grpc") + [server.requests[-1].operation]
    # Asking for the version needs no key.
    requests = [request for request in server.requests if request.operation != "version"]
    assert [item.operation for item in requests] == sent
    assert not any(item.accepted for item in requests)
    stranger.close()


def test_a_reader_reads_and_may_not_write(double: Doubles, transport: str) -> None:
    server = double(api_key=KEY, read_only_key=READER)
    writer = filled(server, transport=transport, api_key=KEY)
    reader = backend(settings(server, transport, api_key=READER)).open("bank")
    before = list(server.points("bank--L04"))
    for name, call in CALLS.items():
        if not call.writes:
            assert call.do(reader) == call.do(writer), name
            continue
        server.requests.clear()
        with pytest.raises(BankUnavailable, match=r"refuses the key; .* to one that may do this") as found:
            call.do(reader)
        assert is_one_sentence(found.value)
        assert [request.accepted for request in server.requests].count(False) == 1, name
    assert list(server.points("bank--L04")) == before
    assert writer.read_manifest() == (HEAD, {"animals": ANIMALS})
    with open_bank("bank", settings(server, transport, api_key=READER)) as opened:
        assert len(opened.search(units(1), 4)[0]) == 5
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        (lambda s: s.upsert(4, points(3, width=5)), BankUnavailable, "refuses the request: it answers"),
        (lambda s: s.upsert(9, points(3)), BankNotFound, "has no such bank"),
        (lambda s: s.search(9, units(1), 5), BankNotFound, "has no such bank"),
        (lambda s: s.search(4, units(1, width=5), 5), BankUnavailable, "refuses the request: it answers"),
    ],
)
def test_a_refused_request_is_not_sent_again(
    shared: QdrantDouble, transport: str, waits: list[float], do: Any, error: type[Exception], message: str
) -> None:
    store = filled(shared, transport=transport)
    shared.requests.clear()
    with pytest.raises(error, match=message) as found:
        do(store)
    assert is_one_sentence(found.value)
    assert len(shared.requests) == 1
    assert waits == []
    store.close()


def test_the_key_is_never_shown(double: Doubles, transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """The key is in no log of any level, no repr and no error, whatever goes wrong."""
    caplog.set_level("DEBUG")
    warn_unencrypted.cache_clear()  # another test's server may have had the same port
    server = double(api_key=KEY)
    where = settings(server, transport, api_key=KEY, retries=1)
    bank = sample_bank(Place("server", where), layers=[4])
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
    assert len(unencrypted) == 1  # one warning for many connections


# -- gRPC or REST ------------------------------------------------------------------------------------


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
    double: Doubles, port: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if port == "silent":  # whoever waits for it waits in vain
        monkeypatch.setattr("latentbank.bank.store.server.client._LONGEST_ANSWER", 0.5)
    server = double(grpc=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {"closed": server.grpc_port, "silent": silent.getsockname()[1]}
        number = ports.get(port, int(server.url.rsplit(":", 1)[1]))
        store = filled(server, grpc_port=number)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda row: store.search(4, units(1, seed=row), 1), range(8)))
    assert all(len(hits) == 1 for (hits,) in answers)
    assert CALLS["scroll"].do(store) == sorted(points(40).ids + points(20, "plants").ids)
    assert used(server)["grpc"] == set()
    (warning,) = warned(caplog)
    assert warning.startswith(f"{server.url}: gRPC on port {number} does not answer (")
    assert warning.endswith("), bulk work goes over REST (slower)")
    store.close()


@pytest.mark.parametrize("fault", [Fault.hang, Fault.timeout408, Fault.refuse], ids=lambda fault: fault.name)
def test_a_node_that_is_back_gets_bulk_work_over_grpc_again(
    shared: QdrantDouble, fault: Fault, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(shared).close()
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("latentbank.bank.store.server.client.time", clock)
    store = backend(settings(shared)).open("bank")
    shared.inject(fault, times=2, operation="collection_exists", seconds=0.02)
    for _ in range(2):  # the node is away
        for _ in range(2):
            shared.requests.clear()
            store.upsert(4, points(3, "late"))
            assert "upsert" in used(shared)["rest"]
        now += 20.0
    now += 1.0
    shared.requests.clear()
    for _ in range(2):
        store.upsert(4, points(3, "late"))
    assert [request.transport for request in shared.requests] == ["grpc"] * 3  # and it is asked only once
    assert store.count(4) == 63
    gone, back = warned(caplog)
    assert "does not answer" in gone
    assert back == f"{shared.url}: gRPC on port {shared.grpc_port} answers, bulk work goes over it"
    store.close()


@pytest.mark.parametrize("retry_after", [None, 1])
def test_a_busy_server_still_has_grpc(
    shared: QdrantDouble, retry_after: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    filled(shared).close()
    shared.requests.clear()
    store = backend(settings(shared)).open("bank")
    shared.inject(Fault.too_many, operation="collection_exists", retry_after=retry_after)
    assert len(store.search(4, units(1), 5)[0]) == 5
    assert shared.faults_left == 0
    assert "query_batch" in used(shared)["grpc"]
    assert warned(caplog) == []
    store.close()


# -- TLS ---------------------------------------------------------------------------------------------


def test_tls_with_a_private_authority(
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
    store = backend(
        settings(server, transport, tls_ca=other.ca_file if authority == "another" else None)
    ).open("bank")
    for ask in (store.layers, lambda: store.search(4, units(1), 5), lambda: store.upsert(4, points(1))):
        with pytest.raises(BankUnavailable, match=r"cannot be trusted; set LATENTBANK_TLS_CA") as found:
            ask()
        assert is_one_sentence(found.value)
    assert server.requests == []
    assert waits == []
    store.close()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_a_certificate(double: Doubles, tmp_path: Path, content: bytes | None) -> None:
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


def test_a_restart_in_the_middle_of_use(
    double: Doubles, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same store continues; what was acknowledged, and what was under way, is stored exactly once."""
    away, missed, back = threading.Event(), threading.Event(), threading.Event()
    waited: list[float] = []

    def wait(seconds: float) -> None:
        """Try again once the server is away, then once it is back, then for as long as a client needs to see that."""
        waited.append(seconds)
        if len(waited) == 1:
            away.wait(60)
        elif len(waited) == 2:
            missed.set()
            back.wait(60)
        else:
            time.sleep(0.1)

    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=wait))
    server = double()
    store = filled(server, transport=transport, timeout=600, retries=600)
    given = points(400, "late", seed=3)
    server.inject(Fault.hang, operation="upsert", after=7, seconds=600)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.upsert, 4, given)
        while server.faults_left and not writing.done():
            time.sleep(0.01)
        server.stop()
        away.set()
        assert missed.wait(60)
        assert not writing.done()
        server.start()
        back.set()
        writing.result(timeout=60)
    assert {p.id for p in store.scroll(4, Where(corpus="late"))} == set(given.ids)
    assert store.count(4) == 460
    server.stop()
    server.start()
    assert len(store.search(4, units(1), 5)[0]) == 5
    assert store.read_manifest() == (HEAD, {"animals": ANIMALS})
    store.close()


def test_a_bank_that_is_gone(double: Doubles, transport: str) -> None:
    server = double()
    where = settings(server, transport)
    with sample_bank(Place("server", where), layers=[4]) as bank:
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


def _client(server: QdrantDouble) -> QdrantClient:
    return QdrantClient(
        url=server.url, api_key=server.api_key, check_compatibility=False, verify=False, timeout=60
    )


def test_a_layer_collection_is_made_as_the_settings_say(shared: QdrantDouble) -> None:
    where = settings(
        shared, shard_number=2, replication_factor=3, write_consistency_factor=2, hnsw_ef_construct=77
    )
    with sample_bank(Place("server", where), layers=[4]):
        client = _client(shared)
        info = client.get_collection(shared.name("bank--L04"))
        client.close()
    vectors = info.config.params.vectors
    assert isinstance(vectors, models.VectorParams)
    assert (vectors.size, vectors.distance) == (WIDTH, models.Distance.COSINE)
    assert (vectors.datatype, vectors.on_disk) == (models.Datatype.FLOAT16, True)
    quantization = info.config.quantization_config
    assert isinstance(quantization, models.ScalarQuantization)
    assert (quantization.scalar.type, quantization.scalar.always_ram) == (models.ScalarType.INT8, True)
    params = info.config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (2, 3, 2)
    assert params.on_disk_payload is True
    assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (0, 77)
    assert info.config.optimizer_config.indexing_threshold == 0
    kinds = {field: index.data_type.value for field, index in info.payload_schema.items()}
    numbers = {"token_id": "integer", "position": "integer"}
    assert kinds == {"corpus": "keyword", "word": "keyword", "caption": "text"} | numbers
    # None adds links to a graph: it would take three times as long to build.
    assert all(index.params.enable_hnsw is False for index in info.payload_schema.values())
    captions = info.payload_schema["caption"].params
    assert isinstance(captions, models.TextIndexParams)
    assert (captions.tokenizer, captions.phrase_matching) == (models.TokenizerType.MULTILINGUAL, True)
    assert (captions.lowercase, captions.ascii_folding, captions.on_disk) == (True, True, True)


def test_uploads_are_cut_into_batches_that_are_waited_for(shared: QdrantDouble, transport: str) -> None:
    filled(shared, transport=transport).close()
    uploads = [
        request.summary
        for request in shared.requests
        if request.operation == "upsert" and request.collection == "bank--L04"
    ]
    assert uploads == [{"points": count, "wait": True} for count in (16, 16, 8, 16, 4)]


def test_other_collections_are_left_alone(shared: QdrantDouble) -> None:
    strangers = ["animals", "photos--L1", "bank--Lxx", "bank--L04-old", "--L04", "stray--L04"]
    strangers = [shared.name(name) for name in strangers]
    client = _client(shared)
    for name in strangers:
        client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.DOT))
    where = settings(shared)
    with sample_bank(Place("server", where)) as bank:
        fill(bank, 5)
        assert bank.verify() == []
        assert bank.store.layers() == [4, 8]
    assert list_banks(where) == ["bank"]
    delete_bank("bank", where)

    def there() -> set[str]:
        names = {collection.name for collection in client.get_collections().collections}
        return {name for name in names if name.startswith(PREFIX)}

    assert soon(lambda: there() == set(strangers))
    client.close()


def test_two_writers_do_not_overwrite_each_others_entries(shared: QdrantDouble) -> None:
    where = settings(shared)
    with sample_bank(Place("server", where)) as bank, open_bank("bank", where) as other:
        fill(bank, 5, "a")
        fill(other, 7, "b")
        fill(bank, 3, "c")
        assert list(other.corpora) == list(bank.corpora) == ["a", "b", "c"]
        assert bank.verify() == []
        other.drop_corpus("a")
        assert set(bank.corpora) == {"b", "c"}
        assert bank.verify() == []


def test_making_a_bank_that_is_there_opens_it(shared: QdrantDouble) -> None:
    place = Place("server", settings(shared))
    with sample_bank(place) as bank:
        fill(bank, 5)
        with sample_bank(place) as other:
            assert other.count() == 5


def test_a_server_that_is_too_old_is_refused(shared: QdrantDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, fine in (("1.17.9", False), ("1.18.0-dev", True), ("2.0.0", True)):
        monkeypatch.setattr(engine, "VERSION", version)
        store = backend(settings(shared)).open("nothing")
        if fine:
            assert store.read_manifest() is None
        else:
            with pytest.raises(BankUnavailable, match=r"runs Qdrant 1\.17\.9; a bank needs 1\.18 or newer"):
                store.read_manifest()
        store.close()
