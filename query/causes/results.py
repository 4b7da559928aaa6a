"""What ablating visual tokens changed: the numbers, and their summary over draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from latentbank.query.causes.ablating import Way

Group = Literal["showing", "random", "near"]
"""Which visual tokens were ablated: those that show the word, as many at random, or as many that are as near."""


@dataclass(frozen=True)
class Spread:
    """The mean of several draws, and the interval from `low` to `high` that holds the middle 95 % of them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """What ablating one group of visual tokens from one layer on changed, in nats of log-probability.

    Attributes:
        way: how they were ablated.
        layer: the layer from which on, at which the lens read them too.
        group: which tokens.
        count: number of tokens ablated in each draw.
        draws: number of draws; 0: there are too few other tokens to draw from, or none shows the word.
        word: the change of the word's log-probability; None without draws.
        others: the mean change of the answer's other words; None if it has none, or without draws.
        by_word: the mean change of each of the answer's words.
        p_value: of the tokens that show the word: (1 + number of random draws that lower the word at least as much) /
            (1 + random draws); None for the other groups, and without random draws.
    """

    way: Way
    layer: int
    group: Group
    count: int
    draws: int
    word: Spread | None
    others: Spread | None
    by_word: tuple[float, ...]
    p_value: float | None = None


@dataclass(frozen=True)
class AnswerWord:
    """A word of the model's answer, and its log-probability in nats without any change."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class Causes:
    """What ablating the visual tokens that show a word changes in what a model says.

    Attributes:
        source: the image's name.
        model: the VLM's name.
        lens: the name of the lens that says which tokens show the word.
        bank: the bank that it searches; "" if it searches none.
        word: the word.
        answer: what the model writes about the image.
        said: the word as the answer says it; "": it does not, so the word was scored as the next one after the prompt.
        log_probability: of the word without any change, in nats.
        words: the words of the answer.
        showing: by layer, the numbers of the visual tokens that show the word.
        visual_tokens: number of the image's visual tokens.
        effects: what ablating changed.
        nothing: the largest change that an ablation of no token made; 0 unless the model's rows depend on each other.
        others: number of other images.
    """

    source: str
    model: str
    lens: str
    bank: str
    word: str
    answer: str
    said: str
    log_probability: float
    words: tuple[AnswerWord, ...]
    showing: dict[int, tuple[int, ...]]
    visual_tokens: int
    effects: tuple[Effect, ...]
    nothing: float
    others: int

    def effect(self, way: str, layer: int, group: str) -> Effect:
        """Return what ablating a group of tokens changed; raises KeyError if that was not done."""
        for found in self.effects:
            if (found.way, found.layer, found.group) == (way, layer, group):
                return found
        raise KeyError((way, layer, group))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data (docs/json.md describes it)."""
        data = asdict(self)
        data["showing"] = {str(layer): list(tokens) for layer, tokens in self.showing.items()}
        return data


def spread_of(values: npt.ArrayLike) -> Spread | None:
    """Return the summary of draws `[draws]`; None if there are none."""
    found = np.asarray(values, float)
    if not len(found):
        return None
    low, high = np.quantile(found, (0.025, 0.975))
    return Spread(float(found.mean()), float(low), float(high))


def p_value_of(effect: float, drawn: Sequence[float]) -> float | None:
    """Return the share of random draws that lower a word at least as much, the effect itself counted among them."""
    if not len(drawn):
        return None
    return (1 + sum(value <= effect for value in drawn)) / (1 + len(drawn))
