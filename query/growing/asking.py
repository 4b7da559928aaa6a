"""Find what is missing in a bank: read images, and look for visual tokens to which no context comes near."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.layers import BankLayers
from latentbank.bank.rotation import unit, unrotate
from latentbank.bank.search import as_floats
from latentbank.bank.vectors import stored_vectors, unit_mean
from latentbank.bank.where import Filter
from latentbank.errors import QueryError
from latentbank.models.vision.sources import Source
from latentbank.progress import Progress, Silent
from latentbank.query.calibration.calibration import FEWEST_OWN
from latentbank.query.calibration.references import MOST, density_mean, mean_of_largest, nearest_of
from latentbank.query.growing.missing import Group, Missing
from latentbank.query.growing.scores import NEAREST, Floats, Space
from latentbank.query.growing.silent import silent_tokens
from latentbank.query.reading.visual_tokens import Broken, image_tokens
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.points import Neighbor
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.silence.silence import Silence

FEWEST = FEWEST_OWN
"""Images that are needed at least: of fewer, the tokens are a poor reference for each other."""
REFERENCE = 2048
"""Tokens of a visual layer among which a context's hubness is measured, at most."""
_SAMPLE = 20_000  # contexts whose mean is that of a bank layer
_POOL = 4  # tokens of an image that are looked at for each that is chosen
_SEARCHED = 512  # tokens that are searched at once
_WORDS = 5  # nearest words of a token that are kept


@dataclass
class _Tokens:
    """Visual tokens of images: hidden states by layer, and the number of each token's image."""

    states: dict[int, list[Floats]] = field(default_factory=dict)
    images: list[int] = field(default_factory=list)
    count: int = 0
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(self, states: Mapping[int, Any], chosen: npt.NDArray[np.int64]) -> None:
        for layer, rows in states.items():
            self.states.setdefault(layer, []).append(as_floats(rows).astype(np.float32)[chosen])
        self.images += [self.count] * len(chosen)
        self.count += 1


def find_missing(
    bank: Bank,
    model: VisualModel,
    images: Iterable[Source],
    layers: Layers,
    *,
    bank_layers: BankLayers = "mid",
    where: Filter | None = None,
    silence: Silence | None = None,
    tokens_per_image: int = 16,
    prompt: str | None = None,
    batch: int = 8,
    broken: Broken | None = None,
    progress: Progress | None = None,
) -> Missing:
    """Read images and return the visual tokens that ask for contexts, and those of other images that are held out.

    Every second image asks, the others are held out. How near a context is to a token is the score of
    `latentbank.query.growing.scores`, so a context that is near to all tokens is near to none.

    Args:
        bank: a bank of the VLM's own language model, of plain cosine.
        model: the VLM.
        images: paths, bytes, open images, or what `find_images` found; at least 20.
        layers: the visual layers.
        bank_layers: the bank layers that are compared. The LLM runs as deep as the deepest of them.
        where: the contexts that count; the corpus that grows must not be among them.
        silence: only tokens that fall silent are taken, by a calibration of the VLM for this bank; None: all.
        tokens_per_image: tokens of each image and layer that ask or are held out, at most: those that resemble the
            fewest others. Background resembles itself, and would ask the same many times.
        prompt: the text beside the image; None: the model's own.
        batch: images in one forward pass.
        broken: called with the name of an image that cannot be read, and the error. None: it is raised.
        progress: counts images, then tokens that are searched.

    Raises:
        BankMismatch: the bank belongs to another model.
        QueryError: too few images, no layer, a centred bank, or with `silence` a layer that is not calibrated.
        ImageError: an image cannot be read, and `broken` is None.
        ModelError: a hidden state is not finite.
    """
    chosen, progress = layers_of(layers), progress or Silent()
    _check(bank, model, chosen)
    searched = bank.choose_layers(bank_layers)
    per_image = whole(tokens_per_image, "tokens_per_image", 1)
    found = _read(model, images, chosen, _POOL * per_image, prompt, batch, broken, progress)
    if found.count < FEWEST:
        raise QueryError(
            f"{found.count} images are too few to tell what is missing; give at least {FEWEST}.",
            argument="images",
        )
    means = {layer: _text_mean(bank, layer) for layer in searched}
    spaces, asking, held_out, words = {}, {}, {}, list[tuple[str, ...]]()
    owner, count = np.array(found.images), 0
    for done, layer in enumerate(chosen):
        states = unit(np.concatenate(found.states.pop(layer)))
        sample, reference = _spread(states, MOST), _spread(states, REFERENCE)
        mean = density_mean(sample, nearest_of(len(sample)))
        spaces[layer] = Space(mean, unit(reference - mean), means)
        rows = np.arange(len(states))
        if silence is not None:
            rows = rows[silent_tokens(bank, silence, layer, states, owner, searched, where)]
        rows = rows[_rarest(states[rows], sample, owner[rows], per_image)]
        count += len(rows)
        whole_layer, own = group_of(
            bank, spaces[layer], states[rows], searched, where, progress, done, len(chosen)
        )
        asks = owner[rows] % 2 == 0
        asking[layer], held_out[layer] = whole_layer.part(asks), whole_layer.part(~asks)
        words += [own[i] for i in np.flatnonzero(asks)]
    return Missing(
        tuple(searched),
        spaces,
        asking,
        held_out,
        images=found.count,
        tokens=count,
        digest=_digest(found.digest, bank, chosen, where, silence),
        words=tuple(words),
    )


