"""The cluster that the double reports: its peers, and where the shards of each collection lie.

All points lie in one engine; only the reports know of peers.
"""

import threading
from collections import Counter

from qdrant_client.http import models as m

FIRST_PEER = 5124336112009701
"""The number of the first peer: as large as a server's, which are random."""

_STEP = 1000003
_NOW = "2026-01-01T00:00:00Z"


class Cluster:
    """Peers and replicas. Safe to use from many threads."""

    def __init__(self, peers: int) -> None:
        """Report this many peers; one is a server without cluster mode."""
        self._enabled = peers > 1
        self._lock = threading.RLock()
        self.peers = [FIRST_PEER + number * _STEP for number in range(peers)]
        # By collection and shard: the peers that have a replica, and its state.
        self._replicas: dict[str, list[dict[int, m.ReplicaState]]] = {}

    def peer(self, node: int) -> int:
        """Return the peer that a connection's node is."""
        with self._lock:
            return self.peers[node % len(self.peers)]

    def status(self, node: int) -> m.ClusterStatusOneOf | m.ClusterStatusOneOf1:
        """Return the answer to GET /cluster."""
        if not self._enabled:
            return m.ClusterStatusOneOf(status="disabled")
        with self._lock:
            return m.ClusterStatusOneOf1(
                status="enabled",
                peer_id=self.peer(node),
                peers={
                    str(peer): m.PeerInfo(uri=f"http://qdrant-{number}:6335/")
                    for number, peer in enumerate(self.peers)
                },
                raft_info=m.RaftInfo(
                    term=1,
                    commit=10,
                    pending_operations=0,
                    leader=self.peers[0],
                    role=m.StateRole.FOLLOWER if node else m.StateRole.LEADER,
                    is_voter=True,
                ),
                consensus_thread_status=m.ConsensusThreadStatusOneOf(
                    consensus_thread_status="working", last_update=_NOW
                ),
                message_send_failures={},
            )

    def place(self, collection: str, shards: int, copies: int) -> None:
        """Give a new collection's shards to the peers that have the fewest."""
        with self._lock:
            load = Counter(dict.fromkeys(self.peers, 0))
            placed = []
            for _ in range(shards):
                chosen = sorted(self.peers, key=lambda peer: load[peer])[:copies]
                load.update(chosen)
                placed.append(dict.fromkeys(chosen, m.ReplicaState.ACTIVE))
            self._replicas[collection] = placed

    def forget(self, collection: str) -> None:
        """Forget a deleted collection."""
        with self._lock:
            self._replicas.pop(collection, None)

    def shards(self, node: int, collection: str, points: int) -> m.CollectionClusterInfo:
        """Return where a collection's shards are, as one node tells it; only the first shard holds points."""
        with self._lock:
            here = self.peer(node)
            replicas = self._replicas[collection]
            return m.CollectionClusterInfo(
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
                shard_transfers=[],
            )
