"""The bank: the layer collections of one LLM, opened, filled, searched and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy.typing as npt

from latentbank.bank import changes, removal
from latentbank.bank.asking import asked_for
from latentbank.bank.changes import EntryChange
from latentbank.bank.layers import BankLayers, choose
from latentbank.bank.ledger import named, visible
from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.bank.merge import Unique
from latentbank.bank.model import ModelCheck, own_model
from latentbank.bank.planning import Way, way_of
from latentbank.bank.points import Neighbor, Payload
from latentbank.bank.search import Search, prepared, require_query_mean, told
from latentbank.bank.second_look import SecondLook, look_again
from latentbank.bank.settings import Metric, Settings
from latentbank.bank.store.base import Floats, LayerInfo, Points, Store
from latentbank.bank.verify import verify
from latentbank.bank.versions import version_of
from latentbank.bank.view import CurrentView, View
from latentbank.bank.where import Filter, Where
from latentbank.errors import LayerNotFound, QueryError
from latentbank.identity import Identity, identity_of
from latentbank.progress import Progress, Silent
from latentbank.text import listed
from latentbank.values import whole


@dataclass(frozen=True)
class BankInfo:
    """What a bank is and holds now; `layers` maps each bank layer to the state of its collection."""

    manifest: Manifest
    layers: dict[int, LayerInfo]


class Bank:
    """One LLM's layer collections, opened by `open_bank` or `create_bank`; a context manager.

    `search`, `count` and `words` read complete corpora only, unless the bank was opened with `include_incomplete`. They
    follow what other processes change in a server's bank within a second, also when its plain name comes to mean
    another version; each search reads one version only. Writes always stay with the version that was opened, and so
    does everything else with a bank from `create_bank`.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> with lb.open_bank("captions") as bank:
        ...     states = lb.read_text(bank, model, "A dog sleeps.", layers=8)
        ...     words = bank.words(lb.Where(corpus="captions"))
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        *,
        include_incomplete: bool = False,
        follows: bool = False,
        allow_other_model: bool = False,
    ) -> None:
        """Take over an open store; `follows`: the bank was opened by its plain name, which may change its meaning."""
        self._current = CurrentView(store, manifest, follows=follows)
        self._include_incomplete = include_incomplete
        self._check_model = ModelCheck(allow_other_model=allow_other_model)
        self.searched: dict[int, str] = {}  # how each layer was searched last, for people

    @property
    def _store(self) -> Store:
        return self._current.store

    @property
    def _manifest(self) -> Manifest:
        return self._current.view.manifest

    @property
    def name(self) -> str:
        """The name that the bank was opened by."""
        return self._manifest.bank

    @property
    def version(self) -> int:
        """The number of this version of the bank."""
        return version_of(self._current.view.store.bank)

    @property
    def manifest(self) -> Manifest:
        """The manifest, as of opening or of the last change made through this object."""
        return self._manifest

    @property
    def store(self) -> Store:
        """The store that holds the layer collections. Raises BankUnavailable if the bank is closed."""
        return self._store

    @property
    def settings(self) -> Settings:
        """The settings: where the bank is and how it is searched."""
        return self._current.view.store.settings

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
        """The corpora of the ledger that `search`, `count` and `words` read."""
        found = self._current.renew(self._current.view).manifest.corpora
        return {name: entry for name, entry in found.items() if entry.complete or self._include_incomplete}

    @property
    def hidden_size(self) -> int:
        """Width of the LLM's hidden states."""
        return self._manifest.hidden_size

    @property
    def metric(self) -> Metric:
        """What is compared: "cosine", or "centred" (cosine of hidden states after a mean was subtracted)."""
        return self._manifest.metric

    def reload(self) -> None:
        """Read the manifest again: another process may have changed a server's bank.

        Raises:
            BankMismatch: the means of a centred bank have changed, so what was done with the old ones is worthless.
        """
        self._current.reload()

    def _shown(self, where: Filter | None, view: View) -> Filter | None:
        """Return a reader's filter, narrowed to the corpora that readers are shown."""
        return visible(where, view.manifest.corpora, incomplete=self._include_incomplete)

    def require_model(self, name: str, fingerprint: str | Identity) -> None:
        """Check that hidden states of a model belong to this bank; only warn if `allow_other_model` was given.

        If `name` is a path, this machine remembers it. An `Identity` tells more models apart than a fingerprint.

        Raises:
            BankMismatch: it is another model; the message names both, and what they were loaded in.
        """
        self._check_model(self._manifest, self.settings, name, identity_of(fingerprint))

    def find_model(self) -> str:
        """Return what the bank's own LLM is loaded by on this machine: its id on the hub, or a path.

        Raises:
            ModelError: it is a local model, and this machine does not know where it is.
        """
        return own_model(self._manifest, self.settings)

    def choose_layers(self, bank_layers: BankLayers = "mid") -> list[int]:
        """Return the bank layers that "mid", "all", "paper", one layer or several stand for, ascending.

        "mid" stands for the layers from a quarter to half of the LLM's depth, or for all layers if the bank has none of
        these.

        Raises:
            LayerNotFound: a layer has no collection; the message names those that have.
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
        second_look: SecondLook | None = None,
        search: Way | None = None,
        visual_layer: int | Sequence[int] | None = None,
    ) -> list[list[Neighbor]]:
        """Return the contexts nearest to each query by cosine, merged over bank layers.

        Args:
            queries: `[queries, hidden]` (or one query `[hidden]`) in any float dtype: a numpy array or anything that
                numpy can read. They need not have length 1.
            bank_layers: "mid", "all", one layer or several; see `choose_layers`.
            top_k: neighbors per query.
            where: restricts the search to the contexts that this filter selects.
            exact: the older name of `search="exact"`.
            unique: "context" keeps one neighbor per context across bank layers, "word" one per word.
            query_mean: for centred banks only, and required there: the mean of the kind of hidden states that the
                queries are (for visual tokens, the mean of their visual layer; for text, `text_mean` of its layer),
                `[hidden]`, or one for each query, `[queries, hidden]`. If `manifest.unit_means`, the mean of hidden
                states scaled to length 1.
            ef: number of contexts examined in a large layer's graph; more of them find more of the true neighbors.
                None: as `tune` measured, else as in the settings. A layer is then not scanned unless `search` says so.
            second_look: scores the nearest contexts of each layer again; they are ranked by its scores.
            search: "graph" uses the index, "exact" compares with every context in float32, "auto" takes the faster of
                both that finds 99 of 100 neighbors; None: as in the settings. `searched` tells which it was.
            visual_layer: the visual layer that the queries are visual tokens of, -1 if it is not known, or that of each
                query; None: they are none.

        Returns:
            For each query its neighbors, highest cosine first; fewer than `top_k` if there are no more.

        Raises:
            QueryError: the queries have a wrong shape or type, or one is zero or not finite (its row is named); or
                `query_mean` is missing for a centred bank, or given for another.
            LayerNotFound: the bank does not have a layer.
        """
        top_k = whole(top_k, "top_k", 1)
        ef = None if ef is None else whole(ef, "ef", 1)
        if unique not in (None, "context", "word"):
            raise QueryError(f"unique is {unique!r}; it can be 'context', 'word' or None.")
        view, settings = self._current.get(), self.settings
        way = way_of(search, exact=exact, default=settings.search if ef is None else "graph")
        layers = choose(view.manifest, bank_layers)
        self.require_query_mean(given=query_mean is not None)
        vectors = prepared(view.manifest, queries, "queries", query_mean)
        asked = asked_for(view.manifest, settings, len(vectors), ef, visual_layer)
        made = Search(view.store, layers, self._shown(where, view), way, unique == "word", asked)
        if second_look is None:
            neighbors = made.best(vectors, top_k, unique)
        else:
            neighbors = look_again(made, second_look, view.manifest, vectors, top_k, unique)
        self.searched = {layer: told(made, layer) for layer in layers}
        return [named(row, view.manifest.corpora) for row in neighbors]

    def require_query_mean(self, *, given: bool) -> None:
        """Check that a mean of the queries is given if the bank is centred, and only then.

        Raises:
            QueryError: it is missing, or must not be given; the message says what to do.
        """
        require_query_mean(self.name, self.metric, given=given)

    def text_mean(self, layer: int) -> Floats:
        """Return the mean `[hidden]` (float32) of a centred bank's text at one of its layers, for text queries.

        Raises:
            LayerNotFound: the bank has no mean for that layer; the message names the layers it has.
            QueryError: the bank is not centred.
            BankMismatch: nothing has been ingested yet.
        """
        if self.metric == "centred" and layer not in self._manifest.layers:
            where = f"layer {layer}" if layer >= 0 else "a layer that is not known"
            raise LayerNotFound(
                f"The bank '{self.name}' does not know the mean of text at {where}; it knows that of "
                f"{listed(self.layers)}."
            )
        mean = self._manifest.mean(layer)
        if mean is None:
            raise QueryError(f"The bank '{self.name}' is not centred: it has no means.")
        return mean

    def count(self, layer: int | None = None, where: Filter | None = None) -> int:
        """Return the number of contexts in a layer (by default the first: all layers hold the same contexts)."""
        view = self._current.get()
        (chosen,) = choose(view.manifest, view.manifest.layers[0] if layer is None else whole(layer, "layer"))
        return view.store.count(chosen, self._shown(where, view))

    def stored_contexts(self, stored: str) -> set[int]:
        """Return how many contexts the layers hold of a corpus, complete or not, by the name it is stored under.

        This is a single number if the layers agree, as they do for a complete corpus.
        """
        return {self._store.count(layer, Where(corpus=stored)) for layer in self.layers}

    def words(self, where: Filter | None = None, limit: int = 20) -> dict[str, int]:
        """Return the number of contexts by word, most frequent first: at most `limit` words."""
        limit = whole(limit, "limit", 1)
        view = self._current.get()
        return view.store.facet(view.manifest.layers[0], "word", self._shown(where, view), limit)

    def info(self) -> BankInfo:
        """Return the manifest and the state of every layer collection."""
        self.reload()
        return BankInfo(self._manifest, {layer: self._store.info(layer) for layer in self.layers})

    def verify(self, sample: int = 1000, progress: Progress | None = None) -> list[str]:
        """Check counts against the ledger, ids for equality in all layers, and a sample of vectors for unit norm.

        Args:
            sample: how many vectors of each layer are read.
            progress: counts the contexts compared, of those in all layers together.

        Returns:
            What is wrong, one sentence each with how to repair it; empty if the bank is sound.
        """
        self.reload()
        return verify(self._store, self._manifest, whole(sample, "sample", 0), progress or Silent())

    # -- writing -------------------------------------------------------------------------------

    def add(self, layer: int, ids: Sequence[str], states: npt.ArrayLike, payloads: Sequence[Payload]) -> None:
        """Store contexts in one layer; durable once `commit` has returned.

        Args:
            layer: the bank layer.
            ids: the contexts' ids.
            states: `[n, hidden]`, hidden states as the LLM gave them. They are centred in a centred bank, scaled to
                length 1 and rotated here.
            payloads: the contexts' payloads.

        Raises:
            QueryError: a hidden state is zero, not finite, or the layer's mean itself.
            BankMismatch: the bank is centred and has no means yet (`fix_means`).
        """
        mean = self._manifest.mean(layer)
        vectors = prepared(self._manifest, states, "hidden states", mean)
        self._store.upsert(layer, Points(ids, vectors, payloads))

    def fix_means(self, means: Mapping[int, npt.ArrayLike]) -> None:
        """Fix a centred bank's means `[hidden]` by layer for all contexts to come, unless they are fixed already.

        Of several workers that fix their own means at the same moment, the first does; all of them use its means.

        Raises:
            BankMismatch: the bank is not centred, or these are not means for its layers.
        """
        changes.fix_means(self, means)

    def add_digests(self, identity: Identity) -> None:
        """Store those digests of the bank's LLM that the manifest lacks; nothing if `identity` is another LLM's."""
        changes.add_digests(self, identity)

    def commit(self) -> None:
        """Make everything added so far durable."""
        self._store.commit()

    def record(self, entry: CorpusEntry) -> None:
        """Store a corpus's ledger entry, replacing an earlier one of the same name."""
        self.change_entry(entry.name, lambda _: entry)

    def change_entry(
        self, corpus: str, change: EntryChange, instead_of: str | None = None
    ) -> CorpusEntry | None:
        """Make something of a corpus's ledger entry that nobody else changes meanwhile, and return it.

        Args:
            corpus: its name.
            change: returns what becomes of the entry (None: there is none), or None to remove it. It may be called
                several times, and given its own result must return that again.
            instead_of: name of another entry, which is removed afterwards.
        """
        return changes.change_entry(self, corpus, change, instead_of)

    def supersede(self, entry: CorpusEntry) -> None:
        """Put a complete corpus in the place of the one it `replaces`, in one step for all readers.

        The contexts of the replaced corpus are deleted afterwards; if that is interrupted, `forget_obsolete` does it.
        """
        removal.supersede(self, entry)

    def forget_obsolete(self, corpus: str) -> None:
        """Delete the contexts of corpora that a corpus has replaced, if they are still there."""
        removal.forget_obsolete(self, corpus)

    def drop_corpus(self, corpus: str) -> int:
        """Remove a corpus from every layer and from the ledger, and return how many of its contexts a layer held.

        Contexts of a corpus that is not in the ledger are removed too (`verify` finds such corpora).

        Raises:
            LatentBankError: the bank has no such corpus.
        """
        return removal.drop_corpus(self, corpus)

    def clear_shares(self, stored: str) -> None:
        """Remove the records about shares of a corpus's ingestion, by the name it is stored under."""
        removal.clear_shares(self, stored)

    def close(self) -> None:
        """Release files, locks and connections."""
        self._current.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bank {self._manifest.summary(self.version)}>"
