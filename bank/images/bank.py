"""The bank of images: one VLM's visual tokens, a collection for each visual layer, beside the contexts of a bank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from latentbank.bank.asking import Asked
from latentbank.bank.bank import Bank
from latentbank.bank.images.points import Patch, StoredImage, patch_id, patch_ids
from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.bank.planning import Way, way_of
from latentbank.bank.points import Hit, Payload, Stored
from latentbank.bank.search import Search, prepare
from latentbank.bank.settings import Settings
from latentbank.bank.store.base import Floats, LayerInfo, Points, Store
from latentbank.bank.store.captions import Ids
from latentbank.bank.store.grouping import Groups
from latentbank.bank.store.names import split_images
from latentbank.bank.where import Filter, WhereImage
from latentbank.errors import LayerNotFound
from latentbank.progress import Progress
from latentbank.text import listed
from latentbank.values import whole

# Points that are read at once by their ids.
_READ = 1000


class ImageBank:
    """One VLM's visual tokens in a bank, opened by `open_images` or `create_images`; a context manager.

    Vectors are stored by plain cosine, rotated as the bank's contexts are, also where the bank is centred. Images are
    found as soon as they are stored, also those of a corpus whose ingestion is not complete.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        """Take over an open store of images, and its manifest."""
        parts = split_images(store.bank)
        self.collections = Bank(store, replace(manifest, bank=parts[0] if parts else store.bank))
        """The collections as those of a bank, whose contexts are visual tokens: to check, copy and index them."""
        self._store = store
        self.searched: dict[int, str] = {}  # how each visual layer was searched last, for people

    @property
    def _manifest(self) -> Manifest:
        return self.collections.manifest

    @property
    def name(self) -> str:
        """The name of the bank that the images belong to."""
        return self._manifest.bank

    @property
    def stored(self) -> str:
        """The name that the images are stored under, from the bank's name and the VLM's fingerprint."""
        return self._store.bank

    @property
    def model(self) -> str:
        """The VLM's name."""
        return self._manifest.model

    @property
    def fingerprint(self) -> str:
        """The VLM's fingerprint: 32 hex digits from all weights that make its visual tokens."""
        return self._manifest.fingerprint

    @property
    def manifest(self) -> Manifest:
        """What is stored: `model` is the VLM, `layers` its visual layers, a corpus's `sentences` its images.

        A corpus's `contexts` are its visual tokens.
        """
        return self._manifest

    @property
    def store(self) -> Store:
        """The store that holds the collections."""
        return self._store

    @property
    def settings(self) -> Settings:
        """The settings: where the bank is and how it is searched."""
        return self._store.settings

    @property
    def layers(self) -> list[int]:
        """The visual layers, ascending."""
        return list(self._manifest.layers)

    @property
    def hidden_size(self) -> int:
        """Width of a visual token's hidden state."""
        return self._manifest.hidden_size

    @property
    def corpora(self) -> dict[str, CorpusEntry]:
        """The ledger: every corpus of images by name, also one whose ingestion is not complete."""
        return self.collections.corpora

    def choose_layer(self, layer: int) -> int:
        """Return a visual layer after a check.

        Raises:
            LayerNotFound: there is no collection for it; the message names those there are.
        """
        chosen = whole(layer, "layer")
        if chosen not in self._manifest.layers:
            raise LayerNotFound(
                f"The images of the bank '{self.name}' are not stored at visual layer {chosen}; they are at "
                f"{listed(self.layers)}."
            )
        return chosen

    # -- reading -------------------------------------------------------------------------------

    def search(
        self,
        queries: npt.ArrayLike,
        layer: int,
        limit: int = 20,
        where: Filter | None = None,
        *,
        search: Way | None = None,
        ef: int | None = None,
    ) -> list[list[Patch]]:
        """Return the visual tokens nearest to each query by cosine, at one visual layer.

        Args:
            queries: `[queries, hidden]` (or one query `[hidden]`) in any float dtype, not rotated; they need not have
                length 1.
            layer: the visual layer.
            limit: patches per query.
            where: only visual tokens that this filter of `WhereImage` selects.
            search: as for `Bank.search`.
            ef: number of tokens examined in a large layer's graph; None: as in the settings for visual tokens.

        Raises:
            QueryError: the queries have a wrong shape or type, or one is zero or not finite.
            LayerNotFound: there is no such visual layer.
        """
        vectors = prepare(queries, "queries", self.hidden_size, self._manifest.rotation_seed)
        return self.nearest(vectors, layer, limit, where, search=search, ef=ef)

    def nearest(
        self,
        vectors: Floats,
        layer: int,
        limit: int = 20,
        where: Filter | None = None,
        *,
        search: Way | None = None,
        ef: int | None = None,
    ) -> list[list[Patch]]:
        """Return what `search` does, for queries as they are stored: rotated, of length 1, float32 `[n, hidden]`."""
        chosen, limit = self.choose_layer(layer), whole(limit, "limit", 1)
        way = way_of(search, exact=False, default=self.settings.search if ef is None else "graph")
        asked = Asked(whole(ef, "ef", 1) if ef is not None else self.settings.ef_visual)
        made = Search(self._store, [chosen], where, way, payloads=True, asked=asked)
        found = made.hits(vectors, limit)
        plan = made.plans.get(chosen)
        self.searched[chosen] = str(plan) if plan else "through the index"
        return [_patches(found[row, chosen], chosen) for row in range(len(vectors))]

    def nearest_by_image(
        self,
        vector: Floats,
        layer: int,
        images: int = 20,
        per_image: int = 1,
        where: Filter | None = None,
        *,
        exact: bool = False,
        ef: int | None = None,
    ) -> list[list[Patch]]:
        """Return the images whose best visual tokens are nearest to a query, nearest first, each with its own best.

        A picture that is stored twice, under two names or in two corpora, is one image here.

        Args:
            vector: as it is stored: rotated, of length 1, float32 `[hidden]`.
            layer: the visual layer.
            images: images, at most.
            per_image: visual tokens of each, at most.
            where: only visual tokens that this filter of `WhereImage` selects.
            exact: compare with every visual token.
            ef: as for `search`.
        """
        chosen = self.choose_layer(layer)
        wanted = Groups("digest", whole(images, "images", 1), whole(per_image, "per_image", 1), where)
        examined = whole(ef, "ef", 1) if ef is not None else self.settings.ef_visual
        found = self._store.groups(chosen, vector, wanted, exact, examined)
        return [_patches(group, chosen) for group in found]

    def count(self, layer: int | None = None, where: Filter | None = None) -> int:
        """Return the number of visual tokens at a visual layer (by default the first: all hold the same ones)."""
        return self._store.count(self._lowest if layer is None else self.choose_layer(layer), where)

    def facet(
        self, field: str, where: Filter | None = None, limit: int = 100, layer: int | None = None
    ) -> dict[Any, int]:
        """Return the number of visual tokens by value of an indexed field, such as "word" or "image"."""
        chosen = self._lowest if layer is None else self.choose_layer(layer)
        return self._store.facet(chosen, field, where, limit)

    def images(self, where: Filter | None = None, *, pictures: bool = False) -> Iterator[StoredImage]:
        """Iterate over the images in the order of their ids, which is a random one.

        Args:
            where: only images that this filter of `WhereImage` selects, by corpus or name.
            pictures: with their small pictures.
        """
        first: Filter = WhereImage(token=0)
        for point in self._store.scroll(
            self._lowest, first if where is None else where & first, payloads=True
        ):
            payload = cast("dict[str, Any]", point.payload)
            yield StoredImage.from_payload(payload if pictures else {**payload, "picture": ""})

    def pictures(self, patches: Sequence[Patch]) -> dict[tuple[str, str], bytes]:
        """Return the small pictures (JPEG) of the images that patches belong to, by corpus and digest."""
        ids = list(dict.fromkeys(patch.first_id for patch in patches))
        found: dict[tuple[str, str], bytes] = {}
        for some in _some(ids):
            for payload in self._store.payloads(self._lowest, some).values():
                image = StoredImage.from_payload(cast("dict[str, Any]", payload))
                found[image.corpus, image.digest] = image.picture
        return found

    def patch(self, id_: str) -> Patch | None:
        """Return a visual token by its id, as it is at the lowest visual layer; None if it is not stored."""
        payload = self._store.payloads(self._lowest, [id_]).get(id_)
        if payload is None:
            return None
        return Patch.from_payload(id_, self._lowest, 1.0, cast("dict[str, Any]", payload))

    def patches(self, layer: int, where: Filter | None = None) -> Iterator[tuple[Patch, Floats]]:
        """Iterate over visual tokens with their vectors as they are stored: rotated, float32 `[hidden]`.

        They come in the order of their ids, with a cosine of 1.
        """
        chosen = self.choose_layer(layer)
        for point in self._store.scroll(chosen, where, vectors=True, payloads=True):
            if point.payload is not None and point.vector is not None:
                payload = cast("dict[str, Any]", point.payload)
                yield Patch.from_payload(point.id, chosen, 1.0, payload), point.vector

    def vectors(self, layer: int, ids: Sequence[str]) -> dict[str, Floats]:
        """Return vectors of visual tokens by id, as they are stored: rotated, float32 `[hidden]`.

        Tokens that are not stored are left out.
        """
        chosen = self.choose_layer(layer)
        found: dict[str, Floats] = {}
        for some in _some(ids):
            stored = self._store.scroll(chosen, Ids(frozenset(some)), vectors=True)
            found |= {point.id: point.vector for point in stored if point.vector is not None}
        return found

    def prepared(self, states: npt.ArrayLike) -> Floats:
        """Return hidden states `[n, hidden]` or `[hidden]` as they are stored: of length 1, rotated, `[n, hidden]`.

        Raises:
            QueryError: they have a wrong shape or type, or one is zero or not finite.
        """
        return prepare(states, "hidden states", self.hidden_size, self._manifest.rotation_seed)

    def info(self) -> dict[int, LayerInfo]:
        """Return the state of every collection by visual layer."""
        return self.collections.info().layers

    def verify(self, sample: int = 1000, progress: Progress | None = None) -> list[str]:
        """Check the collections as `Bank.verify` does; a corpus's contexts are its visual tokens here."""
        return self.collections.verify(sample, progress)

    @property
    def _lowest(self) -> int:
        return self._manifest.layers[0]

    # -- writing -------------------------------------------------------------------------------

    def add(
        self, layer: int, ids: Sequence[str], states: npt.ArrayLike, payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store visual tokens at one visual layer; durable once `commit` has returned.

        Args:
            layer: the visual layer.
            ids: from `patch_id`.
            states: `[n, hidden]`, hidden states as the VLM gave them.
            payloads: as `PatchPayload`.

        Raises:
            QueryError: a hidden state is zero or not finite.
        """
        vectors = self.prepared(states)
        self._store.upsert(
            self.choose_layer(layer), Points(ids, vectors, cast("Sequence[Payload]", payloads))
        )

    def set_words(self, layer: int, words: Mapping[str, str], points: Sequence[Stored]) -> None:
        """Store the word of each visual token, by its id, at one visual layer; durable once `commit` has returned.

        An empty word is stored too: it says that the token was read and shows none.

        Args:
            layer: the visual layer.
            words: the words.
            points: these tokens as they are stored, with vectors and payloads.
        """
        changes = {id_: {"word": word} for id_, word in words.items()}
        self._store_changed(self.choose_layer(layer), points, changes)

    def rename(self, corpus: str, names: Mapping[str, str]) -> None:
        """Store other names of images, by their digests.

        An image's first token, by which it is listed, gets its name last: after a kill it has the old one.
        """
        firsts = {patch_id(corpus, digest, 0): {"image": name} for digest, name in names.items()}
        for digest, name in names.items():
            first = self._store.payloads(self._lowest, [patch_id(corpus, digest, 0)])
            tokens = [cast("dict[str, Any]", payload)["tokens"] for payload in first.values()]
            changes = {id_: {"image": name} for id_ in patch_ids(corpus, digest, sum(tokens))}
            for layer in self.layers[1:]:
                self._rewrite(layer, changes)
            self._rewrite(self._lowest, {id_: own for id_, own in changes.items() if id_ not in firsts})
        self.commit()
        self._rewrite(self._lowest, firsts)
        self.commit()

    def _rewrite(self, layer: int, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Store points again with other values of some payload fields, by their ids."""
        for some in _some(list(changes)):
            found = list(self._store.scroll(layer, Ids(frozenset(some)), vectors=True, payloads=True))
            self._store_changed(layer, found, changes)

    def _store_changed(
        self, layer: int, points: Sequence[Stored], changes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        rows = [point.vector for point in points if point.vector is not None]
        payloads = [{**cast("dict[str, Any]", point.payload), **changes[point.id]} for point in points]
        if points:
            stored = cast("Sequence[Payload]", payloads)
            self._store.upsert(layer, Points([point.id for point in points], np.stack(rows), stored))

    def commit(self) -> None:
        """Make everything added so far durable."""
        self._store.commit()

    def remove(self, ids: Sequence[str]) -> None:
        """Delete visual tokens by their ids, at all visual layers."""
        for some in _some(ids):
            for layer in self.layers:
                self._store.delete_points(layer, Ids(frozenset(some)))

    def drop_corpus(self, corpus: str) -> int:
        """Remove a corpus of images from every visual layer and from the ledger; return how many tokens it had.

        Raises:
            LatentBankError: there is no such corpus.
        """
        return self.collections.drop_corpus(corpus)

    def close(self) -> None:
        """Release files, locks and connections."""
        self.collections.close()

    def __enter__(self) -> ImageBank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ImageBank {self.name}: {self.model}, visual layers {listed(self.layers)}>"


def _some(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ids, as many at once as are read or changed together."""
    return (ids[at : at + _READ] for at in range(0, len(ids), _READ))


def _patches(hits: Sequence[Hit], layer: int) -> list[Patch]:
    return [
        Patch.from_payload(hit.id, layer, hit.score, cast("dict[str, Any]", hit.payload))
        for hit in hits
        if hit.payload is not None
    ]
