"""The interface of stores: what a bank needs from the place where its layer collections live.

A `Backend` is one place with any number of banks: a folder of embedded banks, or a server. A `Store` is one version of
one bank there. Both have two implementations, `embedded` and `server`; the same tests run against both. Nothing outside
this folder names Qdrant, and only `latentbank.bank.store.backends` chooses between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from latentbank.bank.check import Check
from latentbank.bank.planning import Work
from latentbank.bank.points import Hit, Payload, Stored
from latentbank.bank.scan import Scan
from latentbank.bank.settings import Settings
from latentbank.bank.store.grouping import Groups
from latentbank.bank.where import Filter
from latentbank.errors import LatentBankError

Floats = npt.NDArray[np.float32]

Record: TypeAlias = Mapping[str, Any]
"""JSON-ready data: a manifest's head, a ledger entry, or a record about a share of an ingestion."""

StoredManifest: TypeAlias = tuple[Record, Mapping[str, Record]]
"""A manifest as stored: its head, and its ledger (entries by corpus)."""

Change: TypeAlias = Callable[[Record | None], Record | None]
"""What a writer makes of a record that is stored (None: there is none); the result is stored, or None removes it.

It may be called several times, with what other writers have made of the record meanwhile, and again with its own
result: it must then give that result again. It raises an error to change nothing.
"""

MOST_CORPORA = 1_000_000
"""More corpora than any bank has: the limit of a facet that must return all of them."""


FEW = 1_000
"""Contexts that a search compares one by one, unindexed, in a few milliseconds."""


@dataclass(frozen=True)
class Points:
    """Contexts to store in one layer collection; row i of `vectors` `[n, hidden]` belongs to `ids[i]`."""

    ids: Sequence[str]
    vectors: Floats
    payloads: Sequence[Payload]


@dataclass(frozen=True)
class LayerInfo:
    """State of one layer collection.

    Attributes:
        points: its contexts.
        indexed: those in quantized segments, which are fast to search.
        bytes_on_disk: its size; None on a server.
        waiting: contexts that `Store.index` would index; 0 if there are too few (`FEW`) to slow a search down.
        failure: why a server failed to change or index it; None if all is well.
    """

    points: int
    indexed: int
    bytes_on_disk: int | None
    waiting: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class Machine:
    """A machine that holds banks, or each of `nodes` of them.

    Attributes:
        ram: bytes that banks may use; None: it is not known.
        disk: bytes of the disk that are free for banks, or on a server all of them; None: it is not known.
        nodes: how many there are.
        copies: how many copies of each context a bank has on them.
    """

    ram: int | None
    disk: int | None
    nodes: int = 1
    copies: int = 1


@dataclass(frozen=True)
class Replicated:
    """What was done with one collection of a bank on a cluster.

    Attributes:
        collection: its name.
        copies: how many copies each of its shards has now, at least.
        made: how many copies of shards were made.
        removed: how many were removed, from a node that leaves or has more than others.
    """

    collection: str
    copies: int
    made: int
    removed: int


class NoSnapshot(LatentBankError):
    """A layer cannot be moved as a snapshot, only context by context; the message is the reason, a clause."""


