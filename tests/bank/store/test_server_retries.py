"""Retries of the server store: each kind of call against each fault, over REST and gRPC on a real socket."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio comes without types
import pytest
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.opening import delete_bank, list_banks, open_bank
from latentbank.bank.store.backends import backend
from latentbank.bank.store.server.client import connect
from latentbank.bank.store.server.retrying import passing
from latentbank.errors import BankUnavailable
from tests.bank.samples import Place, is_one_sentence, points, sample_bank, units
from tests.bank.servers import CALLS, ROUTES, Doubles, filled, opened, settings, warned
from tests.wire.double import Fault, QdrantDouble


def state(server: QdrantDouble) -> Any:
    """Everything that the server holds of the bank: configuration, indexes, manifest and points of each layer."""
    server.settle()
    # What QdrantClient is made around. To make that itself takes fifteen times as long.
    client = QdrantRemote(url=server.url, check_compatibility=False, verify=False, timeout=60)
    layers = {}
    for layer in (4, 8):
        collection = f"bank--L{layer:02d}"
        if client.collection_exists(collection):
            info = client.get_collection(collection)
            content = {item: (row.tolist(), p) for item, (row, p) in server.points(collection).items()}
            layers[layer] = (info.config.model_dump(), sorted(info.payload_schema), content)
    client.close()
    return layers


@pytest.fixture(scope="module")
def undisturbed(quick_disk: Path) -> Iterator[Callable[[str, str], tuple[Any, Any]]]:
    """Return the answer of an undisturbed call over a transport, and the state afterwards."""
    with QdrantDouble() as double:

        @functools.cache
        def run(name: str, transport: str) -> tuple[Any, Any]:
            double.wipe()
            store = filled(double, transport=transport)
            answer = CALLS[name].do(store)
            store.close()
            return answer, state(double)

        yield run


@pytest.fixture(scope="module")
def read(quick_disk: Path) -> Iterator[QdrantDouble]:
    """Provide a server with a bank for calls that change nothing."""
    with QdrantDouble() as double:
        filled(double).close()
        yield double
        assert double.invalid_requests == []


# Each of these with every call; the others differ from error500 only in their status.
EVERYWHERE = [
    Fault.refuse,
    Fault.hang,
    Fault.too_many,
    Fault.error500,
    Fault.unavailable503,
    Fault.drop_after_apply,
    Fault.cut,
]


@pytest.mark.parametrize("fault", EVERYWHERE, ids=lambda fault: fault.name)
@pytest.mark.parametrize(("name", "transport"), ROUTES)
def test_a_call_outlasts_faults(
    request: pytest.FixtureRequest,
    undisturbed: Callable[[str, str], tuple[Any, Any]],
    name: str,
    transport: str,
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answer and state are those of an undisturbed call; one log message says that it was tried again."""
    monkeypatch.setattr("latentbank.bank.store.server.store._SCROLL", 10)
    call, expected = CALLS[name], undisturbed(name, transport)
    server: QdrantDouble = request.getfixturevalue("shared" if call.writes else "read")
    store = filled(server, transport=transport) if call.writes else opened(server, transport)
    server.requests.clear()
    server.inject(fault, times=2, operation=call.operation, after=call.after, seconds=0.02)
    answer = call.do(store)
    assert (answer, state(server)) == expected
    assert server.faults_left == 0
    assert [asked.transport for asked in server.requests if asked.fault is fault] == [transport, transport]
    (warning,) = warned(caplog)
    assert warning.startswith(f"{server.url}: ")
    assert warning.endswith("; trying again")
    store.close()


NODES = [Fault.timeout408, Fault.not_ready, Fault.cancelled, Fault.proxy408]


@pytest.mark.parametrize("fault", NODES, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", ["upsert", "search", "head"])
def test_a_node_that_hangs_or_is_not_ready_is_asked_again(
    shared: QdrantDouble, transport: str, fault: Fault, name: str, waits: list[float]
) -> None:
    store = filled(shared, transport=transport)
    expected = CALLS[name].do(store)
    shared.inject(fault, times=2, operation=CALLS[name].operation)
    assert CALLS[name].do(store) == expected
    assert (shared.faults_left, len(waits)) == (0, 2)
    store.close()


@pytest.mark.parametrize(("retry_after", "waited"), [(7, 7.0), (100_000, 300.0)])
def test_the_server_may_set_the_wait(
    shared: QdrantDouble, transport: str, waits: list[float], retry_after: int, waited: float
) -> None:
    store = filled(shared, transport=transport)
    shared.inject(Fault.too_many, times=2, operation="upsert", retry_after=retry_after)
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
        lambda: sample_bank(Place("server", where)),
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


def test_a_server_that_does_not_answer_in_time(
    shared: QdrantDouble, transport: str, waits: list[float]
) -> None:
    filled(shared).close()
    hasty = settings(shared, transport, timeout=1, retries=1)
    store: Any = backend(hasty).open("bank")
    # Not asked for, because a sound server may need longer than a second to say whether it has gRPC.
    client = connect(hasty, prefer_grpc=True) if transport == "grpc" else store._server.rest
    store._server._bulk = client
    shared.inject(Fault.hang, times=9, operation="query", seconds=60)
    with pytest.raises(
        BankUnavailable, match=r"does not finish in time: .*(timed out|DEADLINE_EXC)"
    ) as found:
        store.search(4, units(1), 5)
    assert is_one_sentence(found.value)
    assert len(waits) == 1
    shared.clear_faults()
    client._timeout = client.http.client._client.timeout = 60  # of gRPC and of REST
    assert len(store.search(4, units(1), 5)[0]) == 5
    store.close()


def test_a_node_that_hangs_for_long_is_named(shared: QdrantDouble, transport: str) -> None:
    """The sentence quotes the errors of nodes inside each other from the first to the last."""
    store = filled(shared, transport=transport, retries=0)
    shared.inject(Fault.timeout408, operation="upsert")
    with pytest.raises(
        BankUnavailable, match=r"does not finish in time: .*; a node hangs or has too m"
    ) as found:
        CALLS["upsert"].do(store)
    assert is_one_sentence(found.value)
    assert "Timeout: 4 out of 6 shards failed to apply operation" in str(found.value)
    assert 'self: "Failed to connect to http://node-3:6335/, error: transport error")' in str(found.value)
    store.close()


@pytest.mark.parametrize("name", ["upsert", "head"])
def test_a_server_that_somebody_locked_does_not_refuse_the_key(
    shared: QdrantDouble, transport: str, name: str, waits: list[float]
) -> None:
    store = filled(shared, transport=transport)
    shared.inject(Fault.locked, operation=CALLS[name].operation)
    with pytest.raises(BankUnavailable, match=r"is locked against changes: .*; have it unlocked") as found:
        CALLS[name].do(store)
    assert is_one_sentence(found.value)
    assert waits == []
    store.close()


def test_a_status_of_a_proxy_that_stays_is_not_asked_for_again() -> None:
    """The client for gRPC says "unknown" for all of them."""

    class Answer(grpc.RpcError, grpc.Call):  # type: ignore[misc]
        def code(self) -> Any:
            return grpc.StatusCode.UNKNOWN

        def details(self) -> str:
            return f"Received http2 header with status: {self.args[0]}"

    Answer.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    assert {status: passing(Answer(status)) for status in (400, 408, 413, 429, 431)} == {
        400: False,
        408: True,
        413: False,
        429: True,
        431: False,
    }