def _check(bank: Bank, model: VisualModel, layers: Sequence[int]) -> None:
    """Check what can be checked before the model runs; the errors are those of `find_missing`."""
    if not layers:
        raise QueryError("Name at least one visual layer.", argument="visual_layers")
    if bank.metric != "cosine":
        raise QueryError(
            f"The bank '{bank.name}' is centred; a corpus grows by plain cosines and their correction, so name a bank "
            "of plain cosine.",
            argument="bank",
        )
    bank.require_model(model.name, model.language.identity())


def _read(
    model: VisualModel,
    images: Iterable[Source],
    layers: Sequence[int],
    most: int,
    prompt: str | None,
    batch: int,
    broken: Broken | None,
    progress: Progress,
) -> _Tokens:
    """Return the visual tokens of images, at most `most` of each."""
    found = _Tokens()
    total = getattr(images, "total", None) or (len(images) if isinstance(images, Sequence) else None)
    progress.stage("looking", "images")
    for part in image_tokens(model, images, layers, prompt, batch, broken):
        for one in part:
            count = len(one.tokens)
            found.add(one.tokens.states, np.linspace(0, count - 1, min(most, count)).astype(np.int64))
            if one.image is not None:
                found.digest.update(repr(one.image.size).encode() + one.image.tobytes())
        progress.update(found.count, total)
    return found


def _digest(
    pictures: Any, bank: Bank, layers: Sequence[int], where: Filter | None, silence: Silence | None
) -> str:
    """Return a hash of the images, the layers, the bank, and the contexts and tokens that count."""
    level = None if silence is None else silence.fdr
    pictures.update(repr((layers, bank.name, bank.manifest.fingerprint, where, level)).encode())
    return str(pictures.hexdigest())


def _text_mean(bank: Bank, layer: int) -> Floats:
    """Return the mean of a bank layer's unit vectors, un-rotated."""
    return unrotate(unit_mean(bank, layer, _SAMPLE), bank.manifest.rotation_seed)


def _spread(rows: Floats, most: int) -> Floats:
    """Return at most `most` rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]


def _rarest(states: Floats, sample: Floats, owner: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.intp]:
    """Return the rows of the tokens of each image, at most `most`, that resemble the fewest of a sample, ascending."""
    nearest = nearest_of(len(sample))
    parts = range(0, len(states), _SEARCHED)
    dense = [mean_of_largest(states[at : at + _SEARCHED] @ sample.T, nearest) for at in parts]
    if not dense:
        return np.empty(0, np.intp)
    order = np.lexsort((np.concatenate(dense), owner))
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[rank < most])


def group_of(
    bank: Bank,
    space: Space,
    states: Floats,
    layers: Sequence[int],
    where: Filter | None = None,
    progress: Progress | None = None,
    before: int = 0,
    of: int = 1,
) -> tuple[Group, list[tuple[str, ...]]]:
    """Return tokens of a visual layer with their best scores in the bank, and the first five words by these scores.

    Args:
        bank: the bank.
        space: the visual layer's.
        states: the tokens as unit vectors `[tokens, hidden]`.
        layers: the bank layers.
        where: the contexts that count.
        progress: counts tokens.
        before: visual layers that were searched before.
        of: visual layers in all.
    """
    queries = space.queries(states)
    near = {layer: np.zeros(len(states), np.float32) for layer in layers}
    horizon = {layer: np.full(len(states), -1, np.float32) for layer in layers}
    best, words = np.full(len(states), -np.inf, np.float32), list[tuple[str, ...]]()
    progress = progress or Silent()
    progress.stage("searching", "tokens")
    for start in range(0, len(states), _SEARCHED):
        rows = slice(start, start + _SEARCHED)
        ranked: list[list[tuple[float, str]]] = [[] for _ in states[rows]]
        for layer in layers:
            found = bank.search(states[rows], layer, NEAREST, where, ef=bank.settings.ef_visual)
            cosines, hubs = _centred(bank, space, layer, queries[rows], found)
            near[layer][rows] = cosines.mean(axis=1)
            last = [row[-1].cosine if len(row) == NEAREST else -1.0 for row in found]
            horizon[layer][rows] = last
            scores = 2 * cosines - hubs - near[layer][rows, None]
            best[rows] = np.maximum(best[rows], scores.max(axis=1))
            for own, values, neighbors in zip(ranked, scores.tolist(), found, strict=True):
                own += zip(values, (neighbor.word for neighbor in neighbors), strict=False)
        words += [_first_words(own) for own in ranked]
        progress.update(before * len(states) + start, of * len(states))
    return Group(states, queries, best, near, horizon), words


def _centred(
    bank: Bank, space: Space, layer: int, queries: Floats, found: Sequence[Sequence[Neighbor]]
) -> tuple[Floats, Floats]:
    """Return the centred cosines of queries with their neighbors, and the neighbors' hubness: `[queries, neighbors]`.

    Where there are fewer neighbors, the last stands for those that are missing.
    """
    depth = max(map(len, found))
    ids = [[neighbor.id for neighbor in row] for row in found]
    places = {id_: place for place, id_ in enumerate(dict.fromkeys(one for row in ids for one in row))}
    vectors = stored_vectors(bank, layer, list(places))
    contexts = space.contexts(unrotate(vectors, bank.manifest.rotation_seed), layer)
    hubs = space.hubness(contexts)
    at = np.array([[places[id_] for id_ in row] + [places[row[-1]]] * (depth - len(row)) for row in ids])
    return np.einsum("qh,qkh->qk", queries, contexts[at]), hubs[at]


def _first_words(scored: Iterable[tuple[float, str]]) -> tuple[str, ...]:
    words = dict.fromkeys(word for _, word in sorted(scored, key=lambda pair: -pair[0]))
    return tuple(islice(words, _WORDS))
