"""Snapshots of a server's layer collections as files: a whole layer with its indexes in one download."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from latentbank.bank.store.base import NoSnapshot
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.retrying import refused
from latentbank.errors import BankUnavailable

# Bytes that are written at once.
_PART = 1 << 20
# Answers of a server that provides no snapshots at all: it is not the node that has the shard, it does not know the
# path, or a proxy in front of it does not pass the request on.
_NEVER = (400, 404, 405, 501)


def save_snapshot(server: Connection, collection: str, file: Path, report: Callable[[int], None]) -> None:
    """Download a snapshot of a collection's only shard; the server makes it while it is sent, and keeps nothing.

    A stream has no length and cannot be resumed: when the connection breaks, it starts again.

    Args:
        server: the server.
        collection: its name, or an alias.
        file: the file to write.
        report: called with the number of bytes received so far.

    Raises:
        NoSnapshot: the server provides none, or none of the whole collection.
        BankUnavailable: the server cannot be reached, or the file cannot be written.
    """
    settings = server.settings
    shard = _only_shard(server, collection)
    secure = settings.url.startswith("https://")
    verify: Any = ssl.create_default_context(cafile=settings.tls_ca) if secure and settings.tls_ca else secure
    key = settings.key()
    # Much of a snapshot is zeros: the engine makes its files longer than their content.
    headers = {"Accept-Encoding": "zstd"} | ({} if key is None else {"api-key": key})

    def fetch() -> None:
        path = f"{server.rest.rest_uri}/collections/{collection}/shards/{shard}/snapshot"
        try:
            with (
                httpx.Client(verify=verify, headers=headers, timeout=settings.timeout) as http,
                http.stream("GET", path) as response,
            ):
                if response.status_code != 200:
                    response.read()
                    raise UnexpectedResponse.for_response(response)
                _write(response, file, report)
        except httpx.HTTPError as error:
            raise ResponseHandlingException(error) from error
        except UnexpectedResponse as error:
            raise _final(error, server.url) from None

    server.call(fetch)


def _only_shard(server: Connection, collection: str) -> int:
    """Return the number of the shard that holds the whole collection, on the node that answers."""

    def ask() -> models.CollectionClusterInfo:
        try:
            return server.rest.collection_cluster_info(collection)
        except UnexpectedResponse as error:
            raise _final(error, server.url) from None

    about = server.call(ask)
    if about.shard_count != 1:
        raise NoSnapshot(
            f"the collection {collection} has {about.shard_count} shards, and only one can be read"
        )
    sound = [shard.shard_id for shard in about.local_shards if shard.state == models.ReplicaState.ACTIVE]
    if not sound or about.shard_transfers or about.resharding_operations:
        raise NoSnapshot(
            f"the node that answers has no shard of {collection} that is complete and not in transfer"
        )
    return sound[0]


def _final(error: UnexpectedResponse, url: str) -> Exception:
    """Return the error to raise for an answer: NoSnapshot if it will stay the same, itself if it may pass."""
    if refused(error):
        return NoSnapshot(f"the server {url} gives snapshots only to keys that may write")
    if error.status_code in _NEVER:
        return NoSnapshot(f"the server {url} gives no snapshot here (it answers {error.status_code})")
    return error


def _write(response: httpx.Response, file: Path, report: Callable[[int], None]) -> None:
    try:
        with file.open("wb") as out:
            for part in response.iter_bytes(_PART):
                out.write(part)
                report(response.num_bytes_downloaded)
    except OSError as error:
        raise BankUnavailable(
            f"The snapshot cannot be written to {file} ({error.strerror}); make room and run the command again, it "
            "continues where it stopped."
        ) from None
