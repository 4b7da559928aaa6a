"""Snapshots of a server's layer collections, as files: everything a layer is, with its indexes, in one download."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.settings import Settings
from latentbank.bank.store.base import NoSnapshot
from latentbank.bank.store.server.retrying import call, refused
from latentbank.errors import BankUnavailable

# Bytes that are written at once.
_PART = 1 << 20
# How a server says that it gives no snapshot, whoever asks: it is not the node that has the shard, it does not know
# the path, or what stands in front of it does not let the request through.
_NEVER = (400, 404, 405, 501)


def save_snapshot(
    client: QdrantRemote, settings: Settings, collection: str, file: Path, told: Callable[[int], None]
) -> None:
    """Download a snapshot of a collection's only shard, made by the server while it is sent; nothing is left there.

    A stream has no length and cannot be continued: when the connection breaks, it begins anew.

    Args:
        client: connected to the server over REST.
        settings: that led to it.
        collection: its name, or an alias.
        file: the file to write.
        told: hears how many bytes have come.

    Raises:
        NoSnapshot: the server gives none, or none of the whole collection.
        BankUnavailable: it cannot be reached, or the file cannot be written.
    """
    shard = _only_shard(client, settings, collection)
    secure = settings.url.startswith("https://")
    verify: Any = ssl.create_default_context(cafile=settings.tls_ca) if secure and settings.tls_ca else secure
    key = settings.key()
    # Much of a snapshot is zeros: the engine makes its files longer than what is in them.
    headers = {"Accept-Encoding": "zstd"} | ({} if key is None else {"api-key": key})

    def fetch() -> None:
        path = f"{client.rest_uri}/collections/{collection}/shards/{shard}/snapshot"
        try:
            with (
                httpx.Client(verify=verify, headers=headers, timeout=settings.timeout) as http,
                http.stream("GET", path) as response,
            ):
                if response.status_code != 200:
                    response.read()
                    raise UnexpectedResponse.for_response(response)
                _write(response, file, told)
        except httpx.HTTPError as error:
            raise ResponseHandlingException(error) from error
        except UnexpectedResponse as error:
            raise _final(error, settings) from None

    call(fetch, settings.url, settings.retries, settings.retry_wait)


def _only_shard(client: QdrantRemote, settings: Settings, collection: str) -> int:
    """Give the number of the shard that holds the whole collection, on the node that answers."""

    def ask() -> models.CollectionClusterInfo:
        try:
            return client.collection_cluster_info(collection)
        except UnexpectedResponse as error:
            raise _final(error, settings) from None

    about = call(ask, settings.url, settings.retries, settings.retry_wait)
    if about.shard_count != 1:
        raise NoSnapshot(
            f"the collection {collection} has {about.shard_count} shards, and only one can be read"
        )
    sound = [one.shard_id for one in about.local_shards if one.state == models.ReplicaState.ACTIVE]
    if not sound or about.shard_transfers or about.resharding_operations:
        raise NoSnapshot(f"the node that answers has no shard of {collection} that is whole and at rest")
    return sound[0]


def _final(error: UnexpectedResponse, settings: Settings) -> Exception:
    """Tell an answer that will stay the same from one that may pass."""
    if refused(error):
        return NoSnapshot(f"the server {settings.url} gives snapshots only to keys that may write")
    if error.status_code in _NEVER:
        return NoSnapshot(
            f"the server {settings.url} gives no snapshot here (it answers {error.status_code})"
        )
    return error


def _write(response: httpx.Response, file: Path, told: Callable[[int], None]) -> None:
    try:
        with file.open("wb") as out:
            for part in response.iter_bytes(_PART):
                out.write(part)
                told(response.num_bytes_downloaded)
    except OSError as error:
        raise BankUnavailable(
            f"The snapshot cannot be written to {file} ({error.strerror}); make room and run the command again, it "
            "continues where it stopped."
        ) from None
