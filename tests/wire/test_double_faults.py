"""Faults of the double: ordered faults, keys, TLS, restarts."""

import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio comes without types
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.wire.double import Fault, QdrantDouble
from tests.wire.errors import Refusal

Refused = Callable[[Callable[[], object]], tuple[Refusal | str, str]]

POINTS = [models.PointStruct(id=number, vector=[1.0, float(number), 0.5, 0.0]) for number in range(5)]


def connect(server: QdrantDouble, transport: str, key: str | None = None, timeout: int = 60) -> QdrantClient:
    verified: dict[str, Any] = {"verify": False}
    if server.ca_file is not None:
        verified["verify"] = ssl.create_default_context(cafile=server.ca_file)
    authority = None if server.ca_file is None else Path(server.ca_file).read_bytes()
    return QdrantClient(
        url=server.url,
        grpc_port=server.grpc_port,
        prefer_grpc=transport == "grpc",
        check_compatibility=False,
        api_key=key,
        timeout=timeout,
        grpc_options={"root_certificates": authority} if authority else None,
        **verified,
    )


def create(client: QdrantClient, name: str = "bank") -> None:
    client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.COSINE))


# Faults

FOR_GOOD = 1_000_000
"""So many faults that no request is spared."""


def until_struck(server: QdrantDouble, late: Callable[[], bool]) -> None:
    """Send a request that is late until one has arrived: a machine may pause for longer than its deadline."""
    before = len(server.requests)
    while True:
        assert late()
        if any(request.fault for request in server.requests[before:]):
            return


def test_a_request_that_its_client_does_not_finish_is_none() -> None:
    head = "PUT /collections/bank HTTP/1.1\r\nHost: double\r\nContent-Length: 99\r\n\r\n"
    with QdrantDouble() as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + b'{"vectors": {"size"')
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        assert server.requests == []
        assert server.invalid_requests == []


@pytest.mark.parametrize(
    ("fault", "expected", "stored"),
    [
        (Fault.refuse, "broken", 0),
        (Fault.error500, Refusal.INTERNAL, 0),
        (Fault.unavailable503, Refusal.UNAVAILABLE, 0),
        (Fault.too_many, Refusal.TOO_MANY, 0),
        (Fault.drop_after_apply, "broken", 5),
        (Fault.cut, "broken", 5),
    ],
)
def test_a_fault_strikes_once(
    client: QdrantClient,
    server: QdrantDouble,
    refusal: Refused,
    fault: Fault,
    expected: Refusal | str,
    stored: int,
) -> None:
    create(client)
    server.inject(fault, operation="upsert")
    assert client.count("bank").count == 0
    assert server.faults_left == 1
    assert refusal(lambda: client.upsert("bank", POINTS))[0] == expected
    assert server.requests[-1].fault is fault
    assert server.faults_left == 0
    assert len(server.points("bank")) == stored
    client.upsert("bank", POINTS)
    assert client.count("bank").count == 5


@pytest.mark.parametrize(
    ("fault", "status", "code", "message"),
    [
        (Fault.timeout408, 408, "DEADLINE_EXCEEDED", "Timeout: 4 out of 6 shards failed to apply operation."),
        (Fault.locked, 403, "FAILED_PRECONDITION", "Storage locked: "),
        (Fault.not_ready, 500, "FAILED_PRECONDITION", "Pre-condition failure: "),
        (Fault.cancelled, 500, "CANCELLED", "Service internal error: Operation cancelled: "),
    ],
)
def test_statuses_over_rest_and_grpc(
    client: QdrantClient, server: QdrantDouble, fault: Fault, status: int, code: str, message: str
) -> None:
    create(client)
    server.inject(fault, operation="upsert")
    with pytest.raises((UnexpectedResponse, grpc.RpcError)) as found:
        client.upsert("bank", POINTS)
    error = found.value
    if isinstance(error, UnexpectedResponse):
        assert (error.status_code, message.encode() in error.content) == (status, True)
    else:
        assert (error.code().name, error.details().startswith(message)) == (code, True)


def test_too_many_requests_says_how_long_to_wait(
    client: QdrantClient, server: QdrantDouble, refusal: Refused
) -> None:
    create(client)
    server.inject(Fault.too_many, retry_after=7)
    kind, text = refusal(lambda: client.count("bank"))
    assert kind == "wait 7"
    assert text.startswith("Rate limiting exceeded")


