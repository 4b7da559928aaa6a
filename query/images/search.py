"""Searching a bank of images: where a word is seen, and what looks like a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from latentbank.bank.rotation import unit
from latentbank.bank.where import WhereImage
from latentbank.errors import LayerNotFound, QueryError
from latentbank.query.images.contexts import Term, term_of_bank
from latentbank.query.images.ranking import Pool, Ranking, by_cosine, by_examples, by_means
from latentbank.query.images.results import RankedPatches
from latentbank.query.images.space import Floats, Words, require_same_space, visual_mean, words_of
from latentbank.text import listed
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.images.bank import ImageBank
    from latentbank.bank.images.points import Patch
    from latentbank.bank.where import Filter
    from latentbank.progress import Progress

Correct = Literal["both", "mean", "none"]
"""How patches are ranked. "none": by plain cosine. "mean": after the means of visual tokens and of text are subtracted.
"both": of a word, also by how much nearer it is than all other words, and by what its best patches look like."""

_TOLD: dict[str, str] = {
    "both": "corrected by means, other words and the best patches",
    "mean": "corrected by means",
    "none": "",
}
_BANK_DEPTH, _VISUAL_DEPTH = 0.4, 0.5


@dataclass(frozen=True, kw_only=True)
class How:
    """How a bank of images is asked.

    Attributes:
        layers: visual layers, whose scores are averaged; None: the stored one nearest to the middle of the LLM.
        limit: patches, or with `by_image` images.
        where: only visual tokens that this filter of `WhereImage` selects.
        by_image: an image's best patches together, images in the order of their best.
        per_image: with `by_image`, patches of an image.
        correct: how patches are ranked; see `Correct`.
        exact: compare with every visual token instead of using the index.
        pictures: fetch the small pictures of the images, too.
    """

    layers: Layers | None = None
    limit: int = 20
    where: Filter | None = None
    by_image: bool = False
    per_image: int = 3
    correct: Correct = "both"
    exact: bool = False
    pictures: bool = True

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            QueryError: a number is no whole one from 1 on, or there is no such correction.
        """
        whole(self.limit, "limit", 1)
        whole(self.per_image, "per_image", 1)
        if self.correct not in get_args(Correct):
            raise QueryError(
                f"There is no correction {self.correct!r} here; there are {listed(get_args(Correct))}.",
                argument="correct",
            )


