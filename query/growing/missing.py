"""What is missing in a bank: visual tokens without a near context, which ask for sentences or confirm them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit
from latentbank.query.growing.scores import Floats, Space

Numbers = npt.NDArray[np.int64]

_ROWS = 4096  # contexts that are compared at once


@dataclass(frozen=True, eq=False)
class Group:
    """Tokens of one visual layer, and how near the bank comes to them.

    Attributes:
        units: the tokens as unit vectors, float32 `[tokens, hidden]`.
        queries: the same centred, float32 `[tokens, hidden]`.
        best: the score of each token's best neighbor in the bank, float32 `[tokens]`.
        near: how near each token is to the bank's contexts, float32 `[tokens]` by bank layer.
        horizon: the plain cosine of the last neighbor that was looked at, float32 `[tokens]` by bank layer: a context
            with a lower one would not be found.
    """

    units: Floats
    queries: Floats
    best: Floats
    near: Mapping[int, Floats]
    horizon: Mapping[int, Floats]

    def __len__(self) -> int:
        return len(self.best)

    def part(self, rows: npt.NDArray[np.bool_]) -> Group:
        """Return some of the tokens."""
        near, horizon = (
            {layer: values[rows] for layer, values in by_layer.items()}
            for by_layer in (self.near, self.horizon)
        )
        return Group(self.units[rows], self.queries[rows], self.best[rows], near, horizon)

    def gains(self, space: Space, states: Floats, layer: int, least: Floats) -> Floats:
        """Return what tokens gain by contexts: score minus that of the best neighbor, float32 `[tokens, contexts]`.

        Args:
            space: the visual layer's.
            states: hidden states of contexts of a bank layer, float32 `[contexts, hidden]`.
            layer: the bank layer.
            least: what each token must gain, `[tokens]`; where no token does, the gain is -infinity, as it is where the
                context would not be found.
        """
        units = unit(states)
        contexts = space.contexts(units, layer)
        found = 2 * (self.queries @ contexts.T) - (self.near[layer] + self.best)[:, None]
        # A context's hubness is costly, and below zero for hardly any.
        hopeful = np.flatnonzero((found > least[:, None]).any(axis=0))
        gains = np.full_like(found, -np.inf)
        seen = self.units @ units[hopeful].T >= self.horizon[layer][:, None]
        gains[:, hopeful] = np.where(seen, found[:, hopeful] - space.hubness(contexts[hopeful]), -np.inf)
        return gains


@dataclass(frozen=True, eq=False)
class Missing:
    """Visual tokens for which a bank has no near context: those that ask, and those of other images, held out.

    Made by `find_missing`. It is the judge of `latentbank.ingest.growing.growth.grow`.

    Attributes:
        layers: the bank layers that are compared, ascending.
        spaces: by visual layer what tokens and contexts are compared in.
        asking_by_layer: by visual layer the tokens that ask.
        held_out_by_layer: by visual layer those that are held out.
        images: how many images were read.
        tokens: how many visual tokens ask or are held out, of all visual layers together.
        digest: a hash of all that the answers depend on.
        words: the nearest words of each asking token in the bank, in the order of the tokens.
    """

    layers: tuple[int, ...]
    spaces: Mapping[int, Space]
    asking_by_layer: Mapping[int, Group]
    held_out_by_layer: Mapping[int, Group]
    images: int
    tokens: int
    digest: str
    words: tuple[tuple[str, ...], ...] = ()

    @property
    def asking(self) -> int:
        """How many tokens ask."""
        return sum(map(len, self.asking_by_layer.values()))

    @property
    def held_out(self) -> int:
        """How many tokens are held out."""
        return sum(map(len, self.held_out_by_layer.values()))

    def nearest(
        self, states: Mapping[int, Floats], least: Floats
    ) -> tuple[Numbers, Numbers, Numbers, Floats]:
        """Return the asking tokens that gain, each with the context that it gains most by.

        Args:
            states: contexts' hidden states by bank layer, float32 `[contexts, hidden]`.
            least: each asking token's gain must exceed this, float32 `[asking]`.

        Returns:
            The tokens' numbers, the rows of their contexts, these contexts' bank layers, and the gains: `[n]` each.
        """
        best = least.copy()
        rows, layers = np.full(len(best), -1), np.full(len(best), -1)
        for layer in self.layers:
            for first, group, space in self._groups(self.asking_by_layer):
                own = slice(first, first + len(group))
                for start in range(0, len(states[layer]), _ROWS):
                    part = states[layer][start : start + _ROWS]
                    gains = group.gains(space, part, layer, best[own])
                    chosen = gains.argmax(axis=1)
                    gained = gains[np.arange(len(group)), chosen]
                    better = np.flatnonzero(gained > best[own])
                    best[first + better] = gained[better]
                    rows[first + better], layers[first + better] = start + chosen[better], layer
        tokens = np.flatnonzero(rows >= 0)
        return tokens, rows[tokens], layers[tokens], best[tokens]

    def confirmed(self, states: Floats, layers: Sequence[int], least: float) -> tuple[Numbers, Floats]:
        """Return the held-out tokens' choice among contexts that were taken.

        Args:
            states: a hidden state of each context, float32 `[contexts, hidden]`.
            layers: the bank layer of each.
            least: a token must gain more than this.

        Returns:
            For each held-out token the context by which it gains most, or -1 if it gains too little by all, int64
            `[held_out]`; and what it gains, float32 `[held_out]`.
        """
        best = np.full(self.held_out, least, np.float32)
        rows, found_in = np.full(self.held_out, -1), np.asarray(layers)
        for layer in self.layers:
            numbers = np.flatnonzero(found_in == layer)
            if not len(numbers):
                continue
            for first, group, space in self._groups(self.held_out_by_layer):
                own = slice(first, first + len(group))
                gains = group.gains(space, states[numbers], layer, best[own])
                chosen = gains.argmax(axis=1)
                gained = gains[np.arange(len(group)), chosen]
                better = np.flatnonzero(gained > best[own])
                best[first + better], rows[first + better] = gained[better], numbers[chosen[better]]
        return rows, np.where(rows >= 0, best, 0).astype(np.float32)

    def _groups(self, by_layer: Mapping[int, Group]) -> Iterator[tuple[int, Group, Space]]:
        """Yield each visual layer's tokens with the number of the first, where there are any."""
        first = 0
        for layer, group in by_layer.items():
            if len(group):
                yield first, group, self.spaces[layer]
            first += len(group)