def test_a_hang_outlasts_the_deadline_and_applies_nothing(
    client: QdrantClient, server: QdrantDouble, transport: str, refusal: Refused
) -> None:
    create(client)
    impatient = connect(server, transport, timeout=1)
    server.inject(Fault.hang, times=FOR_GOOD, operation="upsert", seconds=60)
    until_struck(server, lambda: refusal(lambda: impatient.upsert("bank", POINTS))[0] == "late")
    impatient.close()
    assert server.points("bank") == {}
    server.clear_faults()
    client.upsert("bank", POINTS)
    assert len(server.points("bank")) == 5


def test_a_short_hang_ends_in_a_broken_connection(
    client: QdrantClient, server: QdrantDouble, refusal: Refused
) -> None:
    create(client)
    server.inject(Fault.hang, seconds=0.05)
    assert refusal(lambda: client.count("bank"))[0] == "broken"


def test_faults_count_requests(client: QdrantClient, server: QdrantDouble, refusal: Refused) -> None:
    create(client)
    server.inject(Fault.error500, times=2, operation="query", after=1)
    vector = [1.0, 0.0, 0.0, 0.0]
    batch = [models.QueryRequest(query=vector)]
    client.query_points("bank", vector)
    assert refusal(lambda: client.query_batch_points("bank", batch))[0] is Refusal.INTERNAL
    client.count("bank")
    assert refusal(lambda: client.query_points("bank", vector))[0] is Refusal.INTERNAL
    client.query_batch_points("bank", batch)


def test_any_operation_but_the_version(client: QdrantClient, server: QdrantDouble, refusal: Refused) -> None:
    server.inject(Fault.unavailable503)
    client.info()
    assert refusal(client.get_collections)[0] is Refusal.UNAVAILABLE
    server.inject(Fault.unavailable503, operation="version")
    assert refusal(client.info)[0] is Refusal.UNAVAILABLE
    server.inject(Fault.refuse, times=3)
    server.clear_faults()
    client.get_collections()


def test_an_unknown_operation_cannot_be_struck(server: QdrantDouble) -> None:
    with pytest.raises(ValueError, match="no operation"):
        server.inject(Fault.refuse, operation="upserts")


# Keys


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_keys(transport: str, refusal: Refused) -> None:
    with QdrantDouble(api_key="the secret", read_only_key="the reader's") as server:
        full, reader, wrong, keyless = (
            connect(server, transport, key) for key in ("the secret", "the reader's", "a guess", None)
        )
        create(full)
        full.upsert("bank", POINTS)
        assert reader.count("bank").count == 5
        assert reader.query_points("bank", [1.0, 0.0, 0.0, 0.0], limit=1).points[0].id == 0
        kind, text = refusal(lambda: reader.upsert("bank", POINTS))
        assert kind is Refusal.FORBIDDEN
        assert "Global manage access is required" in text
        assert refusal(lambda: reader.delete_collection("bank"))[0] is Refusal.FORBIDDEN
        kind, text = refusal(lambda: wrong.count("bank"))
        assert (kind, text) == (Refusal.UNAUTHORIZED, "Invalid API key or JWT")
        kind, text = refusal(keyless.get_collections)
        assert kind is Refusal.UNAUTHORIZED
        assert text == "Must provide an API key or an Authorization bearer token"
        assert keyless.info().version
        assert [request.accepted for request in server.requests[-5:]] == [False, False, False, False, True]
        printed = repr(server.requests) + repr(vars(server)) + repr(vars(vars(server)["_handler"]))
        assert not any(key in printed for key in ("the secret", "the reader's", "a guess"))
        for client in (full, reader, wrong, keyless):
            client.close()


# TLS


def test_tls_with_its_own_authority(transport: str, refusal: Refused) -> None:
    with QdrantDouble(api_key="secret", tls=True) as server, QdrantDouble(tls=True) as stranger:
        assert server.url.startswith("https://")
        client = connect(server, transport, "secret")
        create(client)
        client.upsert("bank", POINTS)
        assert client.count("bank").count == 5
        server.inject(Fault.cut, operation="count")
        assert refusal(lambda: client.count("bank"))[0] == "broken"
        client.close()
        server_file = server.ca_file
        assert server_file != stranger.ca_file
        assert stranger.ca_file is not None
        distrusting = QdrantClient(
            url=server.url,
            grpc_port=server.grpc_port,
            prefer_grpc=transport == "grpc",
            check_compatibility=False,
            api_key="secret",
            timeout=60,
            verify=ssl.create_default_context(cafile=stranger.ca_file),
            grpc_options={"root_certificates": Path(stranger.ca_file).read_bytes()},
        )
        assert refusal(lambda: distrusting.count("bank"))[0] == "broken"
        distrusting.close()


