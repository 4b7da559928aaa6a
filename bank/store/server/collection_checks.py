"""What may be wrong with a server's cluster, with collections, and with the copies of their shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from qdrant_client import models

from latentbank.bank.check import Check, looked
from latentbank.bank.store.base import FEW
from latentbank.bank.store.names import split_collection, split_images, split_ledger
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.indexing import failure, waiting
from latentbank.bank.store.server.metadata import collection_names
from latentbank.text import count_text, listed

# Seconds that a node may take to answer another one.
_PATIENCE = 3


def cluster(server: Connection) -> Check:
    """Return what is seen of a server's cluster."""
    about = server.call(server.rest.cluster_status)
    if not isinstance(about, models.ClusterStatusOneOf1):
        return Check("cluster", "ok", "one server, no cluster: its backups are the only copies")
    nodes = f"{len(about.peers)} nodes"
    thread = about.consensus_thread_status
    if not isinstance(thread, models.ConsensusThreadStatusOneOf):
        return Check(
            "cluster",
            "wrong",
            f"{nodes}, but the one that answers no longer takes part",
            "Restart that node.",
        )
    if silent := _silent(server, about):
        return Check(
            "cluster",
            "wrong",
            f"{nodes}, of which {listed(silent)} does not answer",
            "Start that node again, or look at the network between the nodes.",
        )
    return Check("cluster", "ok", nodes)


def _silent(server: Connection, about: models.ClusterStatusOneOf1) -> list[str]:
    """Return the addresses of nodes that do not answer the one that was asked.

    Only the leader lists failures in its status, and a balancer may have chosen another node. That node asks all of
    them for their telemetry, for some seconds at most.
    """
    ask = partial(server.rest.http.distributed_api.cluster_telemetry, details_level=0, timeout=_PATIENCE)
    telemetry = server.call(ask).result
    peers = ((telemetry and telemetry.cluster and telemetry.cluster.peers) or {}).values()
    return sorted(
        {*(about.message_send_failures or ()), *(peer.uri for peer in peers if not peer.responsive)}
    )


def collections(server: Connection, bank: str | None) -> Iterator[Check]:
    """Yield the state of collections, and of the copies of their shards."""
    names = [name for name in collection_names(server) if belongs(name, bank)]
    yield from _states(server, [name for name in names if split_collection(name)])
    yield from looked("shards", partial(_shards, server, names))


def belongs(name: str, bank: str | None) -> bool:
    """Return whether a collection is part of a bank or of its images, by its stored name (None: of any bank)."""
    parts = split_collection(name)
    owner = parts[0] if parts else split_ledger(name)
    if owner is not None and (images := split_images(owner)):
        owner = images[0]
    return owner is not None and bank in (None, owner)


def _states(server: Connection, layers: Sequence[str]) -> Iterator[Check]:
    red: list[str] = []
    grey: list[str] = []
    slow: list[str] = []
    for name in layers:
        info = server.call(partial(server.rest.get_collection, name))
        if (why := failure(info)) is not None:
            red.append(f"{name} ({why})")
        elif info.status == models.CollectionStatus.GREY:
            grey.append(name)
        elif waiting(info) > FEW and info.status != models.CollectionStatus.YELLOW:
            slow.append(name)
    if red:
        yield Check(
            "collections",
            "wrong",
            f"a change or an index failed: {listed(red)}",
            "See the server's log, make room or restart it, then index the bank again.",
        )
    if grey:
        yield Check(
            "collections",
            "warning",
            f"not optimized since the server was restarted: {listed(grey)}",
            "Index the bank again; a server waits for a change after a restart.",
        )
    if slow:
        yield Check(
            "collections",
            "warning",
            f"not indexed, so searches are slow: {listed(slow)}",
            "Wait if a job is adding contexts, else index the bank again.",
        )
    if not (red or grey or slow):
        yield Check(
            "collections",
            "ok",
            f"{count_text(len(layers), 'layer')}, all indexed" if layers else "no layers yet",
        )


def _shards(server: Connection, names: Iterable[str]) -> Iterator[Check]:
    about = server.call(server.rest.cluster_status)
    alone = not isinstance(about, models.ClusterStatusOneOf1) or len(about.peers) < 2
    dead: list[str] = []
    moving: list[str] = []
    single: list[str] = []
    for name in names:
        info = server.call(partial(server.rest.collection_cluster_info, name))
        states: dict[int, list[models.ReplicaState]] = {number: [] for number in range(info.shard_count)}
        shards: list[models.LocalShardInfo | models.RemoteShardInfo] = [
            *info.local_shards,
            *info.remote_shards,
        ]
        for shard in shards:
            states.setdefault(shard.shard_id, []).append(shard.state)
        active = [of.count(models.ReplicaState.ACTIVE) for of in states.values()]
        if any(models.ReplicaState.DEAD in of for of in states.values()) or 0 in active:
            dead.append(name)
        elif info.shard_transfers or any(len(of) > active[n] for n, of in enumerate(states.values())):
            moving.append(name)
        elif min(active, default=2) < 2:
            single.append(name)
    if dead:
        yield Check(
            "shards",
            "wrong",
            f"copies are dead: {listed(dead)}",
            "Start the nodes that hold them again; they catch up by themselves.",
        )
    if moving:
        yield Check(
            "shards", "warning", f"copies are being made: {listed(moving)}", "Wait until they are complete."
        )
    if single and not alone:
        yield Check(
            "shards",
            "warning",
            f"there is no second copy: {listed(single)}",
            "Replicate the bank, so that no node can take contexts with it.",
        )
    if not (dead or moving or (single and not alone)):
        yield Check("shards", "ok", "every copy is active" if not alone else "all active")
