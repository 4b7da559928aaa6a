"""A running double and a client of it, once over REST and once over gRPC."""

from collections.abc import Callable, Iterator

import grpc  # type: ignore[import-untyped]  # grpcio comes without types
import pytest
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.wire.double import QdrantDouble
from tests.wire.errors import Refusal


@pytest.fixture
def server() -> Iterator[QdrantDouble]:
    """Provide a double without keys or lag; afterwards check that all requests conformed to Qdrant's API."""
    with QdrantDouble(lag=0) as double:
        yield double
        assert double.invalid_requests == []


@pytest.fixture(params=["rest", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    """Which of the two APIs a client prefers."""
    return str(request.param)


@pytest.fixture
def client(server: QdrantDouble, transport: str) -> Iterator[QdrantClient]:
    """The real client, connected to `server` over `transport`."""
    made = QdrantClient(
        url=server.url,
        grpc_port=server.grpc_port,
        prefer_grpc=transport == "grpc",
        check_compatibility=False,
        timeout=60,
        verify=False,  # plain HTTP; otherwise httpx reads all public authorities for every client
    )
    yield made
    made.close()


@pytest.fixture
def refusal() -> Callable[[Callable[[], object]], tuple[Refusal | str, str]]:
    """Call something that must fail; return the kind of refusal and its text, or another kind of failure.

    "broken" is a connection that ended without an answer, "late" a deadline that passed and
    "wait N" a 429 that says how many seconds to wait.
    """

    def call(action: Callable[[], object]) -> tuple[Refusal | str, str]:
        try:
            action()
        except UnexpectedResponse as error:
            status = error.status_code
            return next(refusal for refusal in Refusal if refusal.http == status), error.content.decode()
        except ResponseHandlingException as error:
            return ("late" if "timed out" in str(error) else "broken"), str(error)
        except ResourceExhaustedResponse as error:
            return f"wait {error.retry_after_s}", str(error.message)
        except grpc.RpcError as error:
            code, text = error.code(), str(error.details())
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "late", text
            if code is grpc.StatusCode.UNAVAILABLE and not text.startswith(Refusal.UNAVAILABLE.prefix):
                return "broken", text
            return next(refusal for refusal in Refusal if refusal.code == code.name), text
        raise AssertionError("the call was answered")

    return call
