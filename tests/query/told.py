"""A lens for tests of causes: which tokens show a word is known beforehand."""

from __future__ import annotations

from latentbank.bank.points import Neighbor
from latentbank.query.lenses.base import Lens, LensOptions, Queries


class Told(Lens, register=False):
    """A lens that finds the word `dog` for the first two tokens, and other words with falling scores elsewhere."""

    name, title, score = "told", "Told", "cosine"

    @classmethod
    def make(cls, options: LensOptions) -> Told:
        return cls()

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        words = ["dogs", "dog", "red", "a", "tree", "sky"]
        return [[Neighbor(words[n % 6], "", 0.9 - 0.1 * (n % 6))] for n in range(len(queries))]
