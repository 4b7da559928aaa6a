"""Tables of an evaluation: verdicts on patches come in, shares with confidence intervals go out. No models here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, cast

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

Verdicts = npt.NDArray[np.int8]
Weights = Literal["trained", "random"]
Pictures = Literal["true", "shuffled"]

OBJECT = 0.5
"""An object patch is one of which its thing covers at least this share."""


@dataclass(frozen=True)
class Row:
    """Shares of object patches at one visual layer (`layer` None: the mean over all).

    `concrete`, `global_`, `attribute` are as query/evaluation/scoring.py says, `interpretable` any of them; `things` is
    the share of things of which at least one object patch is named; `by_coverage` is `concrete` again, for patches
    of which the thing covers from one share to another.
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
        """Give the row as JSON-ready data (docs/json.md describes it)."""
        data = asdict(self)
        data["global"] = data.pop("global_")
        data["by_coverage"] = [
            {"from": low, "to": high, **asdict(share)} for low, high, share in self.by_coverage
        ]
        return data


@dataclass(frozen=True)
class Aligned:
    """What one bank layer does for the object patches at one visual layer.

    `first` is the share of patches whose nearest neighbor of all bank layers lies there. Where the bank layer was also
    searched alone, `named` is the share of patches it names and `cosine` the mean of its nearest neighbors' cosines.
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
    """The scores of all lenses. `about` says of what; `rows` are the shares.

    `alignment` has an entry for each projector, visual layer and bank layer of LatentLens (see `Aligned`).
    """

    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    alignment: tuple[Aligned, ...]

    def row(
        self,
        lens: str,
        layer: int | None = None,
        *,
        projector: Weights = "trained",
        images: Pictures = "true",
        distinct: bool = False,
    ) -> Row:
        """Give one row; `layer` None: the mean over the visual layers."""
        key = (lens, layer, projector, images, distinct)
        for row in self.rows:
            if (row.lens, row.layer, row.projector, row.images, row.distinct) == key:
                return row
        raise KeyError(key)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON-ready data (docs/json.md describes it); shares of nothing are null."""
        data: dict[str, Any] = _finite(
            {
                **self.about,
                "rows": [row.to_dict() for row in self.rows],
                "alignment": [asdict(one) for one in self.alignment],
            }
        )
        return data


@dataclass(frozen=True)
class _Scored:
    """The verdicts on object patches at one visual layer, and on the patches of each group of coverage."""

    main: Verdicts
    groups: tuple[Verdicts, ...]


class Tables:
    """Collects verdicts, and makes rows of them."""

    def __init__(self, scenes: int, coverage: float, resamples: int) -> None:
        if scenes < 2:
            raise QueryError("Give at least two scenes: one alone cannot be shuffled or resampled.")
        self._coverage = coverage
        self._bootstrap = Bootstrap(scenes, resamples)
        self._truths: dict[Weights, Sequence[Truth]] = {}
        self._scored: dict[tuple[Weights, Pictures, str, bool], dict[int, _Scored]] = {}
        self.aligned: list[Aligned] = []

    def require(self, projector: Weights, truths: Sequence[Truth]) -> None:
        """Take the patches that will be scored with a projector.

        Raises:
            QueryError: they are too few for the control of shuffled images.
        """
        self._truths[projector] = truths
        if len({truths[i].scene for i in self.object_patches(truths)}) < 2:
            raise QueryError(
                f"Fewer than two scenes have a patch of which a thing covers {self._coverage:.0%}; give more scenes."
            )

    @property
    def counts(self) -> dict[str, int]:
        """How many object patches and things there are."""
        truths = self._truths["trained"]
        chosen = [truths[i] for i in self.object_patches(truths)]
        return {"patches": len(chosen), "things": len({(truth.scene, truth.thing) for truth in chosen})}

    def object_patches(self, truths: Sequence[Truth]) -> list[int]:
        """Give the indices of the patches that count as object patches."""
        return [i for i, truth in enumerate(truths) if truth.coverage >= self._coverage]

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
        """Note how near a bank layer lies to a visual layer, and what it names if it was searched alone."""
        chosen = self.object_patches(truths)
        first = [bool(plain[i]) and plain[i][0].bank_layer == bank_layer for i in chosen]
        named = chance = cosine = None
        if single is not None:
            scenes = [truths[i].scene for i in chosen]
            words = [said for said, _ in single]
            here = [truths[i] for i in chosen]
            everywhere = list(range(len(here)))
            named, chance = (
                self._bootstrap.share(_score(words, here, everywhere, images) == Verdict.CONCRETE, scenes)
                for images in cast("tuple[Pictures, ...]", ("true", "shuffled"))
            )
            cosine = float(np.mean([best for _, best in single]))
        self.aligned.append(
            Aligned(projector, layer, bank_layer, float(np.mean(first)), named, chance, cosine)
        )

    def rows(self, metric: str) -> Iterator[Row]:
        """Make the rows: of each layer, and of the mean over all layers."""
        for (projector, images, lens, distinct), by_layer in self._scored.items():
            truths = self._truths[projector]
            main = [truths[i] for i in self.object_patches(truths)]
            groups = [[truths[i] for i in group] for group in _groups(truths)]
            for layer in (*by_layer, None):
                scored = [by_layer[layer]] if layer is not None else list(by_layer.values())
                verdicts = np.stack([one.main for one in scored])
                things = [by_thing(one == Verdict.CONCRETE, main) for one in verdicts]
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
        """Give the share of `hits` `[layers, patches]`, each patch counted with its mean over the layers."""
        return self._bootstrap.share(hits.mean(axis=0), [truth.scene for truth in truths])

    def _grouped(self, scored: Sequence[_Scored], number: int, truths: Sequence[Truth]) -> Share:
        verdicts = np.stack([one.groups[number] for one in scored])
        if verdicts.shape[1] != len(truths):  # too few to be shuffled
            truths = []
        return self._share(verdicts == Verdict.CONCRETE, truths)


def _score(
    words: Sequence[Sequence[str]], truths: Sequence[Truth], chosen: Sequence[int], images: Pictures
) -> Verdicts:
    """Judge the chosen patches by their own words, or by those of patches of other scenes; nothing where none is."""
    here, said = [truths[i] for i in chosen], [words[i] for i in chosen]
    if images == "shuffled":
        if len({truth.scene for truth in here}) < 2:
            return np.zeros(0, dtype=np.int8)
        said = [said[i] for i in shuffled(here)]
    return judge_all(said, here)


def _groups(truths: Sequence[Truth]) -> list[list[int]]:
    """Give the patches of each group of coverage; the last holds those that are covered wholly, too."""
    limits = [*BINS[:-1], math.inf]
    return [
        [i for i, truth in enumerate(truths) if low <= truth.coverage < high]
        for low, high in pairwise(limits)
    ]


def _finite(data: Any) -> Any:
    """Write what is not a number as null, which JSON has."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
