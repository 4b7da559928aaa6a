"""Tables of an evaluation: from verdicts on patches to shares with confidence intervals. No models run here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from latentbank.bank.points import Neighbor
from latentbank.errors import QueryError
from latentbank.query.evaluation.scoring import (
    BINS,
    Bootstrap,
    Share,
    Truth,
    Verdict,
    by_thing,
    judge_all,
    shuffled,
)

if TYPE_CHECKING:
    from latentbank.query.evaluation.silence import SilenceRow

Verdicts = npt.NDArray[np.int8]
Weights = Literal["trained", "random"]
Pictures = Literal["true", "shuffled"]

OBJECT = 0.5
"""The least share of an object patch that its object covers."""


@dataclass(frozen=True)
class Row:
    """Shares of object patches at one visual layer.

    Attributes:
        projector: "random" for the control of random weights.
        images: "shuffled" for the control of shuffled images.
        metric: the bank's.
        lens: the lens's name.
        distinct: whether distinct words were scored rather than neighbors.
        layer: the visual layer; None: the mean over all of them.
        concrete: patches whose object is named, as query/evaluation/scoring.py defines it.
        global_: patches for which another object of the scene is named.
        attribute: patches for which another true word is found.
        interpretable: any of these three.
        things: objects of which at least one object patch is named.
        by_coverage: `concrete` for groups of patches: the object covers at least the first share and less than the
            second.
    """

    projector: Weights
    images: Pictures
    metric: str
    lens: str
    distinct: bool
    layer: int | None
    concrete: Share
    global_: Share
    attribute: Share
    interpretable: Share
    things: Share
    by_coverage: tuple[tuple[float, float, Share], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready data (docs/json.md describes it)."""
        data = asdict(self)
        data["global"] = data.pop("global_")
        data["by_coverage"] = [
            {"from": low, "to": high, **asdict(share)} for low, high, share in self.by_coverage
        ]
        return data


@dataclass(frozen=True)
class Aligned:
    """What one bank layer finds for the object patches at one visual layer.

    Attributes:
        projector: "random" for the control of random weights.
        visual_layer: the visual layer.
        bank_layer: the bank layer.
        first: the share of patches whose nearest neighbor, of all bank layers, lies in this one.
        named: the share of patches that it names alone; None if it was not searched alone.
        chance: the same for shuffled images.
        cosine: the mean cosine of its nearest neighbors; None if it was not searched alone.
    """

    projector: Weights
    visual_layer: int
    bank_layer: int
    first: float
    named: Share | None = None
    chance: Share | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The scores of all lenses.

    Attributes:
        about: what was scored, and how; JSON-ready.
        rows: the shares.
        alignment: an entry for each projector, visual layer and bank layer of the first lens with a bank.
        silence: what silence left of each lens's words; empty if no token could be silent.
    """

    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    alignment: tuple[Aligned, ...]
    silence: tuple[SilenceRow, ...] = ()

    def row(
        self,
        lens: str,
        layer: int | None = None,
        *,
        projector: Weights = "trained",
        images: Pictures = "true",
        distinct: bool = False,
    ) -> Row:
        """Return a row; `layer` None: the mean over the visual layers.

        Raises:
            KeyError: there is no such row.
        """
        key = (lens, layer, projector, images, distinct)
        for row in self.rows:
            if (row.lens, row.layer, row.projector, row.images, row.distinct) == key:
                return row
        raise KeyError(key)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready data (docs/json.md describes it). Shares of no patches are null."""
        data: dict[str, Any] = finite(
            {
                **self.about,
                "rows": [row.to_dict() for row in self.rows],
                "alignment": [asdict(entry) for entry in self.alignment],
                "silence": [row.to_dict() for row in self.silence],
            }
        )
        return data


@dataclass(frozen=True)
class _Scored:
    """The verdicts on object patches at one visual layer, and on the patches of each group of coverage."""

    main: Verdicts
    groups: tuple[Verdicts, ...]