class ImageSearch:
    """Searches one bank of images by words of a bank, and by patches; it keeps what it measures.

    Args:
        images: the bank of images, open.
        bank: the bank of the same LLM, of whose contexts words are made; None: only patches can be asked for.
        progress: receives the contexts that are read when a bank layer's words are made, once for each bank.
        means: what an earlier search of the same images has measured, by visual layer; filled.

    Raises:
        BankMismatch: visual tokens and contexts do not lie in one space.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.bank.images.opening import open_images
        >>> from latentbank.query.images.search import How, ImageSearch
        >>> with lb.open_bank("captions") as bank, open_images("captions") as images:
        ...     found = ImageSearch(images, bank).where("dog", How(limit=20))
        >>> places = [(patch.image, patch.row, patch.column) for patch in found.patches]
    """

    def __init__(
        self,
        images: ImageBank,
        bank: Bank | None = None,
        progress: Progress | None = None,
        means: dict[int, Floats] | None = None,
    ) -> None:
        """Check that both belong together; nothing is measured yet."""
        if bank is not None:
            require_same_space(images, bank)
        self.images, self.bank, self._progress = images, bank, progress
        self._means = {} if means is None else means
        self._words: dict[int, Words] = {}

    def where(self, word: str | Term, how: How | None = None, bank_layer: int | None = None) -> RankedPatches:
        """Return the visual tokens that mean a word, best first.

        Args:
            word: a word, or several that follow each other, which the bank holds; or a `Term` made elsewhere.
            how: how it is asked.
            bank_layer: the bank layer whose contexts the word is made of; None: see `bank_layer`.

        Raises:
            QueryError: the bank has no context of the word.
            LayerNotFound: a layer that is not stored.
        """
        how = how or How()
        layer = self.bank_layer(bank_layer)
        term = self.term(word, layer) if isinstance(word, str) else word
        if layer not in term.vectors:
            raise LayerNotFound(
                f"'{term.text}' is known at bank layer {listed(term.vectors)}, not at {layer}.",
                argument="bank_layer",
            )
        vector = term.vectors[layer]
        rankings = [self._of_word(vector, layer, pool, how) for pool in self._pools(how)]
        return self._answer(f"“{term.text}”", rankings, how, (layer,), term.source)

    def term(self, word: str, bank_layer: int | None = None, contexts: Filter | None = None) -> Term:
        """Return a word as the mean of its contexts at a bank layer.

        Args:
            word: the word, or several that follow each other.
            bank_layer: None: see `bank_layer`.
            contexts: only contexts that this filter of `Where` selects.

        Raises:
            QueryError: the bank has no context of it.
        """
        bank = self._require_bank()
        found = term_of_bank(bank, word, [self.bank_layer(bank_layer)], contexts)
        if found is None:
            raise QueryError(
                f"The bank '{bank.name}' has no context of '{word}'; give a sentence that holds it.",
                argument="sentence",
            )
        return found

    def like(
        self, patch: Patch | Mapping[int, Floats], how: How | None = None, name: str = "the patch"
    ) -> RankedPatches:
        """Return the visual tokens with the meaning of another one, best first.

        Args:
            patch: a visual token that is stored, which is left out of the answer; or a hidden state of a VLM by visual
                layer, `[hidden]`, as the VLM gave it.
            how: how it is asked; for a patch, "both" and "mean" are the same.
            name: what a hidden state is called.

        Raises:
            QueryError: the patch is not stored any more.
            LayerNotFound: a visual layer that is not stored.
        """
        how = how or How()
        pools = self._pools(how)
        without, rankings = "", []
        if not isinstance(patch, Mapping):
            name, without = f"{patch.image}, row {patch.row}, column {patch.column}", patch.id
        for pool in pools:
            vector = self._vector(patch, pool.layer)
            if how.correct == "none":
                rankings.append(by_cosine(replace(pool, limit=pool.limit + 1), vector))
            else:
                mean = self._mean(pool.layer)
                rankings.append(by_means(pool, vector, unit((vector - mean)[None])[0], mean))
        for ranking in rankings:
            ranking.found.pop(without, None)
        return self._answer(f"like {name}", rankings, how, (), "")

    def patch(self, image: str, row: int, column: int, tile: int | None = None) -> Patch:
        """Return a stored visual token by its place in an image; the image by its name or its digest.

        Raises:
            QueryError: there is none.
        """
        layer = self.images.layers[0]
        place: Filter = WhereImage(row_min=row, row_max=row, column_min=column, column_max=column)
        if tile is not None:
            place &= WhereImage(tile=tile)
        for own in (WhereImage(image=image), WhereImage(digest=image)):
            for patch, _ in self.images.patches(layer, own & place):
                return patch
        known = self.knows(image)
        raise QueryError(
            f"{image} has no patch in row {row}, column {column}; they count from 0."
            if known
            else f"No image '{image}' is stored; list the images, or ingest it.",
            argument="patch" if known else None,
        )

    def knows(self, image: str) -> bool:
        """Return whether an image is stored, by its name or its digest."""
        return self.images.count(where=WhereImage(image=image) | WhereImage(digest=image)) > 0

    def bank_layer(self, layer: int | None = None) -> int:
        """Return a bank layer; None: the one nearest to two fifths of the LLM's depth.

        Raises:
            LayerNotFound: the bank does not have it.
        """
        bank = self._require_bank()
        if layer is not None:
            return bank.choose_layers([layer])[0]
        return _nearest(bank.layers, _BANK_DEPTH * bank.manifest.num_layers)

    def visual_layers(self, layers: Layers | None = None) -> tuple[int, ...]:
        """Return visual layers; None: the stored one nearest to the middle of the LLM.

        Raises:
            LayerNotFound: one is not stored.
        """
        if layers is not None:
            return tuple(self.images.choose_layer(layer) for layer in layers_of(layers))
        return (_nearest(self.images.layers, _VISUAL_DEPTH * self.images.manifest.num_layers),)

    # -- inside --------------------------------------------------------------------------------

    def _pools(self, how: How) -> list[Pool]:
        per_image = how.per_image if how.by_image else None
        return [
            Pool(self.images, layer, how.where, how.limit, per_image, how.exact)
            for layer in self.visual_layers(how.layers)
        ]

    def _of_word(self, vector: Floats, bank_layer: int, pool: Pool, how: How) -> Ranking:
        question = unit(vector[None])[0]
        if how.correct == "none":
            return by_cosine(pool, question)
        words, mean = self._known_words(bank_layer), self._mean(pool.layer)
        direction = unit((vector - words.mean)[None])[0]
        if how.correct == "mean":
            return by_means(pool, question, direction, mean)
        return by_examples(pool, question, direction, mean, words)

    def _answer(
        self, question: str, rankings: Sequence[Ranking], how: How, bank_layers: tuple[int, ...], source: str
    ) -> RankedPatches:
        """Merge what was found at the visual layers, where a token has the same id, and cut it."""
        known = {id_: patch for ranking in rankings for id_, patch in ranking.found.items()}
        ids = list(known)
        patches: list[Patch] = []
        if ids:
            told = [ranking.scores(ids) for ranking in rankings]
            scores = np.mean([scores for scores, _ in told], axis=0)
            cosines = np.mean([cosines for _, cosines in told], axis=0)
            corrected = how.correct != "none"
            patches = [
                replace(
                    known[ids[place]],
                    cosine=float(cosines[place]),
                    corrected=float(scores[place]) if corrected else None,
                )
                for place in np.argsort(-scores, kind="stable").tolist()
            ]
        chosen = _by_image(patches, how) if how.by_image else patches[: how.limit]
        return RankedPatches(
            question=question,
            patches=tuple(chosen),
            bank=self.images.name,
            model=self.images.model,
            visual_layers=tuple(ranking.pool.layer for ranking in rankings),
            bank_layers=bank_layers,
            source=source,
            correction=_TOLD[how.correct if bank_layers or how.correct == "none" else "mean"],
            by_image=how.by_image,
            pictures=self.images.pictures(chosen) if how.pictures and chosen else {},
        )

    def _vector(self, patch: Patch | Mapping[int, Floats], layer: int) -> Floats:
        """Return a patch's vector at a visual layer: rotated, of length 1."""
        if isinstance(patch, Mapping):
            if layer not in patch:
                raise LayerNotFound(
                    f"The patch is known at visual layer {listed(patch)}, not at {layer}.",
                    argument="visual_layers",
                )
            own: Floats = self.images.prepared(patch[layer])[0]
            return own
        rows = self.images.vectors(layer, [patch.id])
        if patch.id not in rows:
            raise QueryError(f"{patch.image} is not stored any more; ask for another patch.")
        stored: Floats = unit(rows[patch.id][None])[0]
        return stored

    def _mean(self, layer: int) -> Floats:
        if layer not in self._means:
            self._means[layer] = visual_mean(self.images, layer)
        return self._means[layer]

    def _known_words(self, layer: int) -> Words:
        if layer not in self._words:
            self._words[layer] = words_of(self._require_bank(), layer, self._progress)
        return self._words[layer]

    def _require_bank(self) -> Bank:
        if self.bank is None:
            raise QueryError("Words are made of a bank's contexts; open the bank, too.")
        return self.bank


def _nearest(layers: Sequence[int], depth: float) -> int:
    return min(layers, key=lambda layer: (abs(layer - depth), layer))


def _by_image(patches: Sequence[Patch], how: How) -> list[Patch]:
    groups: dict[str, list[Patch]] = {}
    for patch in patches:
        groups.setdefault(patch.digest, []).append(patch)
    best = list(groups.values())[: how.limit]
    return [patch for group in best for patch in group[: how.per_image]]
