"""A connection to a server: requests with retries, over REST or, for bulk work, over gRPC."""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, TypeVar

import grpc
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.grpc import CollectionExistsRequest
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.settings import Settings
from latentbank.bank.store.server.retrying import call, refused, status, too_often
from latentbank.bank.token import LONGEST_KEY
from latentbank.errors import BankUnavailable

log = logging.getLogger("latentbank")
T = TypeVar("T")

OLDEST = "1.18"
"""The first Qdrant with everything that a layer collection needs."""

# gRPC's own limit of two minutes is longer than our retries after a server's restart.
_LONGEST_BACKOFF_MS = 5_000
# Seconds that a server's gRPC port may take to answer, when it is asked whether it is one.
_LONGEST_ANSWER = 5
# Seconds before a port that did not answer is asked again; doubles, up to the longest. Its node may only hang.
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0


class Connection:
    """The server that the settings name; a context manager.

    Attributes:
        settings: they name the server.
        url: its address.
        rest: the client for requests over REST.
    """

    def __init__(self, settings: Settings, bank: str = "") -> None:
        """Make the clients; nothing is sent yet.

        Args:
            settings: they name the server.
            bank: the bank that the connection is for, to name when it is used after it was closed.
        """
        self.settings = settings
        self._bank = bank
        self._closed = False
        self.url = settings.url
        self.rest = connect(settings, prefer_grpc=False)
        self._bulk: QdrantRemote | None = None
        self._more: dict[int, QdrantRemote] = {}
        self._ask_at, self._pause = 0.0, _FIRST_PAUSE
        self._guard = threading.Lock()

    def call(self, request: Callable[[], T]) -> T:
        """Send a request, with retries; see `retrying.call`.

        Raises:
            BankUnavailable: the connection is closed, or see `retrying.call`.
        """
        self.require_open()
        return call(request, self.url, self.settings.retries, self.settings.retry_wait)

    def bulk(self, collection: str, number: int = 0) -> QdrantRemote:
        """Return a client for bulk work: over gRPC, or REST while the server's gRPC port does not answer.

        Args:
            collection: a name to ask for, to find out; it need not exist.
            number: of the connection, each of which reaches a node of its own through a balancer. Over REST there is
                one client, which keeps as many connections as there are requests at once.
        """
        self.require_open()
        with self._guard:
            if self._bulk is None and time.monotonic() >= self._ask_at:
                self._bulk = self._grpc(collection)
            first = self._bulk or self.rest
            if number == 0 or first is self.rest:
                return first
            if number not in self._more:
                self._more[number] = connect(self.settings, prefer_grpc=True)
            return self._more[number]

    def _grpc(self, collection: str) -> QdrantRemote | None:
        """Return a client over gRPC, or over REST if that is wanted; None if the port does not answer now."""
        if not self.settings.prefer_grpc:
            return self.rest
        length = len(self.settings.key() or "")
        if length > LONGEST_KEY:
            log.warning(
                "%s: the key has %s characters and gRPC carries up to %s, bulk work goes over REST (slower); ask for a "
                "token with fewer banks or versions",
                self.url,
                f"{length:,}",
                f"{LONGEST_KEY:,}",
            )
            return self.rest
        client = connect(self.settings, prefer_grpc=True)
        request = CollectionExistsRequest(collection_name=collection)
        try:
            client.grpc_collections.CollectionExists(
                request, timeout=min(self.settings.timeout, _LONGEST_ANSWER)
            )
        except (grpc.RpcError, QdrantException) as error:
            # A refused key is an answer too, and so is "too many requests". Anything else means that this port is
            # closed, filtered or not gRPC's, or that its node hangs.
            if not (refused(error) or too_often(error)):
                client.close()
                self._leave_grpc(status(error))
                return None
        if self._pause > _FIRST_PAUSE:
            log.warning(
                "%s: gRPC on port %d answers, bulk work goes over it", self.url, self.settings.grpc_port
            )
        return client

    def _leave_grpc(self, why: str) -> None:
        """Leave bulk work to REST for some seconds."""
        if self._pause == _FIRST_PAUSE:
            log.warning(
                "%s: gRPC on port %d does not answer (%s), bulk work goes over REST (slower)",
                self.url,
                self.settings.grpc_port,
                why,
            )
        self._ask_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def require_open(self) -> None:
        """Raise BankUnavailable if the connection is closed."""
        if self._closed:
            what = f"The bank '{self._bank}'" if self._bank else f"The connection to {self.url}"
            raise BankUnavailable(f"{what} is closed; open it again.")

    def close(self) -> None:
        """Close the connections; requests are errors from now on."""
        self._closed = True
        self.rest.close()
        for client in (self._bulk, *self._more.values()):
            if client is not None and client is not self.rest:
                client.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_too_old(version: str) -> bool:
    """Return whether a server's version is older than a bank needs."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < tuple(map(int, OLDEST.split(".")))


@lru_cache
def warn_unencrypted(url: str) -> None:
    """Warn that the key can be read on its way to a server: once per process, which connects several times."""
    log.warning("%s: the API key is sent unencrypted; use https:// outside a trusted network", url)


def connect(settings: Settings, *, prefer_grpc: bool) -> QdrantRemote:
    """Return a client for the server that the settings name; nothing is sent yet.

    Raises:
        BankUnavailable: the file with the authority's certificate cannot be read.
    """
    key, secure = settings.key(), settings.url.startswith("https://")
    # By default all clients of a process share one connection to an address.
    options: dict[str, Any] = {
        "grpc.max_reconnect_backoff_ms": _LONGEST_BACKOFF_MS,
        "grpc.use_local_subchannel_pool": 1,
    }
    # Without TLS there is nothing to check, and reading the certificates of all public authorities costs time.
    verify: Any = secure
    if secure and settings.tls_ca is not None:
        try:
            options["root_certificates"] = settings.tls_ca.read_bytes()
            verify = ssl.create_default_context(cafile=settings.tls_ca)
        except OSError as error:
            raise BankUnavailable(
                f"The certificate file {settings.tls_ca} cannot be read ({error.strerror}); correct "
                "LATENTBANK_TLS_CA."
            ) from None
    if key is not None and not secure:
        warn_unencrypted(settings.url)
    # Not QdrantRemote's wrapper QdrantClient: it looks for texts to embed in every request, and copies each query
    # number by number to do so, which takes longer than the search.
    with warnings.catch_warnings():
        # The client gives the same warning in its own words, with a line of our source.
        warnings.simplefilter("ignore")
        return QdrantRemote(
            url=settings.url,
            port=6333,
            grpc_port=settings.grpc_port,
            prefer_grpc=prefer_grpc,
            api_key=key,
            timeout=settings.timeout,
            grpc_options=options,
            check_compatibility=False,
            verify=verify,
        )
