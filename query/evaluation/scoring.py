"""Scoring: whether a lens's words are true of a patch of a labelled image (a scene). No models run here.

The rules, the same for every lens:

1. Case is ignored, and so is a possessive 's. Two spellings of a word are equal (`SPELLINGS`).
2. Singular and plural are equal, except for nouns without a singular (`PLURAL_ONLY`).
3. A name of several words is named by the whole of it (also written as one word) or by its head noun, the last word:
   "truck" names a fire truck. The head noun of a name in `NOT_ITS_HEAD` means another object and does not count.
4. Synonyms and broader words do not count: "dog" does not name a poodle.
5. A patch belongs to the object that covers most of it. It is *concrete* if a word names that object; else *global* if
   a word names another object of the scene; else *attribute* if a word is true of the object (its colour or place), or
   of the background where that is visible (its colour).
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
LEAST = 0.1
"""The least share of a patch that an object must cover for the patch to be scored."""
_BACKGROUND = 0.1  # the least share of a patch in which the background is visible

BINS = (LEAST, 0.25, 0.5, 0.75, 1.0)
"""Shares of a patch that its object covers: the limits of the groups that are also scored separately."""


class Verdict(IntEnum):
    """How well the best of a patch's words describes its object."""

    NOTHING = 0
    ATTRIBUTE = 1
    GLOBAL = 2
    CONCRETE = 3


@dataclass(frozen=True)
class Truth:
    """What is known of one patch.

    Attributes:
        scene: the number of its scene among those scored.
        thing: the number of its object in the scene.
        token: the number of the patch in the grid, row by row.
        coverage: the share of the patch that the object covers.
        name: the object's name.
        others: the names of the scene's other objects.
        attributes: other words that are true of the patch.
    """

    scene: int
    thing: int
    token: int
    coverage: float
    name: str
    others: tuple[str, ...]
    attributes: frozenset[str]


def truths_of(scene: LabelledImage, number: int) -> list[Truth]:
    """Return what is known of each patch of a scene of which an object covers at least `LEAST`.

    Args:
        scene: a labelled image, whose coverage is of the grid that will be scored.
        number: its number among those scored.
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
    """Return the verdict on a lens's words for a patch; see the rules above."""
    return max((_judge_one(word, truth) for word in words), default=Verdict.NOTHING)


def judge_all(words: Sequence[Sequence[str]], truths: Sequence[Truth]) -> npt.NDArray[np.int8]:
    """Return the verdicts on patches, `Verdict` values as int8 `[patches]`."""
    return np.array([judge(own, truth) for own, truth in zip(words, truths, strict=True)], dtype=np.int8)


def shuffled(truths: Sequence[Truth]) -> list[int]:
    """Return for each patch the index of another patch: the control of shuffled images.

    The other patch is of the next scene that has one. A patch is then scored by the words of the other patch. Both show
    an object, so the score is what a lens gets right without the patch itself.

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
    """Return whether a word names an object, by rules 1 to 4."""
    return not forms(word).isdisjoint(_accepted(name))


def mentions(sentence: str, name: str) -> bool:
    """Return whether a sentence holds a word, or the words, that name an object by rules 1 to 3."""
    accepted = _accepted(name)
    words = re.findall(r"[\w'’-]+", sentence)
    if any(not forms(word).isdisjoint(accepted) for word in words):
        return True
    text = " ".join(words).casefold()
    return any(" " in form and form in text for form in accepted)


@lru_cache(maxsize=200_000)
def forms(word: str) -> frozenset[str]:
    """Return the forms of a word that rules 1 and 2 compare: lower case, and the singulars it may be the plural of."""
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
    return frozenset(SPELLINGS.get(form, form) for form in found)


@lru_cache(maxsize=10_000)
def _accepted(name: str) -> frozenset[str]:
    """Return the forms of words that name an object."""
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
    """A share of `of` items, with a 95 % confidence interval from `low` to `high`; all NaN if there are no items."""

    value: float
    low: float
    high: float
    of: int


class Bootstrap:
    """Shares with confidence intervals from resampled scenes, as the patches of a scene are not independent.

    Every share is computed from the same resamples, so two shares can be compared.

    Args:
        scenes: the number of scenes, including those without a patch.
        resamples: how often they are resampled.
        seed: seed of the resampling.
    """

    def __init__(self, scenes: int, resamples: int = 1000, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        self._scenes = scenes
        self._drawn = chance.multinomial(scenes, np.full(scenes, 1 / scenes), size=resamples).astype(float)

    def share(self, hits: npt.ArrayLike, scenes: npt.ArrayLike) -> Share:
        """Return the mean of `hits` `[n]`, booleans or shares; `scenes` `[n]` are the numbers of their scenes."""
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
    """Return for each object whether any of its patches is a hit, and the number of its scene: `[objects]` each."""
    found: dict[tuple[int, int], bool] = {}
    for hit, truth in zip(np.asarray(hits, dtype=bool).tolist(), truths, strict=True):
        key = (truth.scene, truth.thing)
        found[key] = found.get(key, False) or hit
    return np.array(list(found.values()), dtype=bool), np.array([scene for scene, _ in found], dtype=np.int64)
