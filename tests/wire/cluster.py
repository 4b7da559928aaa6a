"""The cluster that the double reports: its peers, and where the replicas of each collection's shards lie.

All points lie in one engine; only the reports know of peers. A transfer is under way until it was reported once.
"""

import threading
from collections import Counter
from dataclasses import dataclass

from qdrant_client.http import models as m

from tests.wire.errors import Refusal, WireError, not_spoken

FIRST_PEER = 5124336112009701
"""The number of the first peer: as large as a server's, which are random."""

_STEP = 1000003
_NOW = "2026-01-01T00:00:00Z"

# By shard: the peers that have a replica, and its state.
Replicas = list[dict[int, m.ReplicaState]]


@dataclass(frozen=True)
class Transfer:
    """A replica on its way; with `sync` the source keeps its own."""

    shard: int
    source: int
    target: int
    sync: bool


class Cluster:
    """Peers and replicas. Safe to use from many threads."""

    def __init__(self, peers: int) -> None:
        """Report this many peers; one is a server without cluster mode."""
        self._enabled = peers > 1
        self._lock = threading.RLock()
        self._uris = {FIRST_PEER + number * _STEP: f"http://qdrant-{number}:6335/" for number in range(peers)}
        self._replicas: dict[str, Replicas] = {}
        self._transfers: dict[str, list[Transfer]] = {}
        self._silent: set[int] = set()

    @property
    def enabled(self) -> bool:
        """Whether there is a cluster."""
        return self._enabled

    @property
    def peers(self) -> list[int]:
        """The numbers of the peers, in the order in which they joined."""
        with self._lock:
            return list(self._uris)

    def peer(self, node: int) -> int:
        """Return the peer that a connection's node is."""
        peers = self.peers
        return peers[node % len(peers)]

    def status(self, node: int) -> m.ClusterStatusOneOf | m.ClusterStatusOneOf1:
        """Return the answer to GET /cluster."""
        if not self._enabled:
            return m.ClusterStatusOneOf(status="disabled")
        with self._lock:
            here = self.peer(node)
            leader = next(iter(self._uris))
            return m.ClusterStatusOneOf1(
                status="enabled",
                peer_id=here,
                peers={str(peer): m.PeerInfo(uri=uri) for peer, uri in self._uris.items()},
                raft_info=m.RaftInfo(
                    term=1,
                    commit=10,
                    pending_operations=0,
                    leader=leader,
                    role=m.StateRole.LEADER if here == leader else m.StateRole.FOLLOWER,
                    is_voter=True,
                ),
                consensus_thread_status=m.ConsensusThreadStatusOneOf(
                    consensus_thread_status="working", last_update=_NOW
                ),
                message_send_failures=self._failures() if here == leader else {},
            )

    def telemetry(self) -> m.DistributedTelemetryData:
        """Return the answer to GET /cluster/telemetry, for which the node that was asked asks all others."""
        with self._lock:
            return m.DistributedTelemetryData(
                collections={},
                cluster=m.DistributedClusterTelemetry(
                    enabled=self._enabled,
                    number_of_peers=len(self._uris),
                    peers={
                        str(peer): m.DistributedPeerInfo(uri=uri, responsive=peer not in self._silent)
                        for peer, uri in self._uris.items()
                    },
                ),
            )

    def _failures(self) -> dict[str, m.MessageSendErrors]:
        errors = m.MessageSendErrors(count=33, latest_error="transport error", latest_error_timestamp=_NOW)
        return {self._uris[peer]: errors for peer in self._silent}

    # What tests order

    def join(self) -> int:
        """Let another peer join, without any shards; returns its number."""
        with self._lock:
            number = (max(self._uris) - FIRST_PEER) // _STEP + 1
            peer = FIRST_PEER + number * _STEP
            self._uris[peer] = f"http://qdrant-{number}:6335/"
            self._enabled = True
            return peer

    def silence(self, *peers: int) -> None:
        """Let these peers, and no others, leave the rest without an answer. Their replicas stay as they are.

        A replica is marked as dead only when a write does not reach it.
        """
        with self._lock:
            self._silent = set(peers)

    def set_state(self, collection: str, shard: int, peer: int, state: m.ReplicaState) -> None:
        """Set the state of a replica, such as DEAD."""
        with self._lock:
            self._replicas[collection][shard][peer] = state

    def replicas(self, collection: str) -> Replicas:
        """Return the peers and states of each shard's replicas."""
        with self._lock:
            return [dict(of) for of in self._replicas[collection]]

    # Collections

    def place(self, collection: str, shards: int, copies: int) -> None:
        """Give a new collection's shards to the peers that have the fewest."""
        with self._lock:
            load = Counter(dict.fromkeys(self._uris, 0))
            placed: Replicas = []
            for _ in range(shards):
                chosen = sorted(self._uris, key=lambda peer: load[peer])[:copies]
                load.update(chosen)
                placed.append(dict.fromkeys(chosen, m.ReplicaState.ACTIVE))
            self._replicas[collection] = placed
            self._transfers[collection] = []

    def forget(self, collection: str) -> None:
        """Forget a deleted collection."""
        with self._lock:
            self._replicas.pop(collection, None)
            self._transfers.pop(collection, None)

    def shards(self, node: int, collection: str, points: int) -> m.CollectionClusterInfo:
        """Return where a collection's shards are, as one node tells it; only the first shard holds points."""
        with self._lock:
            here, replicas = self.peer(node), self._replicas[collection]
            report = m.CollectionClusterInfo(
                peer_id=here,
                shard_count=len(replicas),
                local_shards=[
                    m.LocalShardInfo(shard_id=number, points_count=0 if number else points, state=of[here])
                    for number, of in enumerate(replicas)
                    if here in of
                ],
                remote_shards=[
                    m.RemoteShardInfo(shard_id=number, peer_id=peer, state=state)
                    for number, of in enumerate(replicas)
                    for peer, state in of.items()
                    if peer != here
                ],
                shard_transfers=[
                    m.ShardTransferInfo(
                        **{"from": item.source}, shard_id=item.shard, to=item.target, sync=item.sync
                    )
                    for item in self._transfers[collection]
                ],
            )
            self._finish(collection)
            return report

    # Changes

    def update(self, collection: str, body: m.ClusterOperations) -> bool:
        """Move, replicate or drop a replica, or abort a transfer; raises WireError where a server refuses."""
        if not self._enabled:
            raise _bad("Distributed mode disabled")
        with self._lock:
            match body:
                case m.ReplicateShardOperation(replicate_shard=given):
                    self._start(collection, given, sync=True)
                case m.MoveShardOperation(move_shard=given):
                    self._start(collection, given, sync=False)
                case m.DropReplicaOperation(drop_replica=replica):
                    self._drop(collection, replica.shard_id, replica.peer_id)
                case m.AbortTransferOperation(abort_transfer=key):
                    self._abort(collection, key)
                case _:
                    raise not_spoken(f"changing a cluster by {type(body).__name__}")
        return True

    def remove(self, peer: int, force: bool) -> bool:
        """Remove a peer from the cluster; with `force` also one that has replicas, which are lost."""
        with self._lock:
            if not force and any(peer in of for replicas in self._replicas.values() for of in replicas):
                raise _bad(f"Cannot remove peer {peer} as there are shards on it")
            if not self._enabled:
                raise _bad("Distributed mode disabled.")
            self._require(peer)
            del self._uris[peer]
            for replicas in self._replicas.values():
                for of in replicas:
                    of.pop(peer, None)
        return True

    def _start(self, collection: str, given: m.ReplicateShard | m.MoveShard, sync: bool) -> None:
        if given.from_peer_id == given.to_peer_id:
            raise WireError(Refusal.INVALID, "to_peer_id: cannot be the same as from_peer_id")
        of = self._shard(collection, given.shard_id)
        self._require(given.to_peer_id)
        self._require(given.from_peer_id)
        if of.get(given.from_peer_id) is not m.ReplicaState.ACTIVE:
            raise _bad(f"Shard {given.shard_id} is not active on peer {given.from_peer_id}")
        busy = next((item for item in self._transfers[collection] if item.shard == given.shard_id), None)
        if busy:
            raise _bad(
                f"Shard {given.shard_id} is already involved in transfer {busy.source} -> {busy.target}"
            )
        of[given.to_peer_id] = m.ReplicaState.PARTIAL
        transfer = Transfer(given.shard_id, given.from_peer_id, given.to_peer_id, sync)
        self._transfers[collection].append(transfer)

    def _finish(self, collection: str) -> None:
        """Finish the transfers under way."""
        for item in self._transfers[collection]:
            of = self._replicas[collection][item.shard]
            of[item.target] = m.ReplicaState.ACTIVE
            if not item.sync:
                del of[item.source]
        self._transfers[collection] = []

    def _abort(self, collection: str, key: m.AbortShardTransfer) -> None:
        wanted = (key.shard_id, key.from_peer_id, key.to_peer_id)
        for item in self._transfers[collection]:
            if (item.shard, item.source, item.target) == wanted:
                self._transfers[collection].remove(item)
                del self._replicas[collection][item.shard][item.target]
                return
        raise WireError(
            Refusal.NOT_FOUND,
            f"Shard transfer {key.from_peer_id} -> {key.to_peer_id} for collection {collection}:{key.shard_id} "
            "does not exist",
        )

    def _drop(self, collection: str, shard: int, peer: int) -> None:
        of = self._shard(collection, shard)
        self._require(peer)
        if peer not in of:
            raise _bad(f"Peer {peer} has no replica of shard {shard}")
        if not any(state is m.ReplicaState.ACTIVE and other != peer for other, state in of.items()):
            raise _bad(f"Shard {shard} must have at least one active replica after removing {peer}")
        del of[peer]
        self._transfers[collection] = [
            item
            for item in self._transfers[collection]
            if item.shard != shard or peer not in (item.source, item.target)
        ]

    def _shard(self, collection: str, shard: int) -> dict[int, m.ReplicaState]:
        if not 0 <= shard < len(self._replicas[collection]):
            raise _bad(f"Shard {shard} of {collection} does not exist")
        return self._replicas[collection][shard]

    def _require(self, peer: int) -> None:
        if peer not in self._uris:
            raise _bad(f"Peer {peer} does not exist")


def _bad(what: str) -> WireError:
    return WireError(Refusal.BAD_REQUEST, what)
