"""Retries of requests to a server, and the errors that remain when they do not help."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable
from typing import TypeVar

import grpc
import httpx
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from latentbank.errors import BankNotFound, BankUnavailable, LatentBankError

log = logging.getLogger("latentbank")
T = TypeVar("T")

LONGEST_WAIT = 30.0
# Most characters of a server's message that an error quotes: of its beginning, and of its end.
_LONGEST, _LONGEST_END = 90, 110

# What an operation of a node that hangs, stops or is not ready yet ends with. A proxy on the way cancels what it cannot
# pass on, or answers with a status of HTTP that gRPC does not know.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.FAILED_PRECONDITION,
}
# A status of HTTP, in the words of the client for gRPC, that stays the same: 4xx but for 408 and 429.
_NEVER = re.compile(r"http2 header with status: 4(?!08|29)")
_REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
# What a server says about a token that was good once.
_ENDED = "ExpiredSignature"
# Qdrant's status if an operation did not end in time, as when one of its nodes hangs; and a proxy's.
_TOO_SLOW = (408, 504)


def passing(error: BaseException) -> bool:
    """Return whether a failure may pass: connection errors, timeouts, 408, 429 and 5xx, but no other 4xx."""
    if locked(error):
        return False
    if isinstance(error, UnexpectedResponse) and (
        error.status_code in _TOO_SLOW or (error.status_code or 0) >= 500
    ):
        return True
    if isinstance(error, grpc.RpcError) and _code(error) in _PASSING:
        return not _NEVER.search(_said(error))
    if isinstance(error, ResponseHandlingException):
        return not untrusted(error)
    return too_often(error)


def too_slow(error: BaseException) -> bool:
    """Return whether the server was reached, but did not answer or finish in time."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _TOO_SLOW
    if isinstance(error, grpc.RpcError):
        return _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    return isinstance(error, ResponseHandlingException) and isinstance(
        error.source, httpx.ReadTimeout | httpx.WriteTimeout
    )


def locked(error: BaseException) -> bool:
    """Return whether somebody has locked the server against changes, which it says with the status of a refused key."""
    return isinstance(error, UnexpectedResponse | grpc.RpcError) and "Storage locked" in _said(error)


def untrusted(error: BaseException) -> bool:
    """Return whether the server's certificate was rejected."""
    return isinstance(error, ResponseHandlingException) and "CERTIFICATE_VERIFY_FAILED" in str(error.source)


