"""The bank: the layer collections of one LLM, opened, filled, searched and checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import numpy.typing as npt

from latentbank.bank.layers import BankLayers, choose, listed
from latentbank.bank.ledger import LEDGER_SECONDS, named, visible
from latentbank.bank.manifest import CorpusEntry, Manifest, now, write_mean
from latentbank.bank.merge import Unique, merge
from latentbank.bank.points import Neighbor, Payload
from latentbank.bank.search import Search, prepare
from latentbank.bank.settings import Metric, Settings
from latentbank.bank.store.base import Floats, LayerInfo, Points, Store, open_store
from latentbank.bank.versions import version_of
from latentbank.bank.where import Filter, Where
from latentbank.errors import BankMismatch, BankNotFound, LatentBankError, LayerNotFound, QueryError
from latentbank.progress import Progress, Silent


@dataclass(frozen=True)
class BankInfo:
    """What a bank is and holds now; `layers` maps each bank layer to the state of its collection."""

    manifest: Manifest
    layers: dict[int, LayerInfo]


@dataclass(frozen=True)
class _View:
    """What one reading goes by: a version's store and manifest, and when that was read."""

    store: Store
    manifest: Manifest
    read_at: float


class Bank:
    """One LLM's layer collections. Made by `open_bank` or `create_bank`; a context manager.

    `search`, `count` and `words` are shown complete corpora only, unless it was opened with `include_incomplete`.
    What another process changes in a server's bank they see within a second, also that its plain name means another
    version: each search reads one version only. What writes never goes to another version by itself, and a bank from
    `create_bank` stays the version it is.
    """

    def __init__(
        self, store: Store, manifest: Manifest, *, include_incomplete: bool = False, follows: bool = False
    ) -> None:
        """Take over an open store; `follows` says that the bank was asked for by its plain name."""
        self._view = _View(store, manifest, time.monotonic())
        self._include_incomplete = include_incomplete
        self._follows = follows and store.shared
        self._guard = threading.Lock()
        self._left: list[Store] = []  # of versions that are no longer in use: a search may be under way there

    @property
    def _store(self) -> Store:
        return self._view.store

    @property
    def _manifest(self) -> Manifest:
        return self._view.manifest

    @property
    def name(self) -> str:
        """The name that the bank was asked for by."""
        return self._manifest.bank

    @property
    def version(self) -> int:
        """Which of the bank's versions this is."""
        return version_of(self._store.bank)

    @property
    def manifest(self) -> Manifest:
        """What the bank is, as of opening or of the last change made through this object."""
        return self._manifest

    @property
    def store(self) -> Store:
        """Where the layer collections live."""
        return self._store

    @property
    def settings(self) -> Settings:
        """Where it is, and how it is searched."""
        return self._store.settings

    @property
    def layers(self) -> list[int]:
        """The bank layers, ascending."""
        return list(self._manifest.layers)

    @property
    def corpora(self) -> dict[str, CorpusEntry]:
        """The ledger: every corpus by name, also one whose ingestion is not complete."""
        self.reload()
        return dict(self._manifest.corpora)

    @property
    def shown_corpora(self) -> dict[str, CorpusEntry]:
        """Those corpora of the ledger whose contexts `search`, `count` and `words` are shown."""
        found = self._refresh(self._view).manifest.corpora
        return {name: one for name, one in found.items() if one.complete or self._include_incomplete}

    @property
    def hidden_size(self) -> int:
        """Width of the LLM's hidden states."""
        return self._manifest.hidden_size

    @property
    def metric(self) -> Metric:
        """What is compared: "cosine", or "centred" (cosine of hidden states from which a mean was taken)."""
        return self._manifest.metric

    def reload(self) -> None:
        """Read the manifest again: another process may have changed a server's bank.

        Raises:
            BankMismatch: the means of a centred bank are other ones now, so what was done with it is worthless.
        """
        store = self._store
        fresh = read_manifest(store, self.name)
        if self._manifest.means and dict(self._manifest.means) != dict(fresh.means):
            raise BankMismatch(
                f"Another job fixed other means in the centred bank '{self.name}' at the same moment; drop the "
                "corpus of this one (`latentbank bank drop-corpus`) and run it again."
            )
        if self._store is store:  # else another thread has gone to another version meanwhile
            self._view = _View(store, fresh, time.monotonic())

    def _current(self) -> _View:
        """Give what a reading goes by, in a shared bank as it is within `LEDGER_SECONDS`."""
        view = self._view
        if view.store.shared and time.monotonic() - view.read_at > LEDGER_SECONDS:
            return self._refresh(view)
        return view

    def _refresh(self, seen: _View) -> _View:
        """Read the manifest again, that of another version if the bank's plain name means another one now."""
        with self._guard:
            if self._view is seen:
                meant = self._store.in_use() if self._follows else self._store.bank
                if meant == self._store.bank:
                    self.reload()
                else:
                    self._go_to(meant)
            return self._view

    def _go_to(self, stored: str) -> None:
        """Read another version from now on.

        Raises:
            BankMismatch: what readers hold from this one (queries, means) is none for that one.
        """
        store, own = open_store(stored, self.settings), self._manifest
        try:
            fresh = read_manifest(store, self.name)
            now_means = f"The bank '{self.name}' means its version {version_of(stored)} now"
            if fresh.fingerprint != own.fingerprint:
                raise BankMismatch(
                    f"{now_means}, which holds contexts of {fresh.model} (fingerprint {fresh.fingerprint}), not of "
                    f"{own.model} (fingerprint {own.fingerprint}); open it again, with that model."
                )
            if fresh.metric != own.metric or (own.means and dict(fresh.means) != dict(own.means)):
                raise BankMismatch(f"{now_means}, which is centred otherwise; open it again.")
        except BaseException:
            store.close()
            raise
        self._left.append(self._store)
        self._view = _View(store, fresh, time.monotonic())

    def _shown(self, where: Filter | None, view: _View) -> Filter | None:
        """Narrow a reader's filter to what readers are shown."""
        return visible(where, view.manifest.corpora, incomplete=self._include_incomplete)

    def require_model(self, name: str, fingerprint: str) -> None:
        """Check that hidden states of a model belong to this bank.

        Raises:
            BankMismatch: the fingerprints differ; the message names both models.
        """
        own = self._manifest
        if fingerprint != own.fingerprint:
            raise BankMismatch(
                f"The bank '{own.bank}' holds contexts of {own.model} (fingerprint {own.fingerprint}), not of "
                f"{name} (fingerprint {fingerprint}); choose that bank's model or another bank."
            )

    def choose_layers(self, bank_layers: BankLayers = "mid") -> list[int]:
        """Turn "mid" (from a quarter to half of the LLM's layers), "all", one layer or several into a list.

        "mid" falls back to all layers when the bank has none in the middle.

        Raises:
            LayerNotFound: a layer without a collection; the message names those there are.
        """
        return choose(self._manifest, bank_layers)

    # -- reading -------------------------------------------------------------------------------

    def search(
        self,
        queries: npt.ArrayLike,
        bank_layers: BankLayers = "mid",
        top_k: int = 5,
        where: Filter | None = None,
        *,
        exact: bool = False,
        unique: Unique | None = None,
        query_mean: npt.ArrayLike | None = None,
        ef: int | None = None,
    ) -> list[list[Neighbor]]:
        """Find the contexts nearest to each query by cosine, merged over bank layers.

        Args:
            queries: `[queries, hidden]` (or one query `[hidden]`) in any float dtype: numpy, or anything
                numpy can read. They need not have length 1.
            bank_layers: "mid", "all", one layer or several.
            top_k: neighbors per query.
            where: only contexts that this filter selects.
            exact: compare with every context in full precision instead of using the index.
            unique: "context" keeps one neighbor per context across bank layers, "word" one per word.
            query_mean: for a centred bank, and only there: the mean of what the queries are examples of (visual
                tokens of their visual layer; for text, `text_mean` of its layer), `[hidden]`, or one for each
                query, `[queries, hidden]`.
            ef: contexts looked at on the way through a large layer's graph, which finds more of the nearest the more
                they are; None: the setting. Visual tokens need more (`settings.ef_visual`).

        Returns:
            For each query its neighbors, highest cosine first; fewer than `top_k` if there are no more.

        Raises:
            QueryError: wrong shape or type, or a query that is zero or not finite (the row is named); a centred
                bank without `query_mean`, or another bank with it.
            LayerNotFound: a layer the bank does not have.
        """
        if top_k < 1:
            raise QueryError(f"top_k is {top_k}; ask for at least 1 neighbor.")
        if unique not in (None, "context", "word"):
            raise QueryError(f"unique is {unique!r}; it can be 'context', 'word' or None.")
        view = self._current()
        layers = choose(view.manifest, bank_layers)
        self.require_query_mean(given=query_mean is not None)
        vectors = _prepared(view.manifest, queries, "queries", query_mean)
        search = Search(view.store, layers, self._shown(where, view), exact, payloads=unique == "word", ef=ef)
        found = search.ask(vectors, top_k)
        if unique == "word":
            search.find_words(found, vectors, top_k)
        neighbors = search.neighbors([merge(candidates, top_k, unique) for candidates in found])
        return [named(row, view.manifest.corpora) for row in neighbors]

    def require_query_mean(self, *, given: bool) -> None:
        """Check that queries come with a mean of theirs where the bank is centred, and only there.

        Raises:
            QueryError: they do not; the message says what to do.
        """
        if given and self.metric == "cosine":
            raise QueryError(
                f"The bank '{self.name}' holds plain cosine, so queries must keep their mean: leave query_mean out, or "
                "make a bank with metric='centred'."
            )
        if not given and self.metric == "centred":
            raise QueryError(
                f"The bank '{self.name}' is centred, so it must be told which mean its queries have: give "
                "query_mean, for text bank.text_mean(LAYER), for visual tokens the mean of their visual layer."
            )

    def text_mean(self, layer: int) -> Floats:
        """Give the mean `[hidden]` of a centred bank's text at one of its layers: what text queries subtract.

        Raises:
            LayerNotFound: the bank does not know text of that layer; the message names those it knows.
            QueryError: the bank is not centred.
            BankMismatch: nothing was ingested yet.
        """
        if self.metric == "centred" and layer not in self._manifest.layers:
            where = f"layer {layer}" if layer >= 0 else "a layer that is not known"
            raise LayerNotFound(
                f"The bank '{self.name}' does not know the mean of text at {where}; it knows that of "
                f"{listed(self.layers)}."
            )
        mean = self._manifest.mean(layer)
        if mean is None:
            raise QueryError(f"The bank '{self.name}' holds plain cosine: it has no means.")
        return mean

    def count(self, layer: int | None = None, where: Filter | None = None) -> int:
        """Count contexts in a layer (the first one by default: all layers hold the same contexts)."""
        view = self._current()
        (chosen,) = choose(view.manifest, view.manifest.layers[0] if layer is None else layer)
        return view.store.count(chosen, self._shown(where, view))

    def held(self, stored: str) -> set[int]:
        """Count the contexts that each layer holds of a corpus, complete or not, by the name it is stored under.

        One number if the layers agree, as those of a complete corpus do.
        """
        return {self._store.count(layer, Where(corpus=stored)) for layer in self.layers}

    def words(self, where: Filter | None = None, limit: int = 20) -> dict[str, int]:
        """Count contexts by their word, most frequent first, as far as `limit`."""
        view = self._current()
        return view.store.facet(view.manifest.layers[0], "word", self._shown(where, view), limit)

    def info(self) -> BankInfo:
        """Give the manifest and the state of every layer collection."""
        self.reload()
        return BankInfo(self._manifest, {layer: self._store.info(layer) for layer in self.layers})

    def verify(self, sample: int = 1000, progress: Progress | None = None) -> list[str]:
        """Check counts against the ledger, equal ids in all layers, and a sample of vectors for unit norm.

        Args:
            sample: how many vectors of each layer are read.
            progress: told contexts compared of all contexts in all layers.

        Returns:
            What is wrong, one sentence each with how to mend it; empty when all is well.
        """
        from latentbank.bank.verify import verify

        self.reload()
        return verify(self._store, self._manifest, sample, progress or Silent())

    # -- writing -------------------------------------------------------------------------------

    def add(self, layer: int, ids: Sequence[str], states: npt.ArrayLike, payloads: Sequence[Payload]) -> None:
        """Store contexts in one layer: `states` `[n, hidden]` are hidden states as the LLM gave them.

        They are centred where the bank is, scaled to length 1 and rotated here. Durable once `commit` has
        returned.

        Raises:
            QueryError: a hidden state that is zero, not finite, or the layer's mean itself.
            BankMismatch: the bank is centred and has no means yet (`fix_means`).
        """
        mean = self._manifest.mean(layer)
        vectors = _prepared(self._manifest, states, "hidden states", mean)
        self._store.upsert(layer, Points(ids, vectors, payloads))

    def fix_means(self, means: Mapping[int, npt.ArrayLike], settle: float = 0.0) -> None:
        """Fix a centred bank's means, one `[hidden]` for each layer, for all its contexts to come.

        Where they are fixed already, they stay as they are.

        Args:
            means: by layer.
            settle: seconds to wait before the means are taken for fixed, where several workers may fix them at the
                same moment, each its own: afterwards all go by the last ones.

        Raises:
            BankMismatch: the bank is not centred, or these are no means of its layers.
        """
        self.reload()
        if self.metric != "centred":
            raise BankMismatch(f"The bank '{self.name}' holds plain cosine: it has no means.")
        if self._manifest.means:
            return
        given = {layer: np.asarray(mean, dtype=np.float32) for layer, mean in means.items()}
        if given.keys() != set(self.layers) or not all(
            mean.shape == (self.hidden_size,) and np.isfinite(mean).all() for mean in given.values()
        ):
            raise BankMismatch(
                f"The bank '{self.name}' needs a mean of {self.hidden_size} finite numbers for each of its layers "
                f"{listed(self.layers)}."
            )
        fixed = {layer: write_mean(given[layer]) for layer in self.layers}
        self._store.write_manifest(replace(self._manifest, bank=self._store.bank, means=fixed).head())
        time.sleep(settle)
        self.reload()

    def commit(self) -> None:
        """Make everything added so far durable."""
        self._store.commit()

    def record(self, entry: CorpusEntry) -> None:
        """Write a corpus's ledger entry, replacing an earlier one of the same name."""
        self._store.write_entry(entry.name, entry.to_dict())
        self.reload()

    def supersede(self, entry: CorpusEntry) -> None:
        """Let a complete corpus take the place of the one it `replaces`, in one step for all readers.

        What was replaced is deleted afterwards; a killed job leaves that to `forget_obsolete`.
        """
        old = self.corpora.get(entry.replaces)
        if old is not None and old.stored == entry.stored:
            return  # another worker has done it
        obsolete = (*old.obsolete, old.stored) if old else ()
        new = replace(
            entry,
            name=entry.replaces,
            replaces="",
            stored_as=entry.stored,
            obsolete=obsolete,
            complete=True,
            updated=now(),
        )
        self._store.write_entries({entry.name: None, new.name: new.to_dict()})
        self.reload()
        if self._store.shared:
            time.sleep(LEDGER_SECONDS)  # until no reader goes by the old ledger
        self.forget_obsolete(new.name)

    def forget_obsolete(self, corpus: str) -> None:
        """Delete the contexts that a corpus's replacement has left behind."""
        entry = self.corpora.get(corpus)
        if entry is None or not entry.obsolete:
            return
        for name in entry.obsolete:
            self._delete_contexts(name)
        self.record(replace(entry, obsolete=()))

    def drop_corpus(self, corpus: str) -> int:
        """Remove a corpus from every layer and from the ledger; gives how many contexts a layer held of it.

        Contexts of a corpus that is not in the ledger are removed too (`verify` finds such corpora).

        Raises:
            LatentBankError: the bank has no such corpus.
        """
        entry = self.corpora.get(corpus)
        stored = entry.stored if entry else corpus
        held = max(self.held(stored))
        others = {one.stored for one in self._manifest.corpora.values() if one != entry}
        if entry is not None:
            # Incomplete first: interrupted here, the ledger never promises contexts that are gone.
            self.record(replace(entry, complete=False))
        elif not held or stored in others:
            known = ", ".join(sorted(self._manifest.corpora)) or "none"
            raise LatentBankError(f"The bank '{self.name}' has no corpus '{corpus}'; it has {known}.")
        for name in (stored, *(entry.obsolete if entry else ())):
            self._delete_contexts(name)
        self._store.write_entry(corpus, None)
        self.reload()
        return held

    def _delete_contexts(self, stored: str) -> None:
        """Delete what carries a corpus name in the layer collections, and the records of its ingestion's shares."""
        for layer in self.layers:
            self._store.delete_corpus(layer, stored)
        self._store.commit()
        self.clear_shares(stored)

    def clear_shares(self, stored: str) -> None:
        """Remove the records of an ingestion's shares."""
        if records := self._store.read_shares(stored):
            self._store.write_shares(stored, dict.fromkeys(records))

    def close(self) -> None:
        """Release files, locks and connections."""
        for store in (self._store, *self._left):
            store.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        m = self._manifest
        corpora = ", ".join(f"{c.name} ({c.contexts:,} contexts)" for c in m.corpora.values()) or "no corpora"
        metric = "" if m.metric == "cosine" else f"{m.metric}, "
        version = f" (version {self.version})" if self.version > 1 and "@" not in m.bank else ""
        return f"<Bank {m.bank}{version}: {m.model}, {metric}layers {listed(m.layers)}, {corpora}>"


def read_manifest(store: Store, name: str) -> Manifest:
    """Read the manifest of a store's bank, `bank` in it the name that the bank was asked for by.

    Raises:
        BankNotFound: there is no such bank.
        BankMismatch: it is damaged, or of another schema.
    """
    found = store.read_manifest()
    if found is None:
        raise BankNotFound(
            f"There is no bank '{name}' here; `latentbank bank list` shows those there are, "
            "`latentbank ingest run` makes one."
        )
    return replace(Manifest.from_dict(*found), bank=name)


def _prepared(manifest: Manifest, states: npt.ArrayLike, what: str, mean: npt.ArrayLike | None) -> Floats:
    return prepare(states, what, manifest.hidden_size, manifest.rotation_seed, mean)
