"""Scoring: what a lens's words say about a patch of a scene whose contents are known. No models here.

The rules, the same for every lens:

1. Words are compared in any case, without a possessive 's. Two spellings of one word are the same (`SPELLINGS`).
2. Singular and plural are the same, but for things that have no singular (`PLURAL_ONLY`).
3. A name of several words counts as a whole (also written as one word) or by its head noun, the last one: "truck" names
   a fire truck. The head noun of `NOT_ITS_HEAD` is another thing and does not count.
4. There are no synonyms and no broader words: a poodle that is called a dog is not named.
5. A patch belongs to the thing that covers most of it. It is *concrete* if one of the words names that thing; else
   *global* if one names another thing of the scene; else *attribute* if one is a true word of the thing (its colour or
   place), or of the background where it shows (its colour).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from latentbank.query.evaluation.labelled import LabelledImage

SPELLINGS = {"donut": "doughnut", "ax": "axe", "grey": "gray", "aeroplane": "airplane"}
PLURAL_ONLY = frozenset({"glasses", "sunglasses", "jeans", "fries", "scissors", "headphones"})
NOT_ITS_HEAD = frozenset({"hot dog"})
_IRREGULAR = {
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "oxen": "ox",
    "cacti": "cactus",
    "octopi": "octopus",
    "hippopotami": "hippopotamus",
}
# Of a patch, what must be covered for it to count at all, and what is left of the background for it to show.
LEAST = 0.1
_BACKGROUND = 0.1

BINS = (LEAST, 0.25, 0.5, 0.75, 1.0)
"""How much of a patch its thing covers: limits of the groups that are scored by themselves."""


class Verdict(IntEnum):
    """What a patch's words say of it, the best of them."""

    NOTHING = 0
    ATTRIBUTE = 1
    GLOBAL = 2
    CONCRETE = 3


@dataclass(frozen=True)
class Truth:
    """What is known of one patch.

    `scene` is the scene's place among those scored, `thing` that of the patch's thing in its scene, `token` the
    patch's place in the grid, row by row; `coverage` the share of the patch that the thing covers.
    """

    scene: int
    thing: int
    token: int
    coverage: float
    name: str
    others: tuple[str, ...]
    attributes: frozenset[str]


def truths_of(scene: LabelledImage, number: int) -> list[Truth]:
    """Give what is known of each patch of a scene of which a thing covers at least `LEAST`.

    Args:
        scene: its coverage must be of the grid that will be scored.
        number: the scene's place among those scored.
    """
    if not scene.objects:
        return []
    coverage = np.stack([thing.coverage for thing in scene.objects])
    shown = 1 - coverage.sum(axis=0)
    truths = []
    for token in np.flatnonzero(coverage.max(axis=0) >= LEAST).tolist():
        index = int(coverage[:, token].argmax())
        thing = scene.objects[index]
        attributes = thing.attributes
        if shown[token] >= _BACKGROUND:
            attributes |= scene.background
        others = tuple(other.name for i, other in enumerate(scene.objects) if i != index)
        share = float(coverage[index, token])
        truths.append(Truth(number, index, token, share, thing.name, others, attributes))
    return truths


def judge(words: Iterable[str], truth: Truth) -> Verdict:
    """Say what a lens's words for a patch are worth; see the rules above."""
    return max((_judge_one(word, truth) for word in words), default=Verdict.NOTHING)


def judge_all(words: Sequence[Sequence[str]], truths: Sequence[Truth]) -> npt.NDArray[np.int8]:
    """Judge patches: int8 `[patches]` of `Verdict` values."""
    return np.array([judge(one, truth) for one, truth in zip(words, truths, strict=True)], dtype=np.int8)


def shuffled(truths: Sequence[Truth]) -> list[int]:
    """Give for each patch another patch, of the next scene that has one: the control of shuffled images.

    A patch is then scored by the words of the other one. Both show a thing, so what is left is what a lens gets right
    without looking at the patch.

    Raises:
        ValueError: all patches are of one scene.
    """
    by_scene: dict[int, list[int]] = {}
    for index, truth in enumerate(truths):
        by_scene.setdefault(truth.scene, []).append(index)
    if len(by_scene) < 2:
        raise ValueError("Patches of one scene alone cannot be shuffled.")
    scenes = list(by_scene)
    follower = dict(zip(scenes, scenes[1:] + scenes[:1], strict=True))
    place = {index: at for indices in by_scene.values() for at, index in enumerate(indices)}
    return [
        by_scene[follower[truth.scene]][place[index] % len(by_scene[follower[truth.scene]])]
        for index, truth in enumerate(truths)
    ]


