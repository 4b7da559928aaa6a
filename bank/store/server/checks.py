"""What may be wrong with a server: each look at one thing, for `Backend.checks`."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import grpc
from qdrant_client import models
from qdrant_client.grpc import HealthCheckRequest
from qdrant_client.http.exceptions import UnexpectedResponse

from latentbank.bank.check import Check, looked
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Machine
from latentbank.bank.store.names import split_collection
from latentbank.bank.store.server.client import OLDEST, Connection, connect, is_too_old
from latentbank.bank.store.server.collection_checks import belongs, cluster, collections
from latentbank.bank.store.server.metadata import collection_names
from latentbank.bank.store.server.retrying import refused, status
from latentbank.bank.token import LONGEST_KEY, claims_of
from latentbank.errors import BankUnavailable

# Seconds for one answer: whoever looks at a server's health does not wait for a busy one.
_PATIENCE = 10
# Days before the end of a certificate or token at which to renew it.
_SOON = 21
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Issues that are named; a server may list hundreds.
_MOST = 3


def server_checks(settings: Settings, bank: str | None) -> Iterator[Check]:
    """Yield what is seen of a server, and of a bank's collections there, by its stored name (None: of all banks)."""
    quick = {"retries": 0, "timeout": min(settings.timeout, _PATIENCE)}
    with Connection(settings.model_copy(update=quick)) as server:
        # Whatever one of these does not let pass, nothing behind it can be seen.
        for name, look in (("server", partial(_version, server)), ("TLS", partial(_tls, server.settings))):
            found = list(looked(name, look))
            yield from found
            if any(check.state == "wrong" for check in found):
                return
        yield from looked("gRPC", partial(_grpc, server))
        key = list(looked("key", partial(_key, server)))
        yield from key
        if any(check.state == "wrong" for check in key):
            return
        yield from looked("cluster", partial(cluster, server))
        yield from looked("collections", partial(collections, server, bank))
        yield from looked("issues", partial(_issues, server, bank))


def machine_of(settings: Settings, bank: str) -> Machine:
    """Return what the node has that answers, and how many copies a bank has, by its stored name.

    Raises:
        BankUnavailable: the key may not ask, or the server runs in recovery mode.
    """
    with Connection(settings.model_copy(update={"retries": 0})) as server:
        app = _get(server, "/telemetry", details_level=1)["app"]
        if (app.get("features") or {}).get("recovery_mode"):
            raise BankUnavailable(
                f"The server {server.url} runs in recovery mode, without its collections; see its log."
            )
        system = app.get("system") or {}
        about = server.call(server.rest.cluster_status)
        nodes = len(about.peers) if isinstance(about, models.ClusterStatusOneOf1) else 1
        ram, disk = (_bytes(system.get(name)) for name in ("ram_size", "disk_size"))
        layers = [name for name in collection_names(server) if belongs(name, bank) and split_collection(name)]
        params = [server.call(partial(server.rest.get_collection, name)).config.params for name in layers[:1]]
        return Machine(ram, disk, nodes, next((item.replication_factor or 1 for item in params), 1))


def _bytes(kibibytes: int | None) -> int | None:
    return None if kibibytes is None else kibibytes * 1024


def _get(server: Connection, path: str, **params: Any) -> Any:
    """Return a result as it came: what a server tells of itself changes with its version."""
    client = server.rest.http.service_api.api_client
    ask = partial(client.request, type_=dict[str, Any], method="GET", url=path, params=params)
    return server.call(ask)["result"]


def _version(server: Connection) -> Check:
    try:
        version = server.call(server.rest.info).version
    except BankUnavailable as error:
        if "cannot be trusted" in str(error):
            return _tls(server.settings)
        seen = str(error).partition("; ")[0]
        return Check("server", "wrong", seen, "Start the server, or correct LATENTBANK_URL.")
    seen = f"Qdrant {version} answers at {server.url}"
    if is_too_old(version):
        return Check("server", "wrong", seen, f"Update it: a bank needs {OLDEST} or newer.")
    return Check("server", "ok", seen)


def _grpc(server: Connection) -> Check:
    settings = server.settings
    if not settings.prefer_grpc:
        return Check("gRPC", "ok", "not used (LATENTBANK_PREFER_GRPC)")
    if (length := len(settings.key() or "")) > LONGEST_KEY:
        return Check(
            "gRPC",
            "warning",
            f"the key has {length:,} characters, and gRPC carries up to {LONGEST_KEY:,}",
            "Ask for a token with fewer banks or versions; meanwhile bulk work goes over REST, which is slower.",
        )
    with closing(connect(settings, prefer_grpc=True)) as client:
        try:
            client.grpc_root.HealthCheck(HealthCheckRequest(), timeout=settings.timeout)
        except grpc.RpcError as error:
            if not refused(error):
                return Check(
                    "gRPC",
                    "warning",
                    f"port {settings.grpc_port} does not answer ({status(error)})",
                    "Open that port from here to the server, or correct LATENTBANK_GRPC_PORT; meanwhile bulk work goes "
                    "over REST, which is slower.",
                )
    return Check("gRPC", "ok", f"port {settings.grpc_port} answers")


