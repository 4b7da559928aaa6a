"""What corrects a search of visual tokens: their mean, a bank's mean, and the words that compete for a token.

Let x be a visual token of a visual layer and c a context of a bank layer, all of length 1 and rotated; m the mean of
the x, weighted by inverse density, and μ the mean of the c. A prime means: less m or μ, and made length 1. These are
the means that correct LatentLens, too (`latentbank.query.calibration.numbers`).
"""

from __future__ import annotations

import hashlib
import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, LatentBankError, QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.calibration.folder import bank_fingerprint, corpus_digest, read_array, write_array
from latentbank.query.calibration.references import MOST, density_mean, nearest_of

if TYPE_CHECKING:
    from pathlib import Path

    from latentbank.bank.bank import Bank
    from latentbank.bank.images.bank import ImageBank

Floats = npt.NDArray[np.float32]

CONTEXTS = 50_000
"""Contexts of a bank layer that its words are made of, about."""
FEWEST = 10
"""Contexts that a word must have among these to compete. Rare words are often near to the one that is asked for, and
take its patches: with 3, R-precision was 3 points lower in the demo's bank."""
WORDS = 1_000
"""Words that compete, at most: those with the most contexts."""
TEMPERATURE = 0.05
"""Of the softmax over words. Of 0.02, 0.05, 0.07 and 0.1, the second did best on half of the demo's things."""


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a bank layer.

    Attributes:
        mean: μ, rotated, float32 `[hidden]`; zeros in a centred bank, which has subtracted its mean.
        vectors: the centred mean of each word's contexts, of length 1, float32 `[words, hidden]`.
    """

    mean: Floats
    vectors: Floats

    def competing(self, tokens: Floats) -> Floats:
        """Return how near visual tokens are to all words, float32 `[tokens]`.

        That is T log Σ exp(cos / T) over the words: about the largest cosine if one word is much nearer than others,
        more if many are near. What is left of a word's cosine without it is, but for the factor T, the logarithm of the
        word's probability.

        Args:
            tokens: x′, float32 `[tokens, hidden]`.
        """
        cosines = (tokens @ self.vectors.T) / TEMPERATURE
        largest = cosines.max(axis=1, keepdims=True, initial=0)
        sums = np.exp(cosines - largest).sum(axis=1)
        summed: Floats = (TEMPERATURE * (largest[:, 0] + np.log(np.maximum(sums, 1e-30)))).astype(np.float32)
        return summed


def require_same_space(images: ImageBank, bank: Bank) -> None:
    """Check that visual tokens and contexts lie in one space.

    Raises:
        BankMismatch: they do not.
    """
    contexts, tokens = bank.manifest, images.manifest
    if (contexts.hidden_size, contexts.rotation_seed) != (tokens.hidden_size, tokens.rotation_seed):
        raise BankMismatch(
            f"The images of {tokens.model} were not stored for the bank '{bank.name}' as it is now; ingest them again."
        )


def visual_mean(images: ImageBank, layer: int) -> Floats:
    """Return m of a visual layer, rotated, float32 `[hidden]`: of its first tokens, which are a random sample.

    Raises:
        QueryError: nothing is stored.
        LayerNotFound: there is no such visual layer.
    """
    chosen = images.choose_layer(layer)
    points = itertools.islice(images.store.scroll(chosen, vectors=True), MOST)
    rows = [point.vector for point in points if point.vector is not None]
    if not rows:
        raise QueryError(f"The images of the bank '{images.name}' have no visual tokens yet; ingest some.")
    units = unit(np.stack(rows))
    return density_mean(units, nearest_of(len(units)))


def words_of(bank: Bank, layer: int, progress: Progress | None = None) -> Words:
    """Return the words of a bank layer, which are kept beside the banks once they are made.

    Args:
        bank: the bank.
        layer: the bank layer.
        progress: receives the contexts that are read, if they must be made.

    Raises:
        QueryError: the bank has no complete corpus.
        LayerNotFound: the bank does not have the layer.
    """
    (chosen,) = bank.choose_layers([layer])
    file, kept = _file(bank, chosen), None
    if file.is_file():
        with suppress(LatentBankError):  # it is damaged, and is made anew
            kept = np.array(read_array(file, [None, bank.hidden_size], "float16"))
    if kept is None:
        kept = _make(bank, chosen, progress or Silent())
        with suppress(LatentBankError):  # others may keep a bank where this user cannot write
            write_array(file, kept)
    rows = kept.astype(np.float32)
    return Words(rows[0], unit(rows[1:]))


def _make(bank: Bank, layer: int, progress: Progress) -> npt.NDArray[np.float16]:
    """Return the mean of a bank layer and, below it, the centred means of its words."""
    entries = [entry for entry in bank.corpora.values() if entry.complete]
    contexts = sum(entry.contexts for entry in entries)
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    read = 0
    for entry in entries:
        share = -(-entry.contexts * min(contexts, CONTEXTS) // contexts) if contexts else 0
        stored = bank.store.scroll(layer, Where(corpus=entry.stored), vectors=True, payloads=True)
        for point in itertools.islice(stored, share):
            if point.payload is None or point.vector is None:
                continue
            read += 1
            if read % 1024 == 0:
                progress.update(read, min(contexts, CONTEXTS))
            word = point.payload["word"].casefold()
            counts[word] = counts.get(word, 0) + 1
            sums[word] = sums.get(word, 0.0) + point.vector.astype(np.float64)
    if not counts:
        raise QueryError(
            f"The bank '{bank.name}' holds no contexts of a complete corpus at layer {layer}; ingest one first.",
            argument="bank",
        )
    mean = np.sum(list(sums.values()), axis=0) / sum(counts.values())
    if bank.metric == "centred":
        mean = np.zeros_like(mean)
    chosen = sorted((word for word in counts if counts[word] >= FEWEST), key=lambda word: -counts[word])[
        :WORDS
    ]
    means = [sums[word] / counts[word] - mean for word in chosen or counts]
    made: npt.NDArray[np.float16] = np.concatenate([mean[None], unit(np.stack(means))]).astype(np.float16)
    return made


def _file(bank: Bank, layer: int) -> Path:
    corpora = sorted(corpus_digest(entry) for entry in bank.corpora.values() if entry.complete)
    told = repr((bank_fingerprint(bank.manifest), corpora, CONTEXTS, FEWEST, WORDS))
    digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    return bank.settings.data_dir / ".words" / digest / f"L{layer:02d}.npy"
