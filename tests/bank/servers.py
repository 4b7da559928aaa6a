"""Banks on doubles of a server, and every call that a store makes there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Store
from latentbank.bank.store.server.client import Connection
from latentbank.bank.where import Where
from tests.bank.samples import HEAD, WIDTH, entry, ids, points, put_entry, put_head, units
from tests.wire.double import QdrantDouble

KEY = "the-key-that-nobody-may-see"
ANIMALS = entry("animals", 40, updated="2026-01-01T00:00:00+00:00", version="0.1.0").to_dict()
# Starts a double with a QdrantDouble's arguments; see the fixture `double`.
Doubles = Callable[..., QdrantDouble]


_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Call:
    """One call of a store: `operation` names the request that faults strike, after skipping `after` of them."""

    operation: str
    do: Callable[[Store], Any]
    bulk: bool = False  # goes over gRPC if the settings prefer it
    writes: bool = False
    after: int = 0


CALLS = {
    "create": Call("create_collection", lambda s: s.create(8, WIDTH, "int8"), writes=True),
    "create: indexes": Call("create_index", lambda s: s.create(8, WIDTH, "int8"), writes=True, after=1),
    "create again": Call("delete_collection", lambda s: s.create(4, WIDTH + 1, "int8"), writes=True),
    # A new layer is not indexed yet, so there is nothing to change.
    "defer index": Call("get_collection", lambda s: s.defer_index(4, 100)),
    "index": Call("get_collection", lambda s: s.index(4), writes=True),
    "upsert": Call("upsert", lambda s: s.upsert(4, points(50, first=20)), bulk=True, writes=True, after=1),
    "search": Call("query", lambda s: s.search(4, units(3), 5, exact=True), bulk=True),
    "present": Call("retrieve", lambda s: s.present(4, ids(range(30, 50))), bulk=True, after=1),
    "payloads": Call("retrieve", lambda s: s.payloads(4, ids(range(30, 50))), bulk=True),
    "scroll": Call("scroll", lambda s: [p.id for p in s.scroll(4)], bulk=True, after=1),
    "count": Call("count", lambda s: s.count(4, Where(word="dog"))),
    "facet": Call("facet", lambda s: s.facet(4, "word")),
    "info": Call("get_collection", lambda s: s.info(4)),
    "layers": Call("list_collections", lambda s: s.layers()),
    "in use": Call("list_aliases", lambda s: s.in_use()),
    "manifest": Call("scroll", lambda s: s.read_manifest()),
    "head": Call("upsert", lambda s: put_head(s, HEAD | {"model": f"x/{next(_NUMBERS)}"}), writes=True),
    "entry": Call("upsert", lambda s: put_entry(s, "late", {"name": "late"}), writes=True),
    "no entry": Call("upsert", lambda s: put_entry(s, "animals", None), writes=True),
    "shares": Call("scroll", lambda s: s.read_shares("animals")),
    "share": Call("upsert", lambda s: s.write_shares("animals", {"0/2/done": {}}), writes=True),
    "delete corpus": Call("delete", lambda s: s.delete_corpus(4, "plants"), writes=True),
    "delete": Call("delete_collection", lambda s: s.delete(), writes=True),
}
# Every call over REST, and those that can also go over gRPC.
ROUTES = [(name, "rest") for name in CALLS] + [(name, "grpc") for name, call in CALLS.items() if call.bulk]


def settings(server: QdrantDouble, transport: str = "grpc", **changes: Any) -> Settings:
    """Settings for a double; `changes` are other settings."""
    given: dict[str, Any] = {
        "url": server.url,
        "grpc_port": server.grpc_port,
        "prefer_grpc": transport == "grpc",
        "tls_ca": server.ca_file,
        "timeout": 60,
        "retries": 4,
        "retry_wait": 0.001,
        "upload_batch": 16,
        "upload_connections": 1,
    }
    return load_settings(**{**given, **changes})


def opened(server: QdrantDouble, transport: str = "grpc") -> Store:
    """Open the bank that `filled` has made."""
    return backend(settings(server, transport)).open("bank")


def filled(server: QdrantDouble, name: str = "bank", **changes: Any) -> Store:
    """A bank with 40 contexts of `animals` and 20 of `plants` in layer 4."""
    store = backend(settings(server, **changes)).open(name)
    store.create(4, WIDTH, "int8")
    put_head(store, HEAD)
    put_entry(store, "animals", ANIMALS)
    for some in (points(40), points(20, "plants", seed=1)):
        store.upsert(4, some)
    return store


def make_old(server: QdrantDouble, name: str = "bank", **changes: Any) -> None:
    """Move a bank's manifest to metadata, where earlier versions kept it."""
    where = settings(server, **changes)
    with Connection(where) as connection:
        store = backend(where).open(name)
        head, entries = store.read_manifest() or ({}, {})
        lowest = f"{name}--L{store.layers()[0]:02d}"
        store.close()
        metadata = {"latentbank": dict(head), "latentbank-ledger": None}
        metadata |= {f"corpus/{corpus}": dict(entry) for corpus, entry in entries.items()}
        connection.rest.delete_collection(f"{name}--ledger")
        connection.rest.update_collection(lowest, metadata=metadata)
    server.settle()


def metadata_of(server: QdrantDouble, collection: str) -> dict[str, Any]:
    """Return a collection's metadata, past all nodes' lag."""
    return dict(server._engine.find(collection).config.metadata or {})


def used(server: QdrantDouble) -> dict[str, set[str]]:
    """Return the operations requested over each transport, except for the ledger, which is always over REST."""
    requests = [request for request in server.requests if not (request.collection or "").endswith("--ledger")]
    return {
        transport: {request.operation for request in requests if request.transport == transport}
        for transport in ("rest", "grpc")
    }


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "latentbank"]
