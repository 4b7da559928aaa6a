"""Storing contexts on a server with several requests at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest

from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Store
from latentbank.bank.store.server import uploading
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.uploading import Uploader, spare_connections
from latentbank.errors import BankUnavailable
from tests.bank.samples import WIDTH, is_one_sentence, points
from tests.bank.servers import settings
from tests.wire import telemetry
from tests.wire.double import Fault, QdrantDouble

COUNT = 100  # points in each layer, sixteen in a request


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantDouble]:
    with QdrantDouble() as double:
        yield double


@pytest.fixture
def calls(server: QdrantDouble) -> Iterator[Connection]:
    with Connection(settings(server, "rest", upload_connections=2)) as connection:
        yield connection


def stored(store: Store, layer: int) -> list[tuple[str, object, list[float]]]:
    every = store.scroll(layer, vectors=True, payloads=True)
    return [(point.id, point.payload, np.asarray(point.vector).tolist()) for point in every]


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_all_points_arrive_in_whatever_order(server: QdrantDouble, transport: str) -> None:
    store = backend(settings(server, transport, upload_connections=3)).open(f"many-{transport}")
    layers = (4, 8)
    for layer in layers:
        store.create(layer, WIDTH, "int8")
    server.inject(Fault.unavailable503, 2, "upsert", after=3)
    with ThreadPoolExecutor(len(layers)) as pool:
        for done in [pool.submit(store.upsert, layer, points(COUNT)) for layer in layers]:
            done.result()
    one = backend(settings(server, transport)).open(f"one-{transport}")
    one.create(4, WIDTH, "int8")
    one.upsert(4, points(COUNT))
    expected = stored(one, 4)
    for layer in layers:
        assert stored(store, layer) == expected
    assert len(expected) == COUNT
    store.close()
    one.close()


def test_an_error_ends_the_upload_and_the_store_goes_on(server: QdrantDouble) -> None:
    store = backend(settings(server, upload_connections=2, retries=0)).open("failing")
    store.create(4, WIDTH, "int8")
    server.inject(Fault.error500, 1, "upsert", after=1)
    with pytest.raises(BankUnavailable, match="cannot be used") as error:
        store.upsert(4, points(COUNT))
    assert is_one_sentence(error.value)
    store.upsert(4, points(COUNT))
    assert store.count(4) == COUNT
    store.close()
    with pytest.raises(BankUnavailable, match="is closed"):
        store.upsert(4, points(COUNT))


def test_two_requests_are_on_their_way_at_once(calls: Connection) -> None:
    both = threading.Barrier(2, timeout=60)
    uploader = Uploader(calls)
    uploader.send("bank--L04", [lambda _: both.wait()] * 6)
    uploader.close()


def test_a_failure_keeps_back_what_is_not_sent_yet(
    calls: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bool] = []
    seen = threading.Event()

    def fail(_: object) -> None:
        raise BankUnavailable("no")

    def waited(futures: Sequence[Future[None]], **until: Any) -> Any:
        if not until:  # for the requests that are on their way when the failure has been seen
            seen.set()
        return wait(futures, **until)

    monkeypatch.setattr(uploading, "wait", waited)
    uploader = Uploader(calls)
    with pytest.raises(BankUnavailable, match="no"):
        uploader.send("bank--L04", [fail, *[lambda _: sent.append(seen.wait(60))] * 40])
    uploader.close()
    assert seen.is_set()
    assert len(sent) <= 2  # one for each connection


def test_over_grpc_each_connection_is_its_own(server: QdrantDouble) -> None:
    with Connection(settings(server, upload_connections=3)) as connection:
        clients = [connection.bulk("bank--L04", number) for number in (0, 1, 2, 1)]
        assert len({id(client) for client in clients}) == 3
        assert clients[1] is clients[3]
    with Connection(settings(server, "rest", upload_connections=3)) as connection:
        assert connection.bulk("bank--L04", 2) is connection.rest


@pytest.mark.parametrize(("cores", "connections"), [(1, 1), (2, 1), (4, 2), (64, 4), (None, 2)])
def test_a_server_gets_a_connection_for_two_of_its_cores(
    server: QdrantDouble, monkeypatch: pytest.MonkeyPatch, cores: int | None, connections: int
) -> None:
    monkeypatch.setattr(telemetry, "CORES", cores)
    with Connection(settings(server, upload_connections=0)) as connection:
        assert spare_connections(connection) == connections


def test_a_server_that_does_not_tell_its_cores_gets_two(server: QdrantDouble) -> None:
    server.inject(Fault.error500, 1, "telemetry")
    with Connection(settings(server, upload_connections=0)) as connection:
        assert spare_connections(connection) == 2