def refused(error: BaseException) -> bool:
    """Return whether the server refused the key."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in (401, 403) and not locked(error)
    return isinstance(error, grpc.RpcError) and _code(error) in _REFUSED


def too_often(error: BaseException) -> bool:
    """Return whether the server answered that there are too many requests (429)."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code == 429
    if isinstance(error, grpc.RpcError):
        return _code(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    # The base class itself: the client raises it when it cannot read Retry-After.
    return isinstance(error, QdrantException)


def missing(error: BaseException) -> bool:
    """Return whether the server does not have what was requested."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code == 404
    return isinstance(error, grpc.RpcError) and _code(error) == grpc.StatusCode.NOT_FOUND


def exists_already(error: BaseException) -> bool:
    """Return whether a creation failed because the thing exists already."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code == 409 or b"already exists" in error.content
    return isinstance(error, grpc.RpcError) and _code(error) == grpc.StatusCode.ALREADY_EXISTS


def call(request: Callable[[], T], server: str, retries: int, first_wait: float) -> T:
    """Send a request, and send it again while it fails in a way that may pass.

    Waits double from `first_wait` seconds to at most 30, with jitter; the server's Retry-After takes precedence. Only
    the first retry is logged.

    Raises:
        BankUnavailable: the request failed for good, or the server refuses the key.
        BankNotFound: the server does not have what was requested.
    """

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        server_wait = _retry_after(error)
        if server_wait is not None:
            return min(server_wait, 10 * LONGEST_WAIT)
        backoff = min(LONGEST_WAIT, first_wait * 2.0 ** (state.attempt_number - 1))
        return backoff * random.uniform(0.5, 1.0)

    def log_retry(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.warning("%s: %s; trying again", server, _reason(state.outcome.exception()))

    retrying = Retrying(
        stop=stop_after_attempt(retries + 1),
        wait=wait,
        retry=retry_if_exception(passing),
        before_sleep=log_retry,
        reraise=True,
    )
    try:
        return retrying(request)
    except LatentBankError:
        raise
    except Exception as error:
        raise explain(error, server) from None


def explain(error: BaseException, server: str) -> BaseException:
    """Return the error for what the client raised: one sentence that says what to do, without keys or bodies."""
    if refused(error) and isinstance(error, UnexpectedResponse | grpc.RpcError) and _ENDED in _said(error):
        return BankUnavailable(
            f"The token for the server {server} has ended; ask for a new one, and set LATENTBANK_API_KEY to it."
        )
    if refused(error):
        return BankUnavailable(
            f"The server {server} refuses the key; set LATENTBANK_API_KEY to one that may do this."
        )
    if untrusted(error):
        return BankUnavailable(
            f"The certificate of the server {server} cannot be trusted; set LATENTBANK_TLS_CA to the PEM file of "
            "the authority that signed it."
        )
    if missing(error):
        return BankNotFound(
            f"The server {server} has no such bank, or lost a part of it: {_reason(error)}; list the banks "
            "there are, or run its ingestion again, which creates a bank and adds what is missing.",
            functions=("list_banks", "fill"),
        )
    if locked(error):
        return BankUnavailable(
            f"The server {server} is locked against changes: {_reason(error)}; have it unlocked, then run the command "
            "again."
        )
    if too_slow(error):
        return BankUnavailable(
            f"The server {server} does not finish in time: {_reason(error)}; a node hangs or has too much to do: look "
            "after it, then run the command again."
        )
    if passing(error):
        return BankUnavailable(
            f"The server {server} cannot be used: {_reason(error)}; check that it runs and has room, then run "
            "the command again."
        )
    if isinstance(error, UnexpectedResponse | grpc.RpcError):
        return BankUnavailable(
            f"The server {server} refuses the request: {_reason(error)}; check that it is Qdrant 1.18 or newer, "
            "and its log."
        )
    return error


def status(error: BaseException) -> str:
    """Return the name of the status that a request over gRPC ended with."""
    code = _code(error) if isinstance(error, grpc.RpcError) else None
    return code.name if code else type(error).__name__


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else None


def _retry_after(error: BaseException | None) -> float | None:
    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    if isinstance(error, UnexpectedResponse) and error.headers:
        try:
            return float(error.headers.get("retry-after", ""))
        except ValueError:
            return None
    return None


def _reason(error: BaseException | None) -> str:
    """Return in a few words what happened: the status, and what the server itself says."""
    if isinstance(error, UnexpectedResponse):
        return _with_message(f"it answers {error.status_code} {error.reason_phrase}", _said(error))
    if isinstance(error, grpc.RpcError):
        code = _code(error)
        return _with_message(f"it answers {code.name if code else 'nothing'} over gRPC", _said(error))
    if isinstance(error, ResponseHandlingException):
        source = error.source
        if isinstance(source, ValidationError):
            return "its answer is not Qdrant's"
        return _with_message(type(source).__name__, str(source))
    if isinstance(error, QdrantException):
        return "it is asked too often (429)"
    return type(error).__name__


def _said(error: UnexpectedResponse | grpc.RpcError) -> str:
    """Return the server's own message on one line; of another server, a proxy or a page, the first line as text."""
    if isinstance(error, grpc.RpcError):
        return " ".join(((error.details() if isinstance(error, grpc.Call) else None) or "").split())
    text = error.content.decode("utf-8", "replace")
    try:
        return " ".join(str(json.loads(text)["status"]["error"]).split())
    except (ValueError, KeyError, TypeError):
        return " ".join(re.sub(r"<[^<>]*>", " ", next(iter(text.strip().splitlines()), "")).split())


def _with_message(what: str, message: str) -> str:
    text = _shortened(" ".join(message.split())).rstrip(".")
    return f"{what} ({text})" if text else what


def _shortened(text: str) -> str:
    """Return a message without the middle if it is long: its end says what failed first, in another node perhaps."""
    if len(text) <= _LONGEST + _LONGEST_END:
        return text
    begin, end = text[:_LONGEST], text[-_LONGEST_END:]
    return f"{begin.rpartition(' ')[0] or begin} … {end.partition(' ')[2] or end}"
