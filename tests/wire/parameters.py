"""What goes beside a request's body: whether to wait, the order of writes and the consistency of reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.wire.errors import Refusal, WireError

ORDERINGS = ("weak", "medium", "strong")
CONSISTENCIES = ("all", "majority", "quorum")
"""In the order of gRPC's numbers, as are the orderings."""


@dataclass(frozen=True)
class Parameters:
    """None stands for what was not given. `wait` is always known for writes to points."""

    wait: bool | None = None
    ordering: str | None = None
    consistency: str | int | None = None

    def summary(self) -> dict[str, Any]:
        """Return what was given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def from_query(query: Mapping[str, list[str]], waits: bool) -> Parameters:
    """Read a URL's query; raises WireError for values that the server refuses. `waits`: this is a write to points."""
    ordering, consistency = (query.get(name, [None])[-1] for name in ("ordering", "consistency"))
    if ordering is not None and ordering not in ORDERINGS:
        raise _refused(f"unknown variant `{ordering}`, expected one of `weak`, `medium`, `strong`")
    factor = int(consistency) if consistency is not None and consistency.isdecimal() else None
    if consistency is not None and consistency not in CONSISTENCIES and not factor:
        raise _refused(f"failed to deserialize read consistency query parameter value '{consistency}'")
    return Parameters(
        query.get("wait") == ["true"] if waits else None,
        ordering,
        consistency if factor is None else factor,
    )


def from_message(request: Any) -> Parameters:
    """Read a gRPC message."""
    fields = request.DESCRIPTOR.fields_by_name
    ordering = consistency = None
    if "ordering" in fields and request.HasField("ordering"):
        ordering = ORDERINGS[request.ordering.type]
    if "read_consistency" in fields and request.HasField("read_consistency"):
        given = request.read_consistency
        consistency = given.factor if given.WhichOneof("value") == "factor" else CONSISTENCIES[given.type]
        if consistency == 0:
            raise WireError(Refusal.WRONG_INPUT, "factor must be greater than 0")
    return Parameters(request.wait if "wait" in fields else None, ordering, consistency)


def _refused(what: str) -> WireError:
    return WireError(Refusal.BAD_QUERY, what)
