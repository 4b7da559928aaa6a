"""Handles the requests of both transports: checks keys, records requests and delivers faults."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from qdrant_client.http import models as m

from tests.wire.collection import Upsert
from tests.wire.errors import WireError, wrong
from tests.wire.faults import Fault, FaultBook, Trouble
from tests.wire.keys import Keys
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