class Store(Protocol):
    """The layer collections and the manifest of one version of a bank."""

    @property
    def bank(self) -> str:
        """The name the version is stored under: the bank's own for version 1, else as in name@2."""

    @property
    def settings(self) -> Settings:
        """Settings: where the store is and how it is searched."""

    @property
    def shared(self) -> bool:
        """Whether other processes may read and write the bank at the same time."""

    @property
    def side_by_side(self) -> bool:
        """Whether layers now take less time to store if threads store several of them at once."""

    def in_use(self) -> str:
        """Return the stored name of the version that the bank's plain name means now."""

    def read_manifest(self) -> StoredManifest | None:
        """Return the manifest's head and its ledger, or None if there is no such bank."""

    def change_head(self, change: Change) -> Record | None:
        """Change the manifest's head, or store a new bank's, and return it; the ledger stays as it is.

        Nobody else changes it between what `change` is given and what is stored. The exception is a server's bank that
        an earlier version made and that is not upgraded: there nothing is compared, and the last change stays.
        """

    def change_entry(self, corpus: str, change: Change, instead_of: str | None = None) -> Record | None:
        """Change a corpus's ledger entry, add or remove it, and return it; see `change_head`.

        Args:
            corpus: its name.
            change: what is made of the entry.
            instead_of: another entry, which is removed; afterwards, if that cannot be done in the same step.

        Raises:
            BankNotFound: there is no bank.
        """

    def read_shares(self, corpus: str) -> Mapping[str, Record]:
        """Return the records that `write_shares` stored for a corpus, by key."""

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """Store records about shares of a corpus's ingestion, or remove them (None), without touching the others."""

    def layers(self) -> list[int]:
        """Return the layers that have a collection, ascending."""

    def create(self, layer: int, hidden_size: int, quantization: str) -> None:
        """Create a layer's collection with its payload indexes; it stays unindexed until `index`.

        An existing collection is replaced. The exception is a shared collection of the same size and quantization:
        another process may be creating the same bank.
        """

    def defer_index(self, layer: int, expected: int) -> None:
        """Postpone indexing until `index` while a layer is loaded; `expected` is the final number of points.

        On a server, indexing goes on while another job waits for it.
        """

    def upsert(self, layer: int, points: Points) -> None:
        """Write points; they are safe from a kill once `commit` has returned."""

    def commit(self) -> None:
        """Make everything upserted so far durable."""

    def index(self, *layers: int) -> None:
        """Quantize layers and, from `graph_from` contexts on, build their HNSW graphs.

        Returns when the contexts that they hold now are indexed, also if another job loads more of them meanwhile.
        """

    def index_together(self, layers: Sequence[int]) -> list[list[int]]:
        """Return layers in groups that `index` is best given at once, in the same order."""

    def search(
        self,
        layer: int,
        queries: Floats,
        limit: int,
        where: Filter | Sequence[Filter | None] | None = None,
        exact: bool = False,
        payloads: bool = True,
        ef: int | None = None,
        oversampling: float | None = None,
    ) -> list[list[Hit]]:
        """Return the nearest points of each query `[queries, hidden]`, best first.

        `where` is one filter for all queries, or one for each. `ef` is the number of candidates examined in a graph,
        `oversampling` that of candidates per point that are rescored exactly (None: as in the settings).
        """

    def groups(
        self, layer: int, query: Floats, wanted: Groups, exact: bool = False, ef: int | None = None
    ) -> list[list[Hit]]:
        """Return the groups whose best points are nearest to a query, nearest first, each with its own nearest points.

        Args:
            layer: a visual layer.
            query: rotated, of length 1, float32 `[hidden]`.
            wanted: by which field, how many groups, of how many points, and of which points.
            exact: compare with every point.
            ef: as for `search`.
        """

    def work(self, layer: int, ef: int | None, hidden_size: int, where: Filter | None = None) -> Work | None:
        """Return what `search` has to do for a query; None: the layer cannot be scanned here, or not now.

        Args:
            layer: the layer.
            ef: as for `search`.
            hidden_size: of the layer's vectors.
            where: restricts the search to the points that this filter selects.
        """

    def scan(
        self, layer: int, queries: Floats, limit: int, where: Filter | None, how: Scan
    ) -> list[list[Hit]] | None:
        """Return the nearest points of each query, without payloads, by products with all original vectors.

        Returns:
            What an exact `search` returns; None: the layer cannot be scanned here, or not now.
        """

    def payloads(self, layer: int, ids: Sequence[str]) -> dict[str, Payload]:
        """Return the payloads of those points of `ids` that the layer holds."""

    def count(self, layer: int, where: Filter | None = None) -> int:
        """Return the exact number of points that `where` selects."""

    def facet(self, layer: int, field: str, where: Filter | None = None, limit: int = 100) -> dict[Any, int]:
        """Return the number of points by value of an indexed payload field, most frequent first."""

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that the layer holds."""

    def scroll(
        self,
        layer: int,
        where: Filter | None = None,
        vectors: bool = False,
        payloads: bool = False,
        start: str | None = None,
    ) -> Iterator[Stored]:
        """Iterate over a layer's points in the order of their ids, from the id `start` (inclusive) on."""

    def delete_points(self, layer: int, where: Filter) -> None:
        """Delete every point that a filter selects; it has no condition on captions."""

    def delete_corpus(self, layer: int, corpus: str) -> None:
        """Delete every point of a corpus."""

    def save_snapshot(self, layer: int, file: Path, report: Callable[[int], None]) -> None:
        """Write a whole layer, with its indexes, to a file that `load_snapshot` of an embedded store reads.

        `report` is called with the number of bytes received so far.

        Raises:
            NoSnapshot: this store, or this API key, provides none.
        """

    def load_snapshot(self, layer: int, save: Callable[[Path], None], expected: Mapping[str, int]) -> None:
        """Replace a layer's contents by those of a snapshot, in one step.

        `save` writes the snapshot to the file that it is given. `expected` is the number of contexts by the name their
        corpus is stored under.

        Raises:
            NoSnapshot: the snapshot holds other contexts, or this store cannot read it. The layer is unchanged.
        """

    def info(self, layer: int) -> LayerInfo:
        """Return the state of a layer collection."""

    def delete(self) -> None:
        """Delete this version: every collection and the manifest."""

    def close(self) -> None:
        """Release files, locks and connections."""


