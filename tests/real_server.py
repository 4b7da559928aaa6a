"""A real Qdrant server in the double's place: `make test-server` names one by the variables below.

Tests there use collections whose names begin with a prefix of this run and this process; other collections are neither
seen nor touched, and these are removed before and after each test. Importing this module puts the prefix before the
names that latentbank makes, so child processes import it, too.
"""

from __future__ import annotations

import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from tests.wire.double import QdrantDouble

URL = os.environ.get("TEST_SERVER_URL", "")
"""Where the server is; empty: there is none, tests use doubles."""
KEY = os.environ.get("TEST_SERVER_KEY") or None
"""Its admin key."""
GRPC_PORT = int(os.environ.get("TEST_SERVER_GRPC_PORT") or 6334)
CA_FILE = os.environ.get("TEST_SERVER_CA") or None

FIXTURES = {"server", "shared", "one_server", "team", "remote"}
"""Fixtures that need a URL and an admin key alone."""
PLACES = {"grpc", "rest", "remote", "server"}
"""What the fixture `place` is called on a server."""
FOLDERS = ("bank/", "cli/", "ingest/")
DOUBLES_ALONE = {
    "inject",
    "requests",
    "faults_left",
    "clear_faults",
    "invalid_requests",
    "operations",
    "when",
    "stop",
    "start",
    "used",
    "double",
    "engine",
}
"""Names in the code of tests that order faults, restart the server, or look at recorded requests."""

_RUN = os.environ.setdefault("TEST_SERVER_RUN", uuid.uuid4().hex[:8])
PREFIX = f"test-{_RUN}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-" if URL else ""
"""What names of collections and aliases begin with, in this process and its children."""


def is_eligible(item: pytest.Item) -> bool:
    """Return whether a test can run on any server: it needs one, and neither faults nor recorded requests nor keys."""
    names = set(getattr(item, "fixturenames", ()))
    params = getattr(getattr(item, "callspec", None), "params", {})
    on_a_server = bool(FIXTURES & names) or params.get("place") in PLACES
    function = getattr(item, "function", None)
    return on_a_server and not DOUBLES_ALONE & (names | set(_names(getattr(function, "__code__", None))))


def _names(code: CodeType | None) -> Iterator[str]:
    """Yield the names of globals and attributes in a function, and in the functions inside it."""
    if code is not None:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _names(constant)


def environment() -> dict[str, str]:
    """Return the settings with which latentbank reaches the server, for the environment."""
    given = {"LATENTBANK_API_KEY": KEY, "LATENTBANK_TLS_CA": CA_FILE}
    return {name: value for name, value in given.items() if value} if URL else {}


@contextmanager
def serving() -> Iterator[QdrantDouble]:
    """Provide a server without keys of a test's own: a double, or the real one, which has a part of its interface.

    Requests to the double must conform to Qdrant's API.
    """
    if URL:
        server = RealServer()
        server.wipe()
        try:
            yield cast("QdrantDouble", server)
        finally:
            server.wipe()
        return
    from tests.wire.double import QdrantDouble

    with QdrantDouble() as double:
        yield double
        assert double.invalid_requests == []


class RealServer:
    """What a double and a real server have in common. A test that asks for more is skipped."""

    def __init__(self) -> None:
        """Use the server that the environment names."""
        self.url, self.grpc_port, self.ca_file, self.api_key = URL, GRPC_PORT, CA_FILE, KEY

    def __getattr__(self, name: str) -> Any:
        """Skip the test."""
        pytest.skip(f"only the double has `{name}`")

    def name(self, collection: str) -> str:
        """Return the name that a collection or alias really has."""
        return PREFIX + collection

    def points(self, collection: str) -> dict[int | str, tuple[np.ndarray, dict[str, Any]]]:
        """See `QdrantDouble`."""
        found, offset = {}, None
        while True:
            some, offset = self._client.scroll(
                self.name(collection), limit=1000, offset=offset, with_vectors=True, with_payload=True
            )
            for item in some:
                vector = np.asarray(item.vector or [], dtype=np.float32)
                found[cast("int | str", item.id)] = vector, item.payload or {}
            if offset is None:
                return found

    def put(
        self, collection: str, ids: Sequence[str], vectors: np.ndarray, payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `QdrantDouble`."""
        from qdrant_client import models

        rows = zip(ids, vectors.tolist(), map(dict, payloads), strict=True)
        points = [models.PointStruct(id=id_, vector=vector, payload=fields) for id_, vector, fields in rows]
        self._client.upsert(self.name(collection), points, wait=True)

    def remove(self, collection: str, ids: Sequence[Any]) -> None:
        """See `QdrantDouble`."""
        self._client.delete(self.name(collection), list(ids), wait=True)

    def delete(self, collection: str) -> None:
        """See `QdrantDouble`."""
        self._client.delete_collection(self.name(collection))

    def settle(self) -> None:
        """Do nothing: what a real server spreads late, it spreads."""

    def wipe(self) -> None:
        """Delete the collections of this run and process, and with them their aliases."""
        for collection in self._client.get_collections().collections:
            if collection.name.startswith(PREFIX):
                self._client.delete_collection(collection.name)

    @cached_property
    def _client(self) -> QdrantClient:
        import ssl

        from qdrant_client import QdrantClient

        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        verify: Any = ssl.create_default_context(cafile=CA_FILE) if URL.startswith("https:") else False
        return QdrantClient(url=URL, api_key=KEY, check_compatibility=False, verify=verify, timeout=60)


def _rename() -> None:
    """Let latentbank put the prefix before the names of collections, and see no others."""
    from latentbank.bank.store import names

    def made(function: Callable[..., str]) -> Callable[..., str]:
        return lambda *given: PREFIX + function(*given)

    as_it_was = dict(vars(names))

    def split(function: FunctionType) -> Callable[[str], Any]:
        whole = FunctionType(function.__code__, as_it_was)  # calls others that put no prefix before a name
        return lambda name: whole(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None

    for name, function in as_it_was.items():
        if name in ("collection_name", "ledger_name"):
            changed: Any = made(function)
        elif name.startswith("split_") and name != "split_images":  # that one is given names of stores
            changed = split(function)
        else:
            continue
        # Also where it was imported already.
        for module in list(sys.modules.values()):
            if vars(module).get(name) is function:
                setattr(module, name, changed)


if URL:
    os.environ.update(environment())
    _rename()