class Tables:
    """Collects verdicts, and computes rows from them.

    Args:
        scenes: the number of scenes.
        coverage: the least share of an object patch that its object covers.
        resamples: resamples of the scenes for confidence intervals.

    Raises:
        QueryError: there are fewer than two scenes.
    """

    def __init__(self, scenes: int, coverage: float, resamples: int) -> None:
        if scenes < 2:
            raise QueryError("Give at least two scenes: one alone cannot be shuffled or resampled.")
        self.coverage, self.resamples = coverage, resamples
        self._bootstrap = Bootstrap(scenes, resamples)
        self._truths: dict[Weights, Sequence[Truth]] = {}
        self._scored: dict[tuple[Weights, Pictures, str, bool], dict[int, _Scored]] = {}
        self.aligned: list[Aligned] = []

    def require(self, projector: Weights, truths: Sequence[Truth]) -> None:
        """Keep what is known of the patches that will be scored with a projector.

        Raises:
            QueryError: there are too few patches for the control of shuffled images.
        """
        self._truths[projector] = truths
        if len({truths[i].scene for i in self.object_patches(truths)}) < 2:
            raise QueryError(
                f"Fewer than two scenes have a patch of which a thing covers {self.coverage:.0%}; give more scenes."
            )

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of object patches and of their objects."""
        truths = self._truths["trained"]
        chosen = [truths[i] for i in self.object_patches(truths)]
        return {"patches": len(chosen), "things": len({(truth.scene, truth.thing) for truth in chosen})}

    def object_patches(self, truths: Sequence[Truth]) -> list[int]:
        """Return the indices of the patches that count as object patches."""
        return [i for i, truth in enumerate(truths) if truth.coverage >= self.coverage]

    def add(
        self,
        projector: Weights,
        lens: str,
        layer: int,
        plain: list[list[Neighbor]],
        distinct: list[list[Neighbor]],
        truths: Sequence[Truth],
    ) -> None:
        """Score what a lens found at a layer."""
        for unique, found in ((False, plain), (True, distinct)):
            words = [[neighbor.word for neighbor in neighbors] for neighbors in found]
            for images in cast("tuple[Pictures, ...]", ("true", "shuffled")):
                main = _score(words, truths, self.object_patches(truths), images)
                groups = tuple(_score(words, truths, group, images) for group in _groups(truths))
                key = (projector, images, lens, unique)
                self._scored.setdefault(key, {})[layer] = _Scored(main, groups)

    def align(
        self,
        projector: Weights,
        layer: int,
        bank_layer: int,
        plain: list[list[Neighbor]],
        single: list[tuple[list[str], float]] | None,
        truths: Sequence[Truth],
    ) -> None:
        """Score a bank layer at a visual layer.

        Args:
            projector: the projector.
            layer: the visual layer.
            bank_layer: the bank layer.
            plain: the neighbors of each patch from all bank layers.
            single: words and best cosine of each object patch from this bank layer alone; None: it was not searched
                alone.
            truths: what is known of each patch.
        """
        chosen = self.object_patches(truths)
        first = [bool(plain[i]) and plain[i][0].bank_layer == bank_layer for i in chosen]
        named = chance = cosine = None
        if single is not None:
            scenes = [truths[i].scene for i in chosen]
            words = [found for found, _ in single]
            patches = [truths[i] for i in chosen]
            everywhere = list(range(len(patches)))
            named, chance = (
                self._bootstrap.share(_score(words, patches, everywhere, images) == Verdict.CONCRETE, scenes)
                for images in cast("tuple[Pictures, ...]", ("true", "shuffled"))
            )
            cosine = float(np.mean([best for _, best in single]))
        self.aligned.append(
            Aligned(projector, layer, bank_layer, float(np.mean(first)), named, chance, cosine)
        )

    def rows(self, metric: str) -> Iterator[Row]:
        """Yield the rows of each layer, and of the mean over all layers."""
        for (projector, images, lens, distinct), by_layer in self._scored.items():
            truths = self._truths[projector]
            main = [truths[i] for i in self.object_patches(truths)]
            groups = [[truths[i] for i in group] for group in _groups(truths)]
            for layer in (*by_layer, None):
                scored = [by_layer[layer]] if layer is not None else list(by_layer.values())
                verdicts = np.stack([layer_scores.main for layer_scores in scored])
                things = [by_thing(row == Verdict.CONCRETE, main) for row in verdicts]
                yield Row(
                    projector=projector,
                    images=images,
                    metric=metric,
                    lens=lens,
                    distinct=distinct,
                    layer=layer,
                    concrete=self._share(verdicts == Verdict.CONCRETE, main),
                    global_=self._share(verdicts == Verdict.GLOBAL, main),
                    attribute=self._share(verdicts == Verdict.ATTRIBUTE, main),
                    interpretable=self._share(verdicts > Verdict.NOTHING, main),
                    things=self._bootstrap.share(np.mean([hit for hit, _ in things], axis=0), things[0][1]),
                    by_coverage=tuple(
                        (low, high, self._grouped(scored, number, group))
                        for number, (low, high, group) in enumerate(
                            zip(BINS[:-1], BINS[1:], groups, strict=True)
                        )
                    ),
                )

    def _share(self, hits: npt.NDArray[np.bool_], truths: Sequence[Truth]) -> Share:
        """Return the share of `hits` `[layers, patches]`; a patch counts with its mean over the layers."""
        return self._bootstrap.share(hits.mean(axis=0), [truth.scene for truth in truths])

    def _grouped(self, scored: Sequence[_Scored], number: int, truths: Sequence[Truth]) -> Share:
        verdicts = np.stack([layer_scores.groups[number] for layer_scores in scored])
        if verdicts.shape[1] != len(truths):  # there were too few to be shuffled
            truths = []
        return self._share(verdicts == Verdict.CONCRETE, truths)


def _score(
    words: Sequence[Sequence[str]], truths: Sequence[Truth], chosen: Sequence[int], images: Pictures
) -> Verdicts:
    """Return the verdicts on the chosen patches, by their own words or, shuffled, by those of patches of other scenes.

    They are empty if all chosen patches are of one scene and cannot be shuffled.
    """
    patches, found = [truths[i] for i in chosen], [words[i] for i in chosen]
    if images == "shuffled":
        if len({truth.scene for truth in patches}) < 2:
            return np.zeros(0, dtype=np.int8)
        found = [found[i] for i in shuffled(patches)]
    return judge_all(found, patches)


def _groups(truths: Sequence[Truth]) -> list[list[int]]:
    """Return the patches of each group of coverage; the last group includes those that are covered entirely."""
    limits = [*BINS[:-1], math.inf]
    return [
        [i for i, truth in enumerate(truths) if low <= truth.coverage < high]
        for low, high in pairwise(limits)
    ]


def finite(data: Any) -> Any:
    """Return the data with None for each number that is not finite, as JSON has no such numbers."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
