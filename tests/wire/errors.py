"""The answers of a Qdrant server that refuses a request, for both protocols."""

from enum import Enum
from http import HTTPStatus


class Refusal(Enum):
    """A kind of refusal: its HTTP status, its gRPC code and the prefix of the server's message."""

    WRONG_INPUT = (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Wrong input: ")
    BAD_QUERY = (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Deserialize error in query parameters: ")
    UNAUTHORIZED = (HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "")
    FORBIDDEN = (HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", "Forbidden: ")
    # A token that is expired, or signed with another key. The server sends it, and UNAUTHORIZED, as plain text.
    REFUSED_TOKEN = (HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", "")
    # By gRPC, a client's own deadline has the same code.
    TIMEOUT = (HTTPStatus.REQUEST_TIMEOUT, "DEADLINE_EXCEEDED", "Timeout: ")
    LOCKED = (HTTPStatus.FORBIDDEN, "FAILED_PRECONDITION", "Storage locked: ")
    NOT_FOUND = (HTTPStatus.NOT_FOUND, "NOT_FOUND", "Not found: ")
    EXISTS = (HTTPStatus.CONFLICT, "ALREADY_EXISTS", "Wrong input: ")
    TOO_LARGE = (HTTPStatus.BAD_REQUEST, "OUT_OF_RANGE", "")
    # What the client makes of the server's HTTP status, because there is no gRPC in its answer.
    HEADERS_TOO_LARGE = (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "UNKNOWN",
        "Received http2 header with status: 431",
    )
    INVALID = (HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_ARGUMENT", "Validation error in JSON body: ")
    BAD_REQUEST = (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Bad request: ")
    TOO_MANY = (
        HTTPStatus.TOO_MANY_REQUESTS,
        "RESOURCE_EXHAUSTED",
        "Rate limiting exceeded: ",
    )
    INTERNAL = (HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "Service internal error: ")
    NOT_READY = (HTTPStatus.INTERNAL_SERVER_ERROR, "FAILED_PRECONDITION", "Pre-condition failure: ")
    CANCELLED = (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "CANCELLED",
        "Service internal error: Operation cancelled: ",
    )
    # As above: what the client makes of a proxy's status.
    PROXY_TIMEOUT = (HTTPStatus.REQUEST_TIMEOUT, "UNKNOWN", "Received http2 header with status: 408")
    NOT_SPOKEN = (
        HTTPStatus.NOT_IMPLEMENTED,
        "UNIMPLEMENTED",
        "The test double cannot do this: ",
    )
    UNAVAILABLE = (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "UNAVAILABLE",
        "Shard temporarily unavailable: ",
    )

    def __init__(self, http: HTTPStatus, code: str, prefix: str) -> None:
        self.http = http
        self.code = code
        self.prefix = prefix


class WireError(Exception):
    """A request that the double refuses; each transport turns it into its own kind of answer."""

    def __init__(self, refusal: Refusal, message: str, retry_after: int | None = None) -> None:
        """Keep the refusal; `retry_after` is in seconds and only sent with `Refusal.TOO_MANY`."""
        super().__init__(refusal.prefix + message)
        self.refusal = refusal
        self.retry_after = retry_after


def wrong(message: str) -> WireError:
    """Return the refusal of a request that the server understands but does not accept (400)."""
    return WireError(Refusal.WRONG_INPUT, message)


def not_spoken(what: str) -> WireError:
    """Return the refusal of a feature that this double lacks (501), so that nothing is silently ignored."""
    return WireError(Refusal.NOT_SPOKEN, what)
