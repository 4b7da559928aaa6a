"""Two models compared context by context: the same ids in two banks, of checkpoints, seeds or fine-tunes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.points import Neighbor
from latentbank.bank.rotation import unit
from latentbank.bank.vectors import stored_vectors
from latentbank.errors import BankMismatch
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent
from latentbank.query.evaluation.experiments.common_contexts import Common, common_contexts
from latentbank.query.evaluation.experiments.random_states import context_states, with_random_weights
from latentbank.query.evaluation.experiments.similarity import (
    Features,
    Floats,
    Ints,
    cka,
    nearest,
    shared,
)
from latentbank.query.evaluation.scoring import Bootstrap, Share
from latentbank.text import public_name
from latentbank.values import whole

WORDS = 300
"""Words of which contexts are compared."""
K = 10
"""Neighbors of each context."""
_LEAST_OF_WORD = 3  # contexts of a word that is judged
_SHOWN_WORDS = 20
_NEAR = 5  # words that are shown of a neighborhood


@dataclass(frozen=True)
class Alike:
    """How alike a layer of one model and a layer of another are.

    Attributes:
        layer: of the first bank.
        other: of the second bank.
        neighbors: the share of a context's nearest neighbors that both layers have in common.
        cka: linear CKA, unbiased.
    """

    layer: int
    other: int
    neighbors: Share
    cka: Share


@dataclass(frozen=True)
class ChangedWord:
    """A word whose contexts have other neighbors in the second model.

    Attributes:
        word: the word.
        neighbors: the share of neighbors in common, over its contexts and the layers at the same depth.
        layer: the layer of the first bank at which it is lowest.
        other: the layer of the second bank at the same depth.
        example: the context of the word that changes most there.
        first: the nearest words of the example in the first bank.
        second: the nearest words of the example in the second bank.
    """

    word: str
    neighbors: Share
    layer: int
    other: int
    example: Neighbor
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class ModelsCompared:
    """Two models, compared.

    Attributes:
        banks: the names of both banks.
        models: the names of both LLMs.
        contexts: how many contexts were compared.
        sampled: how many of the first bank were looked for in the second.
        words: of how many words they are.
        k: neighbors of each context.
        chance: the share of neighbors that unrelated vectors have in common.
        pairs: every layer of the first bank with every layer of the second.
        depths: the layers at the same depth, as pairs.
        random: each layer of the first bank beside the same layer of an LLM with random weights; empty: not computed.
        changed: the words that change most, first those that surely do.
    """

    banks: tuple[str, str]
    models: tuple[str, str]
    contexts: int
    sampled: int
    words: int
    k: int
    chance: float
    pairs: tuple[Alike, ...]
    depths: tuple[tuple[int, int], ...]
    random: tuple[Alike, ...] = ()
    changed: tuple[ChangedWord, ...] = field(default=())

    def at(self, layer: int, other: int) -> Alike:
        """Return how alike two layers are."""
        return next(pair for pair in self.pairs if (pair.layer, pair.other) == (layer, other))

    @property
    def difference(self) -> float:
        """The share of neighbors that differ, over layers at the same depth: exactly 0 for a model and itself."""
        return float(np.mean([1 - self.at(*pair).neighbors.value for pair in self.depths]))

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-ready data (docs/json.md describes it)."""
        data = asdict(self)
        for entry, word in zip(data["changed"], self.changed, strict=True):
            entry["example"] = word.example.to_dict()
        return {**data, "depths": [list(pair) for pair in self.depths], "difference": self.difference}


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of one model: its contexts' neighbors, and their vectors made ready for CKA."""

    neighbors: Ints
    features: Features