def _key(server: Connection) -> Check:
    key = server.settings.key()
    if _is_open(server):
        if _host(server.settings) in _LOOPBACK:
            return Check("key", "ok", "the server asks for none")
        return Check(
            "key",
            "warning",
            "the server asks for none",
            "Give it one (service.api_key): everybody who reaches it may delete its banks.",
        )
    if key is None:
        return Check(
            "key", "wrong", "the server asks for one", "Set LATENTBANK_API_KEY or LATENTBANK_API_KEY_FILE."
        )
    claims = claims_of(key)
    kind, until = ("the key", None) if claims is None else ("the token", claims.get("exp"))
    when = None if until is None else datetime.fromtimestamp(until, UTC)
    left = None if when is None else (when - datetime.now(UTC)).days
    if left is not None and left < 0:
        return Check("key", "wrong", f"the token ended on {when:%Y-%m-%d}", "Ask for a new token.")
    try:
        server.call(server.rest.get_collections)
    except BankUnavailable:
        return Check(
            "key", "wrong", f"the server refuses {kind}", "Set LATENTBANK_API_KEY to one that it knows."
        )
    seen = f"{kind} may {'read and write' if _may_write(server) else 'read'}"
    if when is not None:
        seen += f", until {when:%Y-%m-%d}"
    if left is not None and left < _SOON:
        return Check("key", "warning", seen, "Ask for a new token in time.")
    return Check("key", "ok", seen)


def _is_open(server: Connection) -> bool:
    """Return whether the server answers without a key."""
    without = server.settings.model_copy(update={"api_key": None, "api_key_file": None})
    with Connection(without) as stranger:
        try:
            stranger.rest.get_collections()
        except UnexpectedResponse as error:
            if refused(error):
                return False
            raise
    return True


def _may_write(server: Connection) -> bool:
    """Return whether the key may create and change collections; the request changes nothing."""
    try:
        server.rest.update_collection_aliases(change_aliases_operations=[])
    except UnexpectedResponse as error:
        if refused(error):
            return False
        raise
    return True


def _host(settings: Settings) -> str:
    return urlsplit(settings.url).hostname or ""


def _tls(settings: Settings) -> Check:
    parts = urlsplit(settings.url)
    if parts.scheme != "https":
        if _host(settings) in _LOOPBACK:
            return Check("TLS", "ok", "not used, to this machine itself")
        keyed = " with the key" if settings.key() is not None else ""
        return Check(
            "TLS", "warning", f"requests travel{keyed} unencrypted", "Use https:// outside a trusted network."
        )
    context = ssl.create_default_context(cafile=settings.tls_ca)
    address = (_host(settings), parts.port or 6333)
    try:
        with (
            socket.create_connection(address, timeout=settings.timeout) as plain,
            context.wrap_socket(plain, server_hostname=address[0]) as secure,
        ):
            certificate = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Check(
            "TLS",
            "wrong",
            f"the certificate cannot be trusted ({error.verify_message})",
            "Renew it, or set LATENTBANK_TLS_CA to the PEM file of the authority that signed it.",
        )
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    left = (end - datetime.now(UTC)).days
    seen = f"the certificate ends on {end:%Y-%m-%d}, in {left:,} days"
    if left < _SOON:
        return Check("TLS", "warning", seen, "Renew the certificate in time.")
    return Check("TLS", "ok", seen)


def _issues(server: Connection, bank: str | None) -> Iterator[Check]:
    """Yield what the server itself complains about."""
    found = _get(server, "/issues")["issues"]
    ours = [
        item
        for item in found
        if item.get("related_collection") is None or belongs(item["related_collection"], bank)
    ]
    for item in ours[:_MOST]:
        where = item.get("related_collection")
        yield Check(
            "issues",
            "warning",
            " ".join(str(item.get("description", "an issue without description")).split())[:300]
            + (f" ({where})" if where else ""),
            _solution(item.get("solution")),
        )
    if len(ours) > _MOST:
        yield Check("issues", "warning", f"{len(ours) - _MOST} more", "See the server's dashboard.")
    if not ours:
        yield Check("issues", "ok", "the server lists none")


def _solution(given: Any) -> str:
    """Return the first sentence of an issue's solution: a text, or requests with a message each."""
    found = next(iter(given.values()), "") if isinstance(given, dict) else given
    found = found[0] if isinstance(found, list) and found else found
    text = str(found.get("message", "")) if isinstance(found, dict) else str(found or "")
    return text.partition(". ")[0].rstrip(".") + "." if text else ""
