"""The bank: the layer collections of one LLM, opened, filled, searched and checked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from bank.ledger import LEDGER_SECONDS, named, visible
from bank.manifest import CorpusEntry, Manifest, now, write_mean
from bank.merge import Unique, merge
from bank.points import Neighbor, Payload
from bank.search import Search, prepare
from bank.settings import Metric, Settings, load_settings
from bank.store import Floats, LayerInfo, Points, Store, bank_names, open_store
from bank.where import Filter, Where
from latentbank_errors import BankMismatch, BankNotFound, LatentBankError, LayerNotFound, QueryError
from latentbank_progress import Progress, Silent

BankLayers = Literal["mid", "all"] | int | Iterable[int]

_NAME = re.compile(r"[a-zA-Z0-9](?!.*--)[a-zA-Z0-9._-]{0,63}")
ROTATION_SEED = 2602_00462


@dataclass(frozen=True)
class BankInfo:
    """What a bank is and holds now; `layers` maps each bank layer to the state of its collection."""

    manifest: Manifest
    layers: dict[int, LayerInfo]


class Bank:
    """One LLM's layer collections. Made by `open_bank` or `create_bank`; a context manager.

    `search`, `count` and `words` are shown complete corpora only, unless it was opened with `include_incomplete`.
    What another process changes in a server's bank they see within a second.
    """

    def __init__(self, store: Store, manifest: Manifest, *, include_incomplete: bool = False) -> None:
        self._store = store
        self._manifest = manifest
        self._read_at = time.monotonic()
        self._include_incomplete = include_incomplete

    @property
    def name(self) -> str:
        """The bank's name."""
        return self._manifest.bank

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
        found = self.corpora
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
        fresh = _read_manifest(self._store, self.name)
        if self._manifest.means and dict(self._manifest.means) != dict(fresh.means):
            raise BankMismatch(
                f"Another job fixed other means in the centred bank '{self.name}' at the same moment; drop the "
                "corpus of this one (`latentbank bank drop-corpus`) and run it again."
            )
        self._manifest = fresh
        self._read_at = time.monotonic()

    def _visible(self, where: Filter | None) -> Filter | None:
        """Narrow a reader's filter to what readers are shown."""
        if self._store.shared and time.monotonic() - self._read_at > LEDGER_SECONDS:
            self.reload()
        return visible(where, self._manifest.corpora, incomplete=self._include_incomplete)

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
        if isinstance(bank_layers, str):  # asked first: an array compared with text is no truth value
            if bank_layers == "all":
                return self.layers
            if bank_layers == "mid":
                total = self._manifest.num_layers
                return [layer for layer in self.layers if total / 4 <= layer <= total / 2] or self.layers
            raise LayerNotFound(f"'{bank_layers}' names no bank layers; use mid, all or numbers.")
        given = [bank_layers] if isinstance(bank_layers, Integral) else bank_layers
        wanted = sorted({int(layer) for layer in cast("Iterable[int]", given)})
        missing = [layer for layer in wanted if layer not in self._manifest.layers]
        if not wanted:
            raise LayerNotFound(f"No bank layer was named; '{self.name}' has {_listed(self.layers)}.")
        if missing:
            raise LayerNotFound(
                f"The bank '{self.name}' has no layer {_listed(missing)}; it has {_listed(self.layers)}."
            )
        return wanted

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
        layers = self.choose_layers(bank_layers)
        self.require_query_mean(given=query_mean is not None)
        vectors = self._prepare(queries, "queries", query_mean)
        search = Search(self._store, layers, self._visible(where), exact, payloads=unique == "word", ef=ef)
        found = search.ask(vectors, top_k)
        if unique == "word":
            search.find_words(found, vectors, top_k)
        neighbors = search.neighbors([merge(candidates, top_k, unique) for candidates in found])
        return [named(row, self._manifest.corpora) for row in neighbors]

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
                f"{_listed(self.layers)}."
            )
        mean = self._manifest.mean(layer)
        if mean is None:
            raise QueryError(f"The bank '{self.name}' holds plain cosine: it has no means.")
        return mean

    def count(self, layer: int | None = None, where: Filter | None = None) -> int:
        """Count contexts in a layer (the first one by default: all layers hold the same contexts)."""
        (chosen,) = self.choose_layers(self.layers[0] if layer is None else layer)
        return self._store.count(chosen, self._visible(where))

    def held(self, stored: str) -> set[int]:
        """Count the contexts that each layer holds of a corpus, complete or not, by the name it is stored under.

        One number if the layers agree, as those of a complete corpus do.
        """
        return {self._store.count(layer, Where(corpus=stored)) for layer in self.layers}

    def words(self, where: Filter | None = None, limit: int = 20) -> dict[str, int]:
        """Count contexts by their word, most frequent first, as far as `limit`."""
        return self._store.facet(self.layers[0], "word", self._visible(where), limit)

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
        from bank.verify import verify

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
        self._store.upsert(layer, Points(ids, self._prepare(states, "hidden states", mean), payloads))

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
                f"{_listed(self.layers)}."
            )
        fixed = {layer: write_mean(given[layer]) for layer in self.layers}
        self._store.write_manifest(replace(self._manifest, means=fixed).head())
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
        self._store.close()

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
        return f"<Bank {m.bank}: {m.model}, {metric}layers {_listed(m.layers)}, {corpora}>"

    def _prepare(self, states: npt.ArrayLike, what: str, mean: npt.ArrayLike | None) -> Floats:
        return prepare(states, what, self.hidden_size, self._manifest.rotation_seed, mean)