def compare_models(
    first: Bank,
    second: Bank,
    bank_layers: BankLayers = "all",
    *,
    model: LanguageModel | None = None,
    words: int = WORDS,
    k: int = K,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModelsCompared:
    """Compare two models by the contexts that their banks have in common.

    A context's neighbors are sought among the compared contexts of other words, so that what is compared is which other
    words are near, not that a word is near itself. Intervals are of resampled words.

    Args:
        first: a bank.
        second: another one, or the same; its hidden size may differ.
        bank_layers: the layers of each bank that are compared.
        model: the first bank's LLM, whose sizes and tokenizer the control of random weights takes; None: no control.
        words: how many words are drawn.
        k: neighbors of each context.
        seed: of the words that are drawn, and of the random weights.
        progress: receives what is done.

    Raises:
        BankMismatch: the banks have too few contexts in common, or different metrics.
        ModelError: the model's tokenizer is not that of the first bank.
    """
    words, k = whole(words, "words", 20), whole(k, "k", 1)
    progress = progress or Silent()
    if first.metric != second.metric:
        raise BankMismatch(
            f"The bank '{first.name}' has metric {first.metric} and '{second.name}' {second.metric}; compare banks of "
            "one metric."
        )
    progress.stage("choosing contexts", "words")
    common = common_contexts(first, second, words, seed, progress)
    drawn = Bootstrap(len(common.names), seed=seed)
    own = _layers(first, bank_layers, common, k, progress)
    others = own if second is first else _layers(second, bank_layers, common, k, progress)
    depths = tuple((layer, _same_depth(layer, first, second, list(others))) for layer in own)
    progress.stage("comparing", "pairs of layers")
    pairs = []
    for number, (layer, other) in enumerate([(a, b) for a in own for b in others]):
        progress.update(number, len(own) * len(others))
        pairs.append(_alike(layer, other, own[layer], others[other], common, drawn))
    random: list[Alike] = []
    if model is not None:
        control = _random_layers(model, first, list(own), common, k, seed, progress)
        random = [_alike(layer, layer, own[layer], control[layer], common, drawn) for layer in own]
    sizes = np.bincount(common.words)[common.words]
    return ModelsCompared(
        banks=(first.name, second.name),
        models=(public_name(first.manifest.model), public_name(second.manifest.model)),
        contexts=len(common.contexts),
        sampled=common.sampled,
        words=len(common.names),
        k=k,
        chance=float(np.mean(k / (len(common.contexts) - sizes))),
        pairs=tuple(pairs),
        depths=depths,
        random=tuple(random),
        changed=tuple(_changed(common, own, others, depths)),
    )


def _layers(
    bank: Bank, bank_layers: BankLayers, common: Common, k: int, progress: Progress
) -> dict[int, _Layer]:
    """Read the contexts' vectors of each layer of a bank."""
    layers = bank.choose_layers(bank_layers)
    progress.stage(f"reading {bank.name}", "layers")
    found = {}
    for number, layer in enumerate(layers):
        progress.update(number, len(layers))
        found[layer] = _layer(unit(stored_vectors(bank, layer, common.ids)), common, k)
    return found


def _random_layers(
    model: LanguageModel,
    bank: Bank,
    layers: Sequence[int],
    common: Common,
    k: int,
    seed: int,
    progress: Progress,
) -> dict[int, _Layer]:
    progress.stage("random weights", "contexts")
    drawn = with_random_weights(model, seed)
    states = context_states(drawn, bank, common.contexts, layers, progress)
    return {layer: _layer(states[layer], common, k) for layer in layers}


def _layer(vectors: Floats, common: Common, k: int) -> _Layer:
    return _Layer(nearest(vectors, common.words, k), Features.of(vectors, common.words))


def _alike(layer: int, other: int, first: _Layer, second: _Layer, common: Common, drawn: Bootstrap) -> Alike:
    neighbors = drawn.share(shared(first.neighbors, second.neighbors), common.words)
    return Alike(layer, other, neighbors, cka(first.features, second.features))


def _same_depth(layer: int, first: Bank, second: Bank, others: Sequence[int]) -> int:
    """Return the layer of the second bank that lies at the same share of its LLM's depth, or nearest to it."""
    depth = layer / first.manifest.num_layers
    return min(others, key=lambda other: abs(other / second.manifest.num_layers - depth))


def _changed(
    common: Common,
    own: Mapping[int, _Layer],
    others: Mapping[int, _Layer],
    depths: Sequence[tuple[int, int]],
) -> list[ChangedWord]:
    """Return the words whose contexts change their neighbors most, first those whose upper bound is lowest."""
    shares = np.stack([shared(own[a].neighbors, others[b].neighbors) for a, b in depths])
    found = []
    for number, word in enumerate(common.names):
        rows = np.flatnonzero(common.words == number)
        values = shares[:, rows].mean(axis=0)
        if len(rows) < _LEAST_OF_WORD or values.mean() == 1:
            continue
        error = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(rows))
        value = float(values.mean())
        share = Share(value, max(0.0, value - error), min(1.0, value + error), len(rows))
        at = int(shares[:, rows].mean(axis=1).argmin())
        row = int(rows[shares[at, rows].argmin()])
        first, second = (
            _words_near(common, layer.neighbors[row], layer.features.vectors, row)
            for layer in (own[depths[at][0]], others[depths[at][1]])
        )
        found.append(ChangedWord(word, share, *depths[at], common.contexts[row], first, second))
    return sorted(found, key=lambda changed: changed.neighbors.high)[:_SHOWN_WORDS]


def _words_near(common: Common, neighbors: Ints, vectors: Floats, row: int) -> tuple[str, ...]:
    """Return the words of a context's neighbors, nearest first, each once."""
    order = np.argsort(-(vectors[neighbors] @ vectors[row]), kind="stable")
    names = dict.fromkeys(common.names[common.words[neighbor]] for neighbor in neighbors[order])
    return tuple(names)[:_NEAR]
