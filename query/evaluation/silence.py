"""Silence, scored: how many words are left, how many of these stand on background, and how many true ones are lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.query.evaluation.patches import Floats, WholeScenes
from latentbank.query.evaluation.scoring import Bootstrap, Share, Verdict, judge
from latentbank.query.evaluation.tables import OBJECT
from latentbank.query.lenses.base import Queries
from latentbank.query.silence.significance import significant

if TYPE_CHECKING:
    from latentbank.query.lenses.base import Lens
    from latentbank.query.silence.silence import Silence

Marks = npt.NDArray[np.bool_]
PValues = npt.NDArray[np.float64]

TOP_K = 5
"""Neighbors that are scored for each patch."""
_ROWS = 2048  # hidden states that a lens is given at once


@dataclass(frozen=True)
class Heard:
    """What a lens finds at one visual layer for all patches of labelled images, before any falls silent.

    Attributes:
        values: the p-value of each patch, `[images, patches]`; NaN for a patch without neighbors.
        named: whether each object patch is named by its first neighbors, in the order of the truths.
        chance: the p-values of the patches of images of shuffled pixels, `[images, patches]`; None: not measured.
    """

    values: PValues
    named: Marks
    chance: PValues | None = None


@dataclass(frozen=True)
class SilenceRow:
    """What is left of a lens's words at one visual layer, at one level.

    Attributes:
        lens: the lens's name.
        correction: how it was corrected; "": it was not.
        layer: the visual layer; None: all of them together.
        fdr: the largest share of the words given that may be false; 1: all tokens have words.
        words: tokens that have words.
        background: the share of these that no object touches.
        silent_background: the share of the patches that no object touches that are silent.
        coverage: the share of object patches that have words.
        precision: the share of the object patches with words that are named by them.
        kept: the share of the object patches that are named when none is silent that keep their words.
        chance: the share of images of shuffled pixels that have any word.
    """

    lens: str
    correction: str
    layer: int | None
    fdr: float
    words: int
    background: Share
    silent_background: Share
    coverage: Share
    precision: Share
    kept: Share
    chance: Share | None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready data (docs/json.md describes it)."""
        return asdict(self)


def read_whole(
    lens: Lens, silence: Silence, layer: int, states: Floats, top_k: int = 1
) -> tuple[list[list[str]], PValues]:
    """Read all patches of images `[images, patches, hidden]` at a visual layer.

    Returns:
        The words of the first `top_k` neighbors of each patch, image by image, and the p-values `[images, patches]`.
    """
    rows = states.reshape(-1, states.shape[-1])
    words: list[list[str]] = []
    values: list[float | None] = []
    for start in range(0, len(rows), _ROWS):
        queries = Queries(rows[start : start + _ROWS], layer, "visual")
        found = lens.read(queries, top_k)
        values += silence.p_values(lens, queries, found)
        words += [[neighbor.word for neighbor in neighbors] for neighbors in found]
    return words, np.array(values, dtype=np.float64).reshape(states.shape[:2])


def hear(
    lens: Lens,
    silence: Silence,
    layer: int,
    scenes: WholeScenes,
    coverage: float = OBJECT,
    chance: Floats | None = None,
) -> Heard:
    """Read labelled images through a lens at a visual layer.

    Args:
        lens: the lens.
        silence: has the nulls.
        layer: the visual layer.
        scenes: the labelled images.
        coverage: the least share of an object patch that its object covers.
        chance: hidden states of images of shuffled pixels at this layer, `[images, patches, hidden]`.
    """
    words, values = read_whole(lens, silence, layer, scenes.states[layer], TOP_K)
    patches = values.shape[1]
    named = [
        judge(words[truth.scene * patches + truth.token], truth) == Verdict.CONCRETE
        for truth in scenes.truths
        if truth.coverage >= coverage
    ]
    others = None if chance is None else read_whole(lens, silence, layer, chance)[1]
    return Heard(values, np.array(named, dtype=np.bool_), others)


def has_words(values: PValues, fdr: float) -> Marks:
    """Return which patches of images keep their words, from their p-values `[images, patches]`; 1: all."""
    there = np.isfinite(values)
    if fdr >= 1:
        return there
    kept = np.zeros_like(there)
    for row, own, known in zip(kept, values, there, strict=True):
        row[known] = significant(own[known], fdr)
    return kept


def silence_rows(
    lens: Lens,
    heard: Mapping[int, Heard],
    scenes: WholeScenes,
    levels: Sequence[float],
    *,
    coverage: float = OBJECT,
    resamples: int = 1000,
) -> Iterator[SilenceRow]:
    """Yield what is left of a lens's words at each level: for each visual layer, then for all together.

    Args:
        lens: the lens.
        heard: what it finds at each visual layer.
        scenes: the labelled images.
        levels: shares of the words given that may be false.
        coverage: as for `hear`.
        resamples: resamples of the images for confidence intervals.
    """
    correction = getattr(lens, "correction", None)
    of = lens.name, "" if correction is None else correction.mode
    patches = [(truth.scene, truth.token) for truth in scenes.truths if truth.coverage >= coverage]
    scored = _Scored(scenes.background, np.array(patches, dtype=np.intp).reshape(-1, 2), resamples)
    for fdr in levels:
        for layer in heard:
            yield scored.row(of, layer, [heard[layer]], fdr)
        yield scored.row(of, None, list(heard.values()), fdr)


class _Scored:
    """Scores what is left of a lens's words."""

    def __init__(self, background: Marks, patches: npt.NDArray[np.intp], resamples: int) -> None:
        self._background, self._patches = background, patches
        self._resamples = resamples
        self._bootstrap = Bootstrap(len(background), resamples)

    def row(self, of: tuple[str, str], layer: int | None, heard: Sequence[Heard], fdr: float) -> SilenceRow:
        """Return the scores of one visual layer, or of several together."""
        loud = np.stack([has_words(one.values, fdr) for one in heard])
        named = np.stack([one.named for one in heard])
        images, places = self._patches.T
        on_things = loud[:, images, places]
        things = np.broadcast_to(images, on_things.shape)
        owners = np.broadcast_to(np.arange(loud.shape[1])[:, None], loud.shape)
        empty = np.broadcast_to(self._background, loud.shape)
        share = self._bootstrap.share
        return SilenceRow(
            *of,
            layer=layer,
            fdr=fdr,
            words=int(loud.sum()),
            background=share(empty[loud], owners[loud]),
            silent_background=share(~loud[empty], owners[empty]),
            coverage=share(on_things.ravel(), things.ravel()),
            precision=share(named[on_things], things[on_things]),
            kept=share(on_things[named], things[named]),
            chance=self._chance(heard, fdr),
        )

    def _chance(self, heard: Sequence[Heard], fdr: float) -> Share | None:
        given = [has_words(one.chance, fdr).any(axis=1) for one in heard if one.chance is not None]
        if not given:
            return None
        hits = np.stack(given)
        owners = np.broadcast_to(np.arange(hits.shape[1]), hits.shape)
        return Bootstrap(hits.shape[1], self._resamples).share(hits.ravel(), owners.ravel())