def names(word: str, name: str) -> bool:
    """Tell whether a word names a thing, by rules 1 to 4."""
    return not forms(word).isdisjoint(_accepted(name))


@lru_cache(maxsize=200_000)
def forms(word: str) -> frozenset[str]:
    """Give a word as rules 1 and 2 compare it: in lower case, and each singular it may be the plural of."""
    plain = re.sub(r"['’]s?$", "", word.strip().casefold())
    found = {plain}
    if plain in _IRREGULAR:
        found.add(_IRREGULAR[plain])
    elif len(plain) > 3 and plain.endswith("s") and not plain.endswith(("ss", "us")):
        found.add(plain[:-1])
        if plain.endswith("ies"):
            found.add(f"{plain[:-3]}y")
        elif plain.endswith("ves"):
            found |= {f"{plain[:-3]}f", f"{plain[:-3]}fe"}
        elif plain.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
            found.add(plain[:-2])
    return frozenset(SPELLINGS.get(one, one) for one in found)


@lru_cache(maxsize=10_000)
def _accepted(name: str) -> frozenset[str]:
    """Give the forms that name a thing."""
    parts = name.casefold().split()
    spelled = {name.casefold(), "".join(parts)}
    if len(parts) > 1 and name.casefold() not in NOT_ITS_HEAD:
        spelled.add(parts[-1])
    if name.casefold() in PLURAL_ONLY:
        return frozenset(spelled)
    return frozenset().union(*map(forms, spelled))


def _judge_one(word: str, truth: Truth) -> Verdict:
    if names(word, truth.name):
        return Verdict.CONCRETE
    if any(names(word, other) for other in truth.others):
        return Verdict.GLOBAL
    return Verdict.ATTRIBUTE if not forms(word).isdisjoint(truth.attributes) else Verdict.NOTHING


# -- shares ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A share `of` so many, with the 95 % confidence interval from `low` to `high`; not a number of none."""

    value: float
    low: float
    high: float
    of: int


class Bootstrap:
    """Shares with confidence intervals, from resampling scenes: the patches of one scene are not independent.

    The same scenes are drawn for every share, so two of them can be compared.

    Args:
        scenes: how many there are, also those without a patch.
        resamples: how often they are drawn.
        seed: of the drawing.
    """

    def __init__(self, scenes: int, resamples: int = 1000, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        self._scenes = scenes
        self._drawn = chance.multinomial(scenes, np.full(scenes, 1 / scenes), size=resamples).astype(float)

    def share(self, hits: npt.ArrayLike, scenes: npt.ArrayLike) -> Share:
        """Give the mean of `hits` `[n]` (truth values, or shares of their own), of the scenes `[n]` int."""
        values, owners = np.asarray(hits, dtype=float), np.asarray(scenes, dtype=np.int64)
        if not len(values):
            return Share(float("nan"), float("nan"), float("nan"), 0)
        sums = np.bincount(owners, weights=values, minlength=self._scenes)
        counts = np.bincount(owners, minlength=self._scenes)
        drawn = self._drawn @ counts
        usable = drawn > 0
        low, high = np.quantile((self._drawn @ sums)[usable] / drawn[usable], (0.025, 0.975))
        return Share(float(values.mean()), float(low), float(high), len(values))


def by_thing(
    hits: npt.ArrayLike, truths: Sequence[Truth]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Tell for each thing whether one of its patches was hit, and give its scene: `[things]` each."""
    found: dict[tuple[int, int], bool] = {}
    for hit, truth in zip(np.asarray(hits, dtype=bool).tolist(), truths, strict=True):
        key = (truth.scene, truth.thing)
        found[key] = found.get(key, False) or hit
    return np.array(list(found.values()), dtype=bool), np.array([scene for scene, _ in found], dtype=np.int64)
