"""The double's database: collections and aliases. Requests and answers are the client's REST models."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qdrant_client.http import models as m

from tests.wire.collection import Collection, Upsert
from tests.wire.errors import Refusal, WireError, wrong

VERSION = "1.18.2"
"""The server version that the double claims: the one whose behaviour it copies."""

ELSEWHERE = frozenset(
    {
        "cluster_status",
        "collection_cluster",
        "update_cluster",
        "remove_peer",
        "cluster_telemetry",
        "telemetry",
        "metrics",
        "issues",
        "clear_issues",
    }
)
"""Operations that `Nodes` answers without the engine."""


def version() -> str:
    """Return the version that the server claims now."""
    return VERSION


class Engine:
    """All collections, each with its own lock; safe to use from many threads."""

    def __init__(self, directory: Path) -> None:
        """Keep the collections' files in `directory`."""
        self._directory = directory
        self._lock = threading.RLock()
        self._collections: dict[str, Collection] = {}
        self._aliases: dict[str, str] = {}
        self._numbers = itertools.count()
        self._handlers: dict[str, Callable[[str, Any], Any]] = {
            "version": lambda _, __: m.VersionInfo(title="qdrant - vector search engine", version=VERSION),
            "health": lambda _, __: None,
            "create_collection": self._create_collection,
            "get_collection": lambda name, _: self.find(name).info(),
            "collection_exists": lambda name, _: m.CollectionExistence(exists=self._exists(name)),
            "list_collections": lambda _, __: self._list_collections(),
            "update_collection": self._update_collection,
            "delete_collection": lambda name, _: self._delete_collection(name),
            "update_aliases": lambda _, body: self._update_aliases(body),
            "list_aliases": lambda _, __: self._list_aliases(None),
            "collection_aliases": lambda name, _: self._list_aliases(name),
            "shard_snapshot": lambda name, shard: self.find(name).snapshot(shard),
            "create_index": lambda name, body: self._write(self.find(name).create_index, body),
            "upsert": lambda name, body: self._write(self.find(name).upsert, body),
            "delete": lambda name, body: self._write(self.find(name).delete, body),
            "retrieve": lambda name, body: self.find(name).retrieve(body),
            "scroll": lambda name, body: self.find(name).scroll(body),
            "count": lambda name, body: self.find(name).count(body),
            "facet": lambda name, body: self.find(name).facet(body),
            "query": lambda name, body: self.find(name).query([body])[0],
            "query_groups": lambda name, body: self.find(name).query_groups(body),
            "query_batch": lambda name, body: self.find(name).query(body.searches),
        }

    @property
    def operations(self) -> frozenset[str]:
        """The names of all operations, also those that `Nodes` answers alone."""
        return frozenset(self._handlers) | ELSEWHERE

    def apply(self, operation: str, collection: str | None, body: Any) -> Any:
        """Do one operation and return its result model; raises WireError where the server would refuse."""
        return self._handlers[operation](collection or "", body)

    def all(self) -> dict[str, Collection]:
        """Every collection by its name."""
        with self._lock:
            return dict(sorted(self._collections.items()))

    def real_name(self, name: str) -> str:
        """The name of the collection that an alias stands for; another name stands for itself."""
        with self._lock:
            return self._aliases.get(name, name)

    def find(self, name: str) -> Collection:
        """The collection of this name or alias."""
        with self._lock:
            found = self._collections.get(self._aliases.get(name, name))
        if found is None:
            raise WireError(Refusal.NOT_FOUND, f"Collection `{name}` doesn't exist!")
        return found

    def open(self) -> None:
        """Load every collection from disk."""
        for collection in self._collections.values():
            collection.open()

    def close(self) -> None:
        """Close every collection; names, aliases and configuration stay known."""
        for collection in self._collections.values():
            collection.close()

    def wipe(self) -> None:
        """Remove everything."""
        with self._lock:
            for collection in self._collections.values():
                collection.remove()
            self._collections.clear()
            self._aliases.clear()

    # Collections

    def _exists(self, name: str) -> bool:
        with self._lock:
            return self._aliases.get(name, name) in self._collections

    def _list_collections(self) -> m.CollectionsResponse:
        with self._lock:
            return m.CollectionsResponse(
                collections=[m.CollectionDescription(name=name) for name in sorted(self._collections)]
            )

    def _create_collection(self, name: str, body: m.CreateCollection) -> bool:
        with self._lock:
            if self._exists(name):
                raise WireError(Refusal.EXISTS, f"Collection `{name}` already exists!")
            # Folders are numbered, because a name may not be a valid file name and can be used again.
            directory = self._directory / str(next(self._numbers))
            self._collections[name] = Collection(directory, body)
            return True

    def _update_collection(self, name: str, body: m.UpdateCollection) -> bool:
        self.find(name).update(body)
        return True

    def _delete_collection(self, name: str) -> bool:
        with self._lock:
            collection = self._collections.pop(name, None)
            if collection is None:
                return False
            self._aliases = {alias: of for alias, of in self._aliases.items() if of != name}
            collection.remove()
            return True

    def _write(self, change: Callable[[Any], None], body: Any) -> m.UpdateResult:
        change(body)
        return m.UpdateResult(operation_id=next(self._numbers), status=m.UpdateStatus.COMPLETED)

    # Aliases

    def _list_aliases(self, collection: str | None) -> m.CollectionsAliasesResponse:
        with self._lock:
            if collection is not None:
                self.find(collection)
            return m.CollectionsAliasesResponse(
                aliases=[
                    m.AliasDescription(alias_name=alias, collection_name=of)
                    for alias, of in sorted(self._aliases.items())
                    if collection in (None, of)
                ]
            )

    def _update_aliases(self, body: m.ChangeAliasesOperation) -> bool:
        """Apply the actions one by one, without a request between them; what comes before a refused one stays."""
        with self._lock:
            for action in body.actions:
                self._change(self._aliases, action)
            return True

    def _change(self, aliases: dict[str, str], action: m.AliasOperations) -> None:
        match action:
            case m.CreateAliasOperation(create_alias=create):
                if create.collection_name not in self._collections:
                    raise WireError(
                        Refusal.NOT_FOUND, f"Collection `{create.collection_name}` doesn't exist!"
                    )
                self._refuse_taken(create.alias_name)
                aliases[create.alias_name] = create.collection_name
            case m.DeleteAliasOperation(delete_alias=delete):
                aliases.pop(delete.alias_name, None)
            case m.RenameAliasOperation(rename_alias=rename):
                if rename.old_alias_name not in aliases:
                    raise WireError(Refusal.NOT_FOUND, f"Alias {rename.old_alias_name} does not exists!")
                self._refuse_taken(rename.new_alias_name)
                aliases[rename.new_alias_name] = aliases.pop(rename.old_alias_name)
            case _:
                raise wrong("unknown alias action")

    def _refuse_taken(self, alias: str) -> None:
        if alias in self._collections:
            raise WireError(Refusal.EXISTS, f"Collection `{alias}` already exists!")


__all__ = ["VERSION", "Engine", "Upsert"]