# Stops and restarts


def test_a_restart_keeps_everything(client: QdrantClient, server: QdrantDouble, refusal: Refused) -> None:
    client.create_collection(
        "bank", models.VectorParams(size=4, distance=models.Distance.COSINE), metadata={"schema": 1}
    )
    client.create_payload_index("bank", "word", models.PayloadSchemaType.KEYWORD)
    client.update_collection("bank", metadata={"corpora": ["a"]})
    client.upsert("bank", POINTS)
    alias = models.CreateAlias(collection_name="bank", alias_name="current")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    before, url, port = server.points("bank"), server.url, server.grpc_port
    server.stop()
    assert refusal(lambda: client.count("bank"))[0] == "broken"
    server.start()
    assert (server.url, server.grpc_port) == (url, port)
    fresh = connect(server, "rest")
    info = fresh.get_collection("current")
    assert info.config.metadata == {"schema": 1, "corpora": ["a"]}
    assert info.points_count == 5
    assert list(info.payload_schema) == ["word"]
    after = server.points("current")
    assert after.keys() == before.keys()
    for key, (vector, fields) in before.items():
        np.testing.assert_array_equal(after[key][0], vector)
        assert after[key][1] == fields
    fresh.close()


def test_the_same_client_works_after_a_restart(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    server.stop()
    server.start()
    client.upsert("bank", POINTS)
    assert client.count("bank").count == 5


def test_a_stop_breaks_a_request_under_way(
    server: QdrantDouble, client: QdrantClient, transport: str, refusal: Refused
) -> None:
    create(client)
    patient = connect(server, transport, timeout=600)
    server.inject(Fault.hang, operation="count", seconds=600)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(refusal, lambda: patient.count("bank"))
        while server.faults_left:
            time.sleep(0.01)
        server.stop()
        assert waiting.result(timeout=60)[0] == "broken"
    patient.close()


def test_a_wipe_empties_it(client: QdrantClient, server: QdrantDouble, refusal: Refused) -> None:
    create(client)
    client.upsert("bank", POINTS)
    server.wipe()
    assert client.get_collections().collections == []
    assert refusal(lambda: client.count("bank"))[0] is Refusal.NOT_FOUND
    create(client)
    assert client.count("bank").count == 0


def test_without_grpc_only_rest_answers(refusal: Refused) -> None:
    with QdrantDouble(grpc=False) as server:
        rest, over_grpc = connect(server, "rest"), connect(server, "grpc")
        create(rest)
        kind, text = refusal(over_grpc.get_collections)
        assert kind == "broken"
        assert "refused" in text.lower()
        server.stop()
        server.start()
        assert rest.collection_exists("bank")
        rest.close()
        over_grpc.close()


def test_a_slow_answer_is_whole_in_the_end(
    client: QdrantClient, server: QdrantDouble, transport: str, refusal: Refused
) -> None:
    create(client)
    server.inject(Fault.slow, times=2, operation="upsert", seconds=0.2)
    client.upsert("bank", POINTS)
    assert client.count("bank").count == 5
    impatient = connect(server, transport, timeout=1)
    server.inject(Fault.slow, times=FOR_GOOD, operation="retrieve", seconds=60)
    until_struck(server, lambda: refusal(lambda: impatient.retrieve("bank", [1]))[0] == "late")
    impatient.close()
    server.clear_faults()
    assert len(client.retrieve("bank", [1])) == 1


def test_things_happen_between_requests(client: QdrantClient, server: QdrantDouble) -> None:
    create(client)
    counts: list[int] = []
    server.when(1, lambda: counts.append(len(server.points("bank"))))
    server.when(2, lambda: server.delete("bank"))
    client.upsert("bank", POINTS[:3])
    assert counts == []
    client.upsert("bank", POINTS)
    assert counts == [3]
    assert not client.collection_exists("bank")
    server.when(0, server.wipe)
    server.clear_faults()
    create(client)
    assert client.collection_exists("bank")