def open_bank(
    name: str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    fingerprint: str | None = None,
    include_incomplete: bool = False,
    **given: Any,
) -> Bank:
    """Open a bank, embedded or on a server as the settings say.

    Args:
        name: the bank's name.
        settings: where it is; read from arguments and environment when None.
        model: with `fingerprint`, the model whose hidden states will be used, checked at once.
        fingerprint: that model's fingerprint.
        include_incomplete: search corpora whose ingestion is not complete, too.
        given: settings as arguments (`url=…`, `data_dir=…`).

    Raises:
        BankNotFound: there is no such bank.
        BankUnavailable, BankBusy, BankMismatch: see there.
    """
    settings = settings or load_settings(**given)
    check_name(name)
    store = open_store(name, settings)
    try:
        bank = Bank(store, _read_manifest(store, name), include_incomplete=include_incomplete)
        if fingerprint is not None:
            bank.require_model(model or "the given model", fingerprint)
    except BaseException:
        store.close()
        raise
    return bank


def create_bank(
    name: str,
    settings: Settings | None = None,
    *,
    model: str,
    fingerprint: str,
    layers: Iterable[int],
    num_layers: int,
    hidden_size: int,
    revision: str | None = None,
    metric: Metric | None = None,
    **given: Any,
) -> Bank:
    """Create a bank, or open the one that is there if it was made for the same model and layers.

    Args:
        name: 1 to 64 letters, digits, `.`, `_`, `-`; no double hyphen.
        settings: where to make it; read from arguments and environment when None.
        model: the LLM's name, as people will read it.
        fingerprint: the LLM's fingerprint.
        layers: the bank layers, each from 0 to `num_layers`.
        num_layers: blocks of the whole LLM.
        hidden_size: width of its hidden states.
        revision: the LLM's revision, where known.
        metric: "cosine" compares hidden states as they are, "centred" takes the mean of their kind from them
            first. None: the bank's own; for a new bank the settings' (`LATENTBANK_METRIC`, else "cosine").
        given: settings as arguments.

    Raises:
        BankMismatch: there is a bank of that name with another model, other layers or another metric.
        LayerNotFound: a layer that the LLM does not have.
        LatentBankError: there is no such metric.
    """
    if metric not in (None, "cosine", "centred"):
        raise LatentBankError(f"metric is {metric!r}; it can be 'cosine' or 'centred'.")
    settings = settings or load_settings(**given)
    check_name(name)
    wanted = tuple(sorted(set(layers)))
    outside = [layer for layer in wanted if not 0 <= layer <= num_layers]
    if outside or not wanted:
        raise LayerNotFound(
            f"{model} has no layer {_listed(outside)}; its layers are 0 (the input) to {num_layers}."
            if outside
            else f"No layer was named for the bank '{name}'; {model} has 0 (the input) to {num_layers}."
        )

    def agree(bank: Bank) -> None:
        bank.require_model(model, fingerprint)
        if wanted != bank.manifest.layers:
            raise BankMismatch(
                f"The bank '{name}' has layers {_listed(bank.layers)}, not {_listed(wanted)}; leave the "
                "layers out or choose another bank name."
            )
        if metric not in (None, bank.metric):
            raise BankMismatch(
                f"The bank '{name}' was made with metric '{bank.metric}', not '{metric}'; leave the metric "
                "out or choose another bank name."
            )

    manifest = Manifest(
        bank=name,
        model=model,
        revision=revision,
        fingerprint=fingerprint,
        num_layers=num_layers,
        hidden_size=hidden_size,
        layers=wanted,
        rotation_seed=ROTATION_SEED,
        quantization=settings.quantization,
        metric=metric or settings.metric,
    )
    return make_bank(manifest, settings, agree)


