"""The nodes of a cluster, of which each connection reaches one, and what each of them does not know yet.

A server's changes to collections and aliases go through consensus. The node that was asked answers when it has applied
the change itself. Before it answers it waits for the others only after creating a collection, and after creating or
renaming an alias; other changes reach them a little later, in the order in which they were made. Points are different:
with wait=true they are seen at once everywhere.

Here "later" is counted in reads, so that no test depends on the clock: the first `lag` times that another node is asked
for what has changed, it answers with the old state. It does not matter how many changes came together.
"""

import itertools
import threading
from dataclasses import dataclass
from typing import Any

from qdrant_client.http import models as m

from tests.wire.engine import ELSEWHERE, Engine
from tests.wire.errors import WireError
from tests.wire.telemetry import Reports

LEAST = 3
"""Nodes behind the double's address, also if it reports no cluster: otherwise nothing could lag."""

_ALIASES = ("aliases", "")


@dataclass
class _Old:
    """A former state, and how often it is still shown."""

    state: Any
    left: int


class Nodes:
    """Applies requests on behalf of nodes. Safe to use from many threads."""

    def __init__(self, engine: Engine, reports: Reports, lag: int) -> None:
        """Answer from `engine`; each other node shows what a change has replaced `lag` times."""
        self._engine, self._reports, self._cluster, self._lag = engine, reports, reports.cluster, lag
        self._lock = threading.Lock()
        self._behind: list[dict[tuple[str, str], _Old]] = [
            {} for _ in range(max(LEAST, len(self._cluster.peers)))
        ]
        self._turns = itertools.count()
        self._by_peer: dict[str, int] = {}

    def join(self, peer: str | None = None) -> int:
        """Return the node that a new connection reaches, as a balancer gives them out: each in turn.

        `peer` names the other end if a transport tells only that; it then stays with its node.
        """
        with self._lock:
            if peer is None:
                return next(self._turns) % len(self._behind)
            if peer not in self._by_peer:
                self._by_peer[peer] = next(self._turns) % len(self._behind)
            return self._by_peer[peer]

    def settle(self) -> None:
        """Let every node know everything."""
        with self._lock:
            for behind in self._behind:
                behind.clear()

    def apply(self, node: int, operation: str, collection: str | None, body: Any) -> Any:
        """Do one operation on a node, as `Engine.apply` does it."""
        name = collection or ""
        match operation:
            case "create_collection":
                result = self._engine.apply(operation, name, body)
                self._cluster.place(name, body.shard_number or 1, body.replication_factor or 1)
                self.settle()
                return result
            case "update_aliases":
                return self._update_aliases(node, body)
            case "update_collection":
                found = self._engine.find(name)
                before = found.config
                result = self._engine.apply(operation, name, body)
                self._changed(node, ("config", self._engine.real_name(name)), before)
                return result
            case "delete_collection":
                return self._delete(node, name, body)
            case "get_collection" | "collection_exists":
                return self._look(node, operation, name, body)
            case "list_collections":
                there = self._engine.apply(operation, name, body).collections
                names = {item.name for item in there} | self._deleted(node)
                return m.CollectionsResponse(
                    collections=[m.CollectionDescription(name=item) for item in sorted(names)]
                )
            case "list_aliases":
                old = self._old(node, _ALIASES)
                return self._engine.apply(operation, name, body) if old is None else old
            case _ if operation in ELSEWHERE:
                return self._report(node, operation, name, body)
            case _:
                return self._engine.apply(operation, name, body)

    def _report(self, node: int, operation: str, name: str, body: Any) -> Any:
        match operation:
            case "cluster_status":
                return self._cluster.status(node)
            case "collection_cluster":
                points = self._engine.find(name).points()
                return self._cluster.shards(node, self._engine.real_name(name), points)
            case "update_cluster":
                self._engine.find(name)
                return self._cluster.update(self._engine.real_name(name), body)
            case "remove_peer":
                return self._cluster.remove(*body)
            case "cluster_telemetry":
                return self._cluster.telemetry()
            case "telemetry":
                return self._reports.telemetry(node, body)
            case "metrics":
                return self._reports.metrics()
            case "issues":
                return {"issues": self._reports.issues}
            case _:
                self._reports.issues.clear()
                return True

    # Changes

    def _update_aliases(self, node: int, body: m.ChangeAliasesOperation) -> Any:
        before = self._engine.apply("list_aliases", "", None)
        try:
            return self._engine.apply("update_aliases", "", body)
        finally:
            if all(isinstance(action, m.DeleteAliasOperation) for action in body.actions):
                self._changed(node, _ALIASES, before)
            else:
                self.settle()

    def _delete(self, node: int, name: str, body: Any) -> Any:
        try:
            before = self._engine.find(name).info()
        except WireError:
            before = None
        deleted = self._engine.apply("delete_collection", name, body)
        if deleted:
            self._changed(node, ("deleted", name), before)
            self._cluster.forget(name)
        return deleted

    def _changed(self, node: int, what: tuple[str, str], before: Any) -> None:
        """Note a change that a node has made: it knows everything before it, because changes are applied in order."""
        with self._lock:
            for other, behind in enumerate(self._behind):
                if other == node:
                    behind.clear()
                elif self._lag:
                    behind.setdefault(what, _Old(before, self._lag))

    # Reads

    def _look(self, node: int, operation: str, name: str, body: Any) -> Any:
        gone = self._old(node, ("deleted", name))
        if gone is not None:
            return m.CollectionExistence(exists=True) if operation == "collection_exists" else gone
        found = self._engine.apply(operation, name, body)
        if operation == "get_collection":
            old = self._old(node, ("config", self._engine.real_name(name)))
            return found if old is None else found.model_copy(update={"config": old})
        return found

    def _deleted(self, node: int) -> set[str]:
        """Return the collections that a node still lists; it does so once for each time it may."""
        with self._lock:
            names = [name for kind, name in self._behind[node] if kind == "deleted"]
        return {name for name in names if self._old(node, ("deleted", name)) is not None}

    def _old(self, node: int, what: tuple[str, str]) -> Any:
        """Return the former state that a node shows once more, or None if it knows better."""
        with self._lock:
            old = self._behind[node].get(what)
            if old is None:
                return None
            old.left -= 1
            if old.left <= 0:
                del self._behind[node][what]
            return old.state
