"""What the double lets the holders of keys and tokens do, as a server decides it, and what is too large for it."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio comes without types
import httpx
import pytest
from qdrant_client import QdrantClient, models

from tests.wire.double import QdrantDouble
from tests.wire.errors import Refusal
from tests.wire.grpc_service import MAX_HEADERS
from tests.wire.rest import MAX_BODY
from tests.wire.samples import create, fill

Refused = Callable[[Callable[[], object]], tuple[Refusal | str, str]]
Clients = Callable[[str], QdrantClient]
KEY = "the-key"


def token(key: str = KEY, **claims: Any) -> str:
    """Return a signed token."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    ]
    signature = hmac.new(key.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()])


def access(*names: str, mode: str = "r") -> list[dict[str, str]]:
    return [{"collection": name, "access": mode} for name in names]


@pytest.fixture(scope="module")
def keyed() -> Iterator[QdrantDouble]:
    """Provide a double with a key, and a collection that holds the sample points."""
    with QdrantDouble(api_key=KEY, read_only_key="reader") as server:
        client = QdrantClient(
            url=server.url, api_key=KEY, check_compatibility=False, verify=False, timeout=60
        )
        create(client)
        create(client, "other")
        fill(client)
        client.close()
        yield server
        assert server.invalid_requests == []


@pytest.fixture
def clients(keyed: QdrantDouble, transport: str) -> Iterator[Clients]:
    """Make clients that have a key."""
    with ExitStack() as open_:

        def make(key: str) -> QdrantClient:
            client = QdrantClient(
                url=keyed.url,
                grpc_port=keyed.grpc_port,
                prefer_grpc=transport == "grpc",
                api_key=key,
                check_compatibility=False,
                verify=False,
                timeout=60,
            )
            open_.callback(client.close)
            return client

        yield make


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(
    ("key", "kind", "text"),
    [
        ("wrong", Refusal.UNAUTHORIZED, "Invalid API key or JWT"),
        (token("another", access="r"), Refusal.FORBIDDEN, "InvalidSignature"),
        (token(access="r", exp=time.time() - 60), Refusal.FORBIDDEN, "ExpiredSignature"),
        (token(access=access("bank", "bank")), Refusal.UNAUTHORIZED, "Collection name should be unique"),
        (token(access=access("other")), Refusal.FORBIDDEN, "Access to collection bank is required"),
    ],
)
def test_a_key_that_does_not_open(
    clients: Clients, refusal: Refused, key: str, kind: Refusal, text: str
) -> None:
    client = clients(key)
    found, said = refusal(lambda: client.count("bank"))
    assert found.http is kind.http  # type: ignore[union-attr]
    assert text in said


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(
    "key",
    [KEY, "reader", token(access=access("other", "bank")), token()],
)
def test_a_key_that_opens(clients: Clients, key: str) -> None:
    assert clients(key).count("bank").count > 0


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_token_that_ended_a_moment_ago_opens(
    clients: Clients, refusal: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks may differ by half a minute."""
    now = time.time()
    monkeypatch.setattr("tests.wire.keys.time", SimpleNamespace(time=lambda: now))
    assert clients(token(access="r", exp=now - 30)).count("bank").count > 0
    ended = clients(token(access="r", exp=now - 31))
    assert "ExpiredSignature" in refusal(lambda: ended.count("bank"))[1]


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("reader", "Global manage access is required"),
        (token(access="r"), "Global manage access is required"),
        (token(access=access("bank")), "Write access to collection bank is required"),
    ],
)
def test_readers_do_not_write(clients: Clients, refusal: Refused, key: str, text: str) -> None:
    client = clients(key)
    points = [models.PointStruct(id=1, vector=[0.0] * 32)]
    kind, said = refusal(lambda: client.upsert("bank", points))
    assert kind is Refusal.FORBIDDEN
    assert text in said
    manage = "Global access is required" if text.startswith("Write") else text
    assert manage in refusal(lambda: client.delete_collection("bank"))[1]


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("size", [13_800, 16_600])
def test_a_long_token_passes_over_rest_but_not_over_grpc(clients: Clients, transport: str, size: int) -> None:
    short = token(access=access("bank"), pad="")
    made = token(access=access("bank"), pad="x" * ((size - len(short)) * 3 // 4))
    assert abs(len(made) - size) < 4
    client = clients(made)
    if transport == "grpc" and size > MAX_HEADERS:
        with pytest.raises(grpc.RpcError, match="Received http2 header with status: 431"):
            client.count("bank")
    else:
        assert client.count("bank").count > 0


def test_a_body_beyond_the_limit_is_refused(keyed: QdrantDouble) -> None:
    body = b'{"points": "' + b" " * MAX_BODY + b'"}'
    answer = httpx.put(
        keyed.url + "/collections/bank/points", content=body, headers={"api-key": KEY}, timeout=60
    )
    assert answer.status_code == 400
    assert answer.json()["status"]["error"] == (
        f"JSON payload ({len(body)} bytes) is larger than allowed (limit: {MAX_BODY} bytes)."
    )
