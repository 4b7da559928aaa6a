"""Synthetic contexts of any number and width, made without an LLM, and queries like text's and like visual tokens'.

Hidden states of LLMs lie near few directions, around a common offset with a few very large dimensions. So do these: a
context is offset + its token's center + what its sentence adds, in a small subspace, + a little of every direction. A
query like text's is another context. One like a visual token's has an offset of its own, half of its meaning in a
subspace that text does not use, and twice the noise, so it is far from all text. Block k is the same in every process.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.truth import Floats
from latentbank.bank.points import Payload

BLOCK = 4096
"""Contexts that are made at once."""
SHARES = {"half": 0.5, "twentieth": 0.05, "200th": 0.005, "2000th": 0.0005}
"""Corpora, and how large a share of the contexts each holds; the rest is the corpus `rest`."""
CORPORA = (*SHARES, "rest")
_TOKENS, _MEANINGS = 20_000, 48
_OFFSET, _TOKEN, _SENTENCE, _NOISE = 0.6, 0.35, 0.8, 0.15  # lengths
_DECAY = 0.7  # how fast the directions of what a sentence adds become less important
_WORDS = ("river", "bridge", "kettle", "window", "garden", "engine", "harbour", "ladder", "market", "violin")


@dataclass(frozen=True)
class Block:
    """Contexts: ids, hidden states `[n, width]`, payloads, and of each the number of its corpus in `CORPORA`."""

    ids: list[str]
    states: Floats
    payloads: list[Payload]
    corpora: list[int]


class Synthetic:
    """Contexts of one width."""

    def __init__(self, width: int, seed: int = 19) -> None:
        self.width, self._seed = width, seed
        random = np.random.default_rng((seed, width))
        self._offset = _unit(random, 1, width)[0]
        self._offset[random.choice(width, 3, replace=False)] += np.float32([2.0, -1.5, 1.0])
        self._visual_offset = (0.6 * self._offset + 0.8 * _unit(random, 1, width)[0]).astype(np.float32)
        self._plane, self._other = _unit(random, _MEANINGS, width), _unit(random, _MEANINGS, width)
        self._tokens = _unit(random, _TOKENS, width)

    def blocks(self, count: int) -> Iterator[Block]:
        """Yield `count` contexts in blocks."""
        for first in range(0, count, BLOCK):
            yield self.block(first, min(BLOCK, count - first))

    def block(self, first: int, count: int) -> Block:
        """Return the contexts from number `first` on, the start of a block."""
        random = np.random.default_rng((self._seed, self.width, first))
        tokens = self._chosen(random, count)
        states = self._text(random, tokens)
        edges = np.cumsum(list(SHARES.values()))
        corpora = np.searchsorted(edges, random.random(count), side="right").tolist()
        numbers = range(first, first + count)
        return Block(
            [
                str(uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128)))
                for number in numbers
            ],
            states,
            [
                _payload(*of)
                for of in zip(numbers, tokens.tolist(), (CORPORA[c] for c in corpora), strict=True)
            ],
            corpora,
        )

    def states(self, first: int, count: int) -> Floats:
        """Return the hidden states alone of `block`."""
        random = np.random.default_rng((self._seed, self.width, first))
        return self._text(random, self._chosen(random, count))

    def queries(self, count: int, kind: str) -> Floats:
        """Return queries `[count, width]` of a kind: "text" or "visual"."""
        random = np.random.default_rng((self._seed, self.width, kind == "visual", 1))
        tokens = self._chosen(random, count)
        if kind == "text":
            return self._text(random, tokens)
        own = self._tokens[tokens] * np.float32(_TOKEN / 2)
        own += self._meaning(random, self._plane, count) / 2 + self._meaning(random, self._other, count)
        rows: Floats = own + self._visual_offset + self._noise(random, count) * 2
        return rows

    def _chosen(self, random: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return tokens, the first far more often than the last, as in text."""
        return (_TOKENS * random.random(count) ** 3).astype(np.int64)

    def _text(
        self, random: np.random.Generator, tokens: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> Floats:
        count = len(tokens)
        rows: Floats = self._tokens[tokens] * np.float32(_TOKEN)
        rows += self._meaning(random, self._plane, count)
        rows += self._noise(random, count)
        rows += self._offset * np.float32(_OFFSET)
        return rows

    def _meaning(self, random: np.random.Generator, plane: Floats, count: int) -> Floats:
        sizes = np.arange(1, len(plane) + 1, dtype=np.float32) ** np.float32(-_DECAY)
        weights = random.standard_normal((count, len(plane)), dtype=np.float32) * sizes
        found: Floats = (weights @ plane) * np.float32(_SENTENCE / np.linalg.norm(sizes))
        return found

    def _noise(self, random: np.random.Generator, count: int) -> Floats:
        rows: Floats = random.standard_normal((count, self.width), dtype=np.float32)
        rows *= np.float32(_NOISE / np.sqrt(self.width))
        return rows


def _unit(random: np.random.Generator, count: int, width: int) -> Floats:
    rows: Floats = random.standard_normal((count, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _payload(number: int, token: int, corpus: str) -> Payload:
    word = f"{_WORDS[token % len(_WORDS)]}{token // len(_WORDS)}"
    caption = (
        f"Photograph {number // 9}: an old {word} that somebody left beside the road to the "
        f"{_WORDS[number % 7]}, where two dogs and a man in a red coat wait for the bus that comes at {number % 24}."
    )
    start = caption.index(word)
    return Payload(
        corpus=corpus,
        sentence=number // 9,
        position=4 + number % 9,
        token_id=token,
        token=f" {word}",
        word=word,
        caption=caption,
        start=start,
        end=start + len(word),
    )
