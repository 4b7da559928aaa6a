"""How thoroughly graphs are searched: how many candidates a query examines, and whether it finds enough so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from latentbank.bank.manifest import Manifest
from latentbank.bank.settings import Settings
from latentbank.bank.where import Filter
from latentbank.errors import QueryError

# Times the contexts for which `ef` was measured, up to which it is used.
_GROWN = 1.25


@dataclass(frozen=True)
class Asked:
    """How thoroughly graphs are searched.

    Attributes:
        efs: the candidates that each query examines in a graph; one for all of them; None: as in the settings.
        finds: whether these are enough for each query to find 99 of 100 neighbors.
    """

    efs: Sequence[int | None] | int | None = None
    finds: bool = True

    def of_rows(self, rows: Sequence[int]) -> Asked:
        """Return the same for some of the queries, numbered anew."""
        if not isinstance(self.efs, Sequence):
            return self
        return replace(self, efs=[self.efs[row] for row in rows])

    def by_ef(
        self, queries: Sequence[tuple[int, Filter | None]]
    ) -> Iterator[tuple[int | None, Sequence[tuple[int, Filter | None]]]]:
        """Yield queries that examine as many candidates, and how many."""
        if not isinstance(self.efs, Sequence):
            yield self.efs, queries
            return
        groups: dict[int | None, list[tuple[int, Filter | None]]] = {}
        for query in queries:
            groups.setdefault(self.efs[query[0]], []).append(query)
        yield from groups.items()

    def most(self) -> int | None:
        """Return the most candidates that a query examines; None: as in the settings."""
        if not isinstance(self.efs, Sequence):
            return self.efs
        return max((ef for ef in self.efs if ef is not None), default=None)


def asked_for(
    manifest: Manifest,
    settings: Settings,
    count: int,
    ef: int | None,
    visual_layer: int | Sequence[int] | None,
) -> Asked:
    """Return how thoroughly graphs are searched for `count` queries; see `Bank.search`.

    That is as `tune` measured it, unless the bank has grown too much since. Without that, it is known of text alone
    that the settings' `ef` finds enough.

    Raises:
        QueryError: there are visual layers for another number of queries.
    """
    if ef is not None:
        return Asked(ef)
    several = isinstance(visual_layer, Sequence)
    if isinstance(visual_layer, Sequence) and len(visual_layer) != count:
        raise QueryError(f"There are {count} queries, but visual layers of {len(visual_layer)}.")
    layers = list(visual_layer) if isinstance(visual_layer, Sequence) else [visual_layer]
    known = _tuned(manifest)
    efs: dict[int | None, int | None] = {}
    finds = True
    for layer in dict.fromkeys(layers):
        kind = kind_of(layer)
        usual = None if layer is None else settings.ef_visual
        efs[layer] = known.get(kind) or usual
        finds &= known[kind] is not None if kind in known else layer is None
    return Asked([efs[layer] for layer in layers] if several else efs[layers[0]], finds)


def kind_of(visual_layer: int | None) -> str:
    """Return the name of a kind of query: the visual tokens of a layer, or text (None)."""
    return "text" if visual_layer is None else f"visual {visual_layer}"


def known_contexts(manifest: Manifest) -> int:
    """Return how many contexts the ledger promises for each layer."""
    return sum(entry.contexts for entry in manifest.corpora.values() if entry.complete)


def _tuned(manifest: Manifest) -> Mapping[str, int | None]:
    """Return the `ef` of each kind of query that was measured, None if none is enough; nothing if it is too old."""
    efs, measured = manifest.tuned.get("efs"), manifest.tuned.get("contexts")
    if not isinstance(efs, Mapping) or not isinstance(measured, int):
        return {}
    return efs if known_contexts(manifest) <= _GROWN * measured else {}
