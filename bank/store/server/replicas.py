"""Copies of a bank's shards on the nodes of a cluster: made where they are missing, moved where nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from urllib.parse import urlsplit

from qdrant_client import models

from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Replicated
from latentbank.bank.store.names import ledger_name, split_collection
from latentbank.bank.store.placement import Shard, Step, steps
from latentbank.bank.store.server.client import Connection
from latentbank.errors import BankUnavailable, QueryError
from latentbank.text import listed

# Seconds between looks at a copy that is being made.
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
# Looks at which a copy that was ordered may be neither under way nor there: other nodes hear of it later.
_PATIENCE = 10


def replicate(
    server: Connection,
    banks: Sequence[str],
    copies: int | None,
    leaving: str | None,
    report: Callable[[int, int], None],
) -> list[Replicated]:
    """Make copies of banks' shards; see `Backend.replicate`."""
    cluster = Cluster(server)
    gone = cluster.node(leaving) if leaving is not None else None
    names = [item.name for item in server.call(server.rest.get_collections).collections]
    layers = [name for name in names if (parts := split_collection(name)) and parts[0] in banks]
    ledgers = [name for name in names if name in map(ledger_name, banks)]
    staying = [node for node in cluster.nodes if node != gone]
    if not staying:
        raise BankUnavailable(
            f"The node {leaving} is the only one of the cluster; let another one join first."
        )
    before = {name: cluster.shards(name) for name in (*layers, *ledgers)}
    wanted = {name: cluster.keep(name, copies, server.settings) for name in layers}
    planned = _planned(before, layers, ledgers, wanted, cluster.nodes, gone)
    # A ledger's writes must reach most of its copies, also while their number changes.
    for name in ledgers:
        cluster.keep_ledger(
            name, len(staying), most=max(len(staying), len(before[name][0].replicas)) // 2 + 1
        )
    for done, step in enumerate(planned):
        report(done, len(planned))
        (cluster.drop if step.drop else cluster.copy)(step)
    report(len(planned), len(planned))
    for name in ledgers:
        cluster.keep_ledger(name, len(staying), most=len(staying) // 2 + 1)
    return [
        Replicated(
            collection=name,
            copies=min(len(shard.readable) for shard in cluster.shards(name)),
            made=sum(step.collection == name and not step.drop for step in planned),
            removed=sum(step.collection == name and step.drop for step in planned),
        )
        for name in before
    ]


def _planned(
    before: dict[str, list[Shard]],
    layers: Sequence[str],
    ledgers: Sequence[str],
    wanted: dict[str, int],
    nodes: Sequence[int],
    gone: int | None,
) -> list[Step]:
    """Return the steps: of each number of copies, the layers share the nodes; a ledger is on every node."""
    found: list[Step] = []
    for name in ledgers:
        found += steps(before[name], nodes, len(nodes), gone)
    for copies in sorted(set(wanted.values())):
        shards = [shard for name in layers if wanted[name] == copies for shard in before[name]]
        found += steps(shards, nodes, copies, gone)
    return found


class Cluster:
    """The nodes of a cluster, and what they hold.

    Attributes:
        nodes: their numbers.
    """

    def __init__(self, server: Connection) -> None:
        """Ask the server for its nodes.

        Raises:
            BankUnavailable: it is no cluster.
        """
        self._server = server
        status = server.call(server.rest.cluster_status)
        if not isinstance(status, models.ClusterStatusOneOf1):
            raise BankUnavailable(
                f"The server {server.url} runs alone, not as part of a cluster; start it with cluster.enabled, let "
                "other nodes join, then run the command again."
            )
        self._uris = {int(number): peer.uri for number, peer in status.peers.items()}
        self.nodes = sorted(self._uris)

    def node(self, name: str) -> int:
        """Return the number of the node of a name: its number, or the name of its host.

        Raises:
            QueryError: there is none, or several have that name.
        """
        hosts = {number: urlsplit(uri).hostname or "" for number, uri in self._uris.items()}
        found = [
            number for number, host in hosts.items() if name in (str(number), host, host.partition(".")[0])
        ]
        if len(found) == 1:
            return found[0]
        known = listed([f"{host} ({number})" for number, host in hosts.items()])
        raise QueryError(f"The cluster has no node '{name}'; it has {known}.", argument="leaving")

    def shards(self, collection: str) -> list[Shard]:
        """Return a collection's shards.

        Raises:
            BankUnavailable: one of them has no copy that can be read.
        """
        info = self._server.call(partial(self._server.rest.collection_cluster_info, collection))
        replicas: dict[int, dict[int, bool]] = {number: {} for number in range(info.shard_count)}
        active = models.ReplicaState.ACTIVE
        for local in info.local_shards:
            replicas.setdefault(local.shard_id, {})[info.peer_id] = local.state is active
        for remote in info.remote_shards:
            replicas.setdefault(remote.shard_id, {})[remote.peer_id] = remote.state is active
        shards = [
            Shard(
                collection,
                number,
                of,
                frozenset(item.to for item in info.shard_transfers if item.shard_id == number),
            )
            for number, of in sorted(replicas.items())
        ]
        for shard in shards:
            if not shard.readable:
                raise BankUnavailable(
                    f"No copy of shard {shard.number} of {collection} can be read; bring its nodes back, then run the "
                    "command again."
                )
        return shards

    def keep(self, collection: str, copies: int | None, settings: Settings) -> int:
        """Let a collection have at least so many copies, and return their number; None: as many as it was made with."""
        params = self._server.call(partial(self._server.rest.get_collection, collection)).config.params
        before = (params.replication_factor or 1, params.write_consistency_factor or 1)
        number = max(before[0], copies or 1)
        written = before[1] if copies is None else max(before[1], settings.write_consistency_factor)
        self._set(collection, before, (number, min(written, number)))
        return number

    def keep_ledger(self, collection: str, copies: int, *, most: int) -> None:
        """Let a ledger have `copies` copies, of which a write must reach `most`."""
        params = self._server.call(partial(self._server.rest.get_collection, collection)).config.params
        before = (params.replication_factor or 1, params.write_consistency_factor or 1)
        self._set(collection, before, (copies, most))

    def _set(self, collection: str, before: tuple[int, int], after: tuple[int, int]) -> None:
        if before == after:
            return
        changed = models.CollectionParamsDiff(replication_factor=after[0], write_consistency_factor=after[1])
        self._server.call(partial(self._server.rest.update_collection, collection, collection_params=changed))

    def copy(self, step: Step) -> None:
        """Make a copy of a shard on a node, and wait until it can be read; one that is on its way is waited for.

        Raises:
            BankUnavailable: the copy was not completed.
        """
        ordered, missed = False, 0
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            shard = self.shards(step.collection)[step.shard]
            if step.node in shard.readable:
                return
            if shard.copied_to:
                missed = 0
            elif not ordered:
                self._order(shard, step.node)
                ordered = True
            else:
                missed += 1
            if missed > _PATIENCE:
                raise BankUnavailable(
                    f"Shard {step.shard} of {step.collection} was not copied to {self._uris[step.node]}: see the log "
                    "of that node, and whether its disk has room, then run the command again; it continues."
                )
            time.sleep(pause)

    def _order(self, shard: Shard, node: int) -> None:
        replicate = models.ReplicateShard(
            shard_id=shard.number, from_peer_id=shard.readable[0], to_peer_id=node
        )

        def ordered() -> bool:
            now = self.shards(shard.collection)[shard.number]
            return bool(now.copied_to) or node in now.readable

        self._update(shard.collection, models.ReplicateShardOperation(replicate_shard=replicate), ordered)

    def drop(self, step: Step) -> None:
        """Remove the copy of a shard from a node, unless it is the last that can be read (which the server refuses)."""
        replica = models.Replica(shard_id=step.shard, peer_id=step.node)
        operation = models.DropReplicaOperation(drop_replica=replica)
        self._update(
            step.collection,
            operation,
            lambda: step.node not in self.shards(step.collection)[step.shard].replicas,
        )

    def _update(self, collection: str, operation: models.ClusterOperations, done: Callable[[], bool]) -> None:
        try:
            self._server.call(partial(self._server.rest.cluster_collection_update, collection, operation))
        except BankUnavailable:
            # The answer to an earlier try may have been lost; the server refuses a second one.
            if not done():
                raise
