"""Faults that a test can order: the kind, the operation, and how often."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.wire.errors import Refusal, WireError

QUIET = ("version", "health")
"""Operations that a fault for any operation skips: clients call them by themselves, at any time."""

FAMILIES = {"query": ("query", "query_batch", "query_groups")}
"""Names that stand for several operations."""


SLOW_NODE = (
    "4 out of 6 shards failed to apply operation. First error captured: Timeout error: Deadline Exceeded: status: "
    "'Deadline expired before operation could complete', self: \"Failed to connect to http://node-3:6335/, error: "
    'transport error"'
)
"""What a server says about an operation that ended in time in some shards alone: the errors of other nodes, nested."""


class Fault(Enum):
    """What goes wrong with one request."""

    refuse = "the connection is reset and nothing is applied"
    hang = "no answer for some seconds, then the connection is closed; nothing is applied"
    too_many = "429 / RESOURCE_EXHAUSTED, with the seconds to wait if given"
    error500 = "500 / INTERNAL"
    unavailable503 = "503 / UNAVAILABLE"
    timeout408 = "408 / DEADLINE_EXCEEDED, as when a node hangs"
    not_ready = "500 / FAILED_PRECONDITION"
    cancelled = "500 / CANCELLED"
    proxy408 = "408 / UNKNOWN, a proxy's status that gRPC does not know"
    locked = "403 / FAILED_PRECONDITION: somebody locked the server against changes"
    drop_after_apply = "the request is applied, then the connection is closed without an answer"
    cut = "the request is applied, then the connection is closed in the middle of the answer"
    slow = "the request is applied, and the answer comes in pieces, for some seconds"

    @property
    def applies(self) -> bool:
        """Whether the request takes effect before things go wrong."""
        return self in (Fault.drop_after_apply, Fault.cut, Fault.slow)


@dataclass(frozen=True)
class Trouble:
    """A fault that has struck a request, with its settings (both in seconds)."""

    fault: Fault
    retry_after: int | None
    seconds: float

    def error(self) -> WireError | None:
        """The refusal that this fault is answered with; None if there is no answer at all."""
        match self.fault:
            case Fault.too_many:
                return WireError(Refusal.TOO_MANY, "Too many requests, retry later", self.retry_after)
            case Fault.error500:
                return WireError(Refusal.INTERNAL, "injected by the test")
            case Fault.unavailable503:
                return WireError(Refusal.UNAVAILABLE, "injected by the test")
            case Fault.timeout408:
                return WireError(Refusal.TIMEOUT, SLOW_NODE)
            case Fault.not_ready:
                return WireError(Refusal.NOT_READY, "injected by the test")
            case Fault.cancelled:
                return WireError(Refusal.CANCELLED, "injected by the test")
            case Fault.proxy408:
                return WireError(Refusal.PROXY_TIMEOUT, "")
            case Fault.locked:
                return WireError(Refusal.LOCKED, "injected by the test")
            case _:
                return None


@dataclass
class _Order:
    """An order for faults, counted down as requests come in."""

    trouble: Trouble
    operation: str | None
    times: int
    after: int

    def matches(self, operation: str) -> bool:
        if self.operation is None:
            return operation not in QUIET
        return operation in FAMILIES.get(self.operation, (self.operation,))


class FaultBook:
    """The faults ordered and not yet delivered. Safe to use from many threads."""

    def __init__(self) -> None:
        """Start with nothing ordered."""
        self._lock = threading.Lock()
        self._orders: list[_Order] = []
        self._moments: list[tuple[int, Callable[[], None]]] = []
        self._requests = 0

    def order(self, trouble: Trouble, operation: str | None, times: int, after: int) -> None:
        """Strike the next `times` requests for `operation` (None: any), after skipping `after` of them."""
        with self._lock:
            self._orders.append(_Order(trouble, operation, times, after))

    def when(self, after: int, do: Callable[[], None]) -> None:
        """Call `do` when the next request arrives for which faults can be ordered, after skipping `after` of them."""
        with self._lock:
            self._moments.append((self._requests + after, do))

    def clear(self) -> None:
        """Forget everything ordered."""
        with self._lock:
            self._orders.clear()
            self._moments.clear()

    def left(self) -> int:
        """Return how many faults are still to be delivered."""
        with self._lock:
            return sum(order.times for order in self._orders)

    def take(self, operation: str) -> Trouble | None:
        """The fault that strikes this request, if any; at most one order is used up."""
        self._do_what_is_due(operation)
        with self._lock:
            for order in self._orders:
                if not order.matches(operation):
                    continue
                if order.after > 0:
                    order.after -= 1
                elif order.times > 0:
                    order.times -= 1
                    return order.trouble
            return None

    def _do_what_is_due(self, operation: str) -> None:
        if operation in QUIET:
            return
        with self._lock:
            due = [do for at, do in self._moments if at <= self._requests]
            self._moments = [(at, do) for at, do in self._moments if at > self._requests]
            self._requests += 1
        for do in due:
            do()