def make_bank(manifest: Manifest, settings: Settings, agree: Callable[[Bank], None]) -> Bank:
    """Create the bank that a manifest describes, without its corpora, or open the one of that name.

    Args:
        manifest: what the bank will be.
        settings: where to make it.
        agree: called with a bank that is there already; raises if it is not the one that is wanted.
    """
    name = manifest.bank
    check_name(name)
    store = open_store(name, settings, create=True)
    try:
        found = store.read_manifest()
        if found is None and (left := store.layers()):
            held = any(store.count(layer) for layer in left)
            found = store.read_manifest()  # another process may have made it meanwhile, and begun to fill it
            if found is None and held:
                raise BankMismatch(
                    f"The bank '{name}' has contexts but no manifest; restore the manifest, or remove what is left "
                    f"with `latentbank bank delete {name}`."
                )
            if found is None and not set(left) <= set(manifest.layers):
                store.delete()  # a killed creation left them, empty
                store.close()
                store = open_store(name, settings, create=True)
        bank = Bank(store, replace(manifest, corpora={}) if found is None else Manifest.from_dict(*found))
        if found is not None:
            agree(bank)
        # The manifest comes last, so a creation that is killed leaves no bank. A layer of a bank that is there
        # can be missing only because it was deleted by other means: it is made again, empty.
        # What a killed creation left is made again; what another process makes at this moment stays (`create`).
        there = set(store.layers()) if found is not None else set()
        for layer in bank.layers:
            if layer not in there:
                store.create(layer, manifest.hidden_size, bank.manifest.quantization)
        if found is not None and bank.layers[0] not in there and store.read_manifest() is None:
            # A server that lost everything while another process made the bank: its lowest layer, which carries the
            # manifest, is one of those that were missing.
            store.write_manifest(bank.manifest.head())
            store.write_entries({name: one.to_dict() for name, one in bank.manifest.corpora.items()})
        if found is None:
            if not store.shared or store.read_manifest() is None:
                store.write_manifest(bank.manifest.head())
            bank.reload()
            agree(bank)
    except BaseException:
        store.close()
        raise
    return bank


def list_banks(settings: Settings | None = None, **given: Any) -> list[str]:
    """Give the names of all banks the settings reach."""
    return bank_names(settings or load_settings(**given))


def delete_bank(name: str, settings: Settings | None = None, **given: Any) -> None:
    """Delete a bank with all its layer collections, also what an interrupted deletion left of it.

    Raises:
        BankNotFound: there is no such bank.
    """
    check_name(name)
    store = open_store(name, settings or load_settings(**given))
    try:
        if not store.layers():
            _read_manifest(store, name)
        store.delete()
    finally:
        store.close()


def check_name(name: str) -> None:
    """Refuse what cannot name a bank.

    Raises:
        LatentBankError: the name is none.
    """
    if not _NAME.fullmatch(name):
        raise LatentBankError(
            f"'{name}' cannot name a bank: use 1 to 64 letters, digits, '.', '_' and single '-', "
            "starting with a letter or a digit."
        )


def _read_manifest(store: Store, name: str) -> Manifest:
    found = store.read_manifest()
    if found is None:
        raise BankNotFound(
            f"There is no bank '{name}' here; `latentbank bank list` shows those there are, "
            "`latentbank ingest run` makes one."
        )
    return Manifest.from_dict(*found)


def _listed(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers))
