"""Handles the requests of both transports: checks keys, records requests and delivers faults."""

import base64
import hashlib
import hmac
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from qdrant_client.http import models as m

from tests.wire.collection import Upsert
from tests.wire.engine import WRITES
from tests.wire.errors import Refusal, WireError, wrong
from tests.wire.faults import QUIET, Fault, FaultBook, Trouble
from tests.wire.nodes import Nodes
from tests.wire.parameters import Parameters

_LONG = 16


@dataclass(frozen=True)
class Request:
    """A request as a transport received it; `node` is the one that its connection reaches."""

    transport: str
    operation: str
    collection: str | None
    key: str | None
    node: int
    parameters: Parameters


@dataclass(frozen=True)
class Recorded:
    """A request as recorded for tests. The API key itself is never kept.

    `summary` is the body with the REST API's field names, long lists shortened to their length, with the parameters
    beside it; it is empty if the key was refused. `accepted` says whether the API key was sufficient.
    """

    transport: str
    operation: str
    collection: str | None
    summary: dict[str, Any]
    accepted: bool
    fault: Fault | None


@dataclass(frozen=True)
class Invalid:
    """A request whose body does not conform to Qdrant's API."""

    transport: str
    operation: str
    reason: str


@dataclass(frozen=True)
class Keys:
    """The API keys that the server knows. Without any, every request is allowed."""

    full: str | None
    read_only: str | None

    def __repr__(self) -> str:
        """Return a text without the keys."""
        return "Keys(...)"

    def check(self, given: str | None, operation: str, collection: str | None = None) -> None:
        """Raise WireError unless this key, or token signed with the full key, may request this operation."""
        if operation in QUIET or (self.full is None and self.read_only is None):
            return
        if given is None:
            raise WireError(Refusal.UNAUTHORIZED, "Must provide an API key or an Authorization bearer token")
        if _same(given, self.full):
            return
        if (access := self._access(given)) is not None:
            if operation in WRITES and access != "m":
                raise WireError(Refusal.FORBIDDEN, "Global manage access is required")
            if collection is not None and not _opens(access, collection):
                raise WireError(Refusal.FORBIDDEN, f"Access to collection {collection} is required")
            return
        if not _same(given, self.read_only):
            raise WireError(Refusal.UNAUTHORIZED, "Invalid API key or JWT")
        if operation in WRITES:
            raise WireError(Refusal.FORBIDDEN, "Global manage access is required")

    def _access(self, given: str) -> Any:
        """Return a token's "access" claim; None if it is not a token signed with the full key."""
        head, _, signature = given.rpartition(".")
        if self.full is None or head.count(".") != 1:
            return None
        right = hmac.new(self.full.encode(), head.encode(), hashlib.sha256).digest()
        if not _same(signature, base64.urlsafe_b64encode(right).rstrip(b"=").decode()):
            return None
        first, claims = (json.loads(base64.urlsafe_b64decode(part + "===")) for part in head.split("."))
        if first["alg"] != "HS256":
            raise WireError(Refusal.UNAUTHORIZED, "Invalid API key or JWT")
        if claims.get("exp", math.inf) < time.time():
            raise WireError(Refusal.FORBIDDEN, "ExpiredSignature")
        return claims.get("access", "r")

    def shown(self, given: str | None, result: Any) -> Any:
        """Return the part of an answer that this key may see: collections it opens, aliases if it opens both names."""
        access = None if given is None or _same(given, self.full) else self._access(given)
        if access is None:
            return result
        if isinstance(result, m.CollectionsResponse):
            return m.CollectionsResponse(
                collections=[
                    collection for collection in result.collections if _opens(access, collection.name)
                ]
            )
        if isinstance(result, m.CollectionsAliasesResponse):
            return m.CollectionsAliasesResponse(
                aliases=[
                    item
                    for item in result.aliases
                    if _opens(access, item.alias_name) and _opens(access, item.collection_name)
                ]
            )
        return result


def _opens(access: Any, collection: str) -> bool:
    """Return whether a token's "access" claim lets its holder read a collection."""
    return access in ("r", "m") or any(item["collection"] == collection for item in access)


class Struck(Exception):
    """A fault strikes before the request is applied."""

    def __init__(self, trouble: Trouble) -> None:
        """Carry the fault to the transport, which has its own way to express it."""
        super().__init__(trouble.fault.name)
        self.trouble = trouble


class RequestHandler:
    """Handles requests, from any thread."""

    def __init__(self, nodes: Nodes, keys: Keys) -> None:
        """Serve what `nodes` know to clients that have one of `keys`."""
        self.nodes = nodes
        self.faults = FaultBook()
        self.requests: list[Recorded] = []
        self.invalid: list[Invalid] = []
        self._keys = keys

    def serve(self, request: Request, parse: Callable[[], Any]) -> tuple[Any, Trouble | None]:
        """Handle one request; returns its result, and the fault that strikes after it was applied, if any.

        `parse` returns the body, a REST model or an Upsert, and raises ValueError if it is invalid. Raises WireError
        for a refusal, and Struck for a fault before the request is applied.
        """
        transport, operation, collection = request.transport, request.operation, request.collection
        try:
            self._keys.check(request.key, operation, collection)
        except WireError:
            self.requests.append(Recorded(transport, operation, collection, {}, False, None))
            raise
        try:
            body = parse()
        except ValueError as error:
            # pydantic's ValidationError is a ValueError; its text quotes the input, which contains no secret.
            self.invalid.append(Invalid(transport, operation, str(error)))
            raise wrong(f"Format error in body: {error}") from error
        summary = _summary(body) | request.parameters.summary()
        trouble = self.faults.take(operation)
        fault = trouble.fault if trouble else None
        self.requests.append(Recorded(transport, operation, collection, summary, True, fault))
        if trouble and not trouble.fault.applies:
            raise Struck(trouble)
        result = self.nodes.apply(request.node, operation, collection, body)
        result = self._keys.shown(request.key, result)
        if request.parameters.wait is False and isinstance(result, m.UpdateResult):
            result = result.model_copy(update={"status": m.UpdateStatus.ACKNOWLEDGED})
        return result, trouble


def _same(given: str, key: str | None) -> bool:
    return key is not None and hmac.compare_digest(given.encode(), key.encode())


def _summary(body: Any) -> dict[str, Any]:
    if isinstance(body, Upsert):
        return {"points": len(body.points)}
    if isinstance(body, BaseModel):
        dumped = body.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {field: _shortened(value) for field, value in dumped.items()}
    return {}


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return f"<{len(value)} items>" if len(value) > _LONG else [_shortened(item) for item in value]
    return value
