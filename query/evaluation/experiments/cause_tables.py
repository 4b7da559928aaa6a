"""The numbers of the experiment on causes: means and differences within scenes, with 95 % intervals over scenes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latentbank.query.evaluation.experiments.causes import GROUPS, Group, Row, per_scene
from latentbank.query.evaluation.experiments.writings import WrittenRow
from latentbank.query.evaluation.scoring import Bootstrap, Share

PAIRS: tuple[tuple[Group, Group], ...] = (
    ("named", "random"),
    ("named", "near"),
    ("named, as many", "not named"),
)
"""Groups that are compared within each scene."""


@dataclass(frozen=True)
class GroupEffect:
    """What ablating one group changed, as means over scenes with intervals from resampled scenes.

    Attributes:
        way: how tokens were ablated.
        layer: from which layer on; None: mean over the layers.
        group: which tokens.
        word: the change of the log-probability of the thing's name, in nats.
        others: that of the answer's other words.
        things: that of the names of other things; of scenes whose answer says some.
        count: mean number of tokens.
        coverage: the mean share of a token that the thing covers.
        norm: the mean length of hidden states.
        place: the mean number in the sequence of visual tokens, as a share of all.
    """

    way: str
    layer: int | None
    group: Group
    word: Share
    others: Share
    things: Share
    count: float
    coverage: float
    norm: float
    place: float


@dataclass(frozen=True)
class Difference:
    """The change of the name by one group less that by another, within scenes that have both; below 0: it matters more.

    Attributes:
        way: how tokens were ablated.
        layer: from which layer on; None: mean over the layers.
        first: the group.
        second: the other group.
        word: the mean difference, in nats.
        more: the share of scenes in which the first lowers the name more.
    """

    way: str
    layer: int | None
    first: Group
    second: Group
    word: Share
    more: Share


@dataclass(frozen=True)
class WrittenEffect:
    """What contexts of one kind did, as means over scenes with intervals from resampled scenes; see `WrittenRow`."""

    act: str
    layer: int
    bank_layer: int
    kind: str
    said: Share
    kept: Share
    word: Share


@dataclass(frozen=True)
class CauseTables:
    """All numbers of the experiment.

    Attributes:
        about: model, bank, lens, settings, and numbers of scenes.
        effects: by way, layer and group.
        differences: by way, layer and pair of groups.
        written: by act, layers and kind of context.
    """

    about: Mapping[str, Any]
    effects: tuple[GroupEffect, ...]
    differences: tuple[Difference, ...]
    written: tuple[WrittenEffect, ...]

    def effect(self, way: str, layer: int | None, group: str) -> GroupEffect | None:
        """Return what ablating a group changed; None if no scene has such tokens."""
        for found in self.effects:
            if (found.way, found.layer, found.group) == (way, layer, group):
                return found
        return None

    def difference(self, way: str, layer: int | None, first: str) -> Difference | None:
        """Return a difference by its first group; of those with "named", that to random tokens."""
        for found in self.differences:
            if (found.way, found.layer, found.first) == (way, layer, first):
                return found
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as JSON-ready data (docs/json.md describes it)."""
        return {
            "about": dict(self.about),
            **{
                name: [asdict(row) for row in getattr(self, name)]
                for name in ("effects", "differences", "written")
            },
        }


def tables_of(
    rows: Sequence[Row], written: Sequence[WrittenRow], scenes: int, about: Mapping[str, Any]
) -> CauseTables:
    """Return the tables of the rows of `ablate_scenes` and `write_scenes` on so many scenes."""
    bootstrap = Bootstrap(scenes)
    return CauseTables(
        about,
        tuple(_effects(rows, bootstrap)),
        tuple(_differences(rows, bootstrap)),
        tuple(_written(written, bootstrap)),
    )


def _slices(rows: Sequence[Row]) -> Iterator[tuple[str, int | None]]:
    layers: list[int | None] = list(dict.fromkeys(row.layer for row in rows))
    for way in dict.fromkeys(row.way for row in rows):
        for layer in (*layers, None):
            yield way, layer


def _share(bootstrap: Bootstrap, by_scene: Mapping[int, float]) -> Share:
    return bootstrap.share(list(by_scene.values()), list(by_scene))


def _effects(rows: Sequence[Row], bootstrap: Bootstrap) -> Iterator[GroupEffect]:
    for way, layer in _slices(rows):
        for group in GROUPS:
            found = {
                what: per_scene(rows, way, layer, group, what)
                for what in ("word", "others", "things", "count", "coverage", "norm", "place")
            }
            if found["word"]:
                yield GroupEffect(
                    way,
                    layer,
                    group,
                    word=_share(bootstrap, found["word"]),
                    others=_share(bootstrap, found["others"]),
                    things=_share(bootstrap, found["things"]),
                    count=_mean(found["count"]),
                    coverage=_mean(found["coverage"]),
                    norm=_mean(found["norm"]),
                    place=_mean(found["place"]),
                )


def _mean(by_scene: Mapping[int, float]) -> float:
    return float(np.mean(list(by_scene.values())))


def _differences(rows: Sequence[Row], bootstrap: Bootstrap) -> Iterator[Difference]:
    for way, layer in _slices(rows):
        for first, second in PAIRS:
            one, two = (
                _at_equal_layers(rows, way, layer, pair) for pair in ((first, second), (second, first))
            )
            apart = {scene: value - two[scene] for scene, value in one.items()}
            if apart:
                lower = {scene: float(value < 0) for scene, value in apart.items()}
                yield Difference(
                    way, layer, first, second, _share(bootstrap, apart), _share(bootstrap, lower)
                )


def _at_equal_layers(
    rows: Sequence[Row], way: str, layer: int | None, pair: tuple[Group, Group]
) -> dict[int, float]:
    """Return by scene the mean change by the first group of a pair, over the layers at which the scene has both."""
    layers = [layer] if layer is not None else list(dict.fromkeys(row.layer for row in rows))
    found: dict[int, list[float]] = {}
    for at in layers:
        own, other = (per_scene(rows, way, at, group) for group in pair)
        for scene in own.keys() & other.keys():
            found.setdefault(scene, []).append(own[scene])
    return {scene: float(np.mean(values)) for scene, values in sorted(found.items())}


def _written(rows: Sequence[WrittenRow], bootstrap: Bootstrap) -> Iterator[WrittenEffect]:
    keys = dict.fromkeys((row.act, row.layer, row.bank_layer, row.kind) for row in rows)
    for act, layer, bank_layer, kind in keys:
        own = [
            row
            for row in rows
            if (row.act, row.layer, row.bank_layer, row.kind) == (act, layer, bank_layer, kind)
        ]
        scenes = [row.scene for row in own]
        yield WrittenEffect(
            act,
            layer,
            bank_layer,
            kind,
            said=bootstrap.share([row.said for row in own], scenes),
            kept=bootstrap.share([row.kept for row in own], scenes),
            word=bootstrap.share([row.word for row in own], scenes),
        )