class Backend(Protocol):
    """A place where banks live: a folder of embedded banks, or a server.

    Its methods take and return stored names: a version's name as in `Store.bank`.
    """

    @property
    def location(self) -> str:
        """The folder or the server's address, as messages and tables name it."""

    @property
    def shared(self) -> bool:
        """Whether several processes may read and write a bank at the same time."""

    def open(self, stored: str, *, create: bool = False) -> Store:
        """Open the store of one version of a bank; `create` makes an embedded bank's folder if there is none.

        Raises:
            BankUnavailable: the server or the folder cannot be used.
            BankBusy: another process has the embedded bank open.
        """

    def open_in_use(self, bank: str, *, create: bool = False) -> Store:
        """Open the store of the version that a bank's plain name means; see `open`."""

    def bank_names(self) -> list[str]:
        """Return the stored names of all versions of all banks, sorted."""

    def names_in_use(self, banks: Iterable[str]) -> dict[str, str]:
        """Return, for each bank, the stored name of the version that its plain name means."""

    def use(self, bank: str, stored: str, layers: Iterable[int]) -> None:
        """Make a bank's plain name mean a version, in one step for all its `layers`.

        Raises:
            BankUnavailable: the server or the folder cannot be used.
            BankMismatch: one of the layers does not exist.
            BankBusy: another process switches the bank at the same moment.
        """

    def forget(self, bank: str) -> None:
        """Remove the record of which version is in use; on a server it disappears with the collections."""

    def peek_manifest(self, stored: str) -> StoredManifest | None:
        """Return a version's manifest as `Store.read_manifest` does, even if an embedded bank is open elsewhere."""

    def replicate(
        self,
        banks: Sequence[str],
        copies: int | None,
        leaving: str | None,
        report: Callable[[int, int], None],
    ) -> list[Replicated]:
        """Make copies of banks' shards on the nodes of a cluster, until all nodes hold about the same number of them.

        Killed and run again, it continues. Banks can be read and filled meanwhile.

        Args:
            banks: stored names.
            copies: least number of copies of each layer's shards; None: as many as the bank was made with.
            leaving: the node that shall hold none, by its number or the name of its host.
            report: called with the number of changes done and in all.

        Raises:
            BankUnavailable: there is no cluster, or a shard cannot be copied.
            QueryError: there is no such node.
        """

    def upgrade(self, stored: str, *, finish: bool) -> bool:
        """Give a server's bank a ledger, or with `finish` remove what it replaced; an embedded bank's is its file.

        Returns:
            Whether there was something to do.

        Raises:
            BankNotFound: there is no such bank.
            LatentBankError: with `finish`, the bank is not upgraded; or it is embedded.
        """

    def checks(self, bank: str | None) -> Iterator[Check]:
        """Yield what is seen of the place, and of a bank there by its stored name (None: of all banks)."""

    def machine(self, bank: str) -> Machine:
        """Return what the machine has on which a bank lies, by its stored name.

        Raises:
            BankUnavailable: it cannot be asked.
        """

    def require_writer(self) -> None:
        """Check that the API key may change banks; an embedded bank has no key.

        Raises:
            BankUnavailable: it is a read-only key, or the server cannot be used.
        """
