"""Whether visual tokens that a lens names matter more than others: ablations on scenes with known contents.

For each scene, one thing that the model's own answer names is chosen, and groups of visual tokens are ablated. Changes
of log-probability are compared within the scene: those by named tokens with those by random ones, by tokens as near to
other words, and by tokens of the same thing that were not named, as many and with as much of the thing on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from latentbank.models.language.intervening import NOTHING
from latentbank.models.vision.prompted import prompted
from latentbank.progress import Progress, Silent
from latentbank.query.causes.ablating import Source, Way, ablation
from latentbank.query.causes.answers import Answer, Said, answer_of
from latentbank.query.causes.cause import total
from latentbank.query.causes.scores import Scores
from latentbank.query.causes.sets import best_scores, near_sets, random_sets, showing
from latentbank.query.evaluation.patches import Floats, token_of_patch
from latentbank.query.evaluation.scoring import LEAST
from latentbank.query.lenses.base import Queries

if TYPE_CHECKING:
    from torch import Tensor

    from latentbank.bank.points import Neighbor
    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.prompted import Prompted
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.evaluation.labelled import LabelledImage, LabelledObject
    from latentbank.query.lenses.base import Lens
    from latentbank.query.lenses.centring import Means

Group = Literal["thing", "named", "random", "near", "named, as many", "not named"]
"""Which tokens are ablated: all of the thing; its object patches that are named; as many at random that show nothing of
it; as many such tokens as near; and as many of its object patches that are named as of those that are not."""
GROUPS: tuple[Group, ...] = get_args(Group)
_IMAGES = 16  # in one forward pass


@dataclass(frozen=True)
class Row:
    """One draw of tokens of one scene, ablated in one way from one layer on.

    Attributes:
        scene: the scene's number.
        way: how they were ablated.
        layer: from which layer on, at which the lens read them too.
        group: which tokens.
        count: how many.
        word: the change of the log-probability of the thing's name, in nats.
        others: the mean change of the answer's other words.
        things: the mean change of the names of other things that the answer says; None: it says none.
        coverage: the mean share of the tokens that the thing covers.
        norm: the mean length of their hidden states at that layer.
        place: their mean number in the sequence of visual tokens, as a share of all.
    """

    scene: int
    way: Way
    layer: int
    group: Group
    count: int
    word: float
    others: float
    things: float | None
    coverage: float
    norm: float
    place: float


@dataclass(frozen=True)
class Told:
    """A scene in its prompt, with the model's answer and the thing that was chosen.

    Attributes:
        number: the scene's number.
        prompted: the scene in its prompt, with hidden states at all layers.
        answer: the model's own answer.
        thing: the thing that was chosen; None: the answer names none with an object patch.
        said: how the answer says it.
        others: how it says other things of the scene.
        coverage: the share of each visual token that the thing covers, `[tokens]`.
    """

    number: int
    prompted: Prompted
    answer: Answer
    thing: LabelledObject | None
    said: Said | None
    others: tuple[Said, ...]
    coverage: Floats


@dataclass(frozen=True)
class CauseSetup:
    """What is ablated on each scene.

    Attributes:
        layers: the layers.
        ways: the ways of ablating.
        coverage: the least share of an object patch that its thing covers.
        draws: draws of each group that is drawn.
        top_k: neighbors of a token that may name a thing.
        answer: the largest number of tokens of an answer.
        batch: rows in one forward pass.
    """

    layers: tuple[int, ...]
    ways: tuple[Way, ...]
    coverage: float = 0.5
    draws: int = 1
    top_k: int = 5
    answer: int = 24
    batch: int = 4


def told_scenes(
    model: VisualModel, scenes: Sequence[LabelledImage], setup: CauseSetup, first: int = 0
) -> Iterator[Told]:
    """Run a VLM on scenes, numbered from `first`, and choose a thing of each that the VLM's own answer names."""
    for number, scene in enumerate(scenes, first):
        given = prompted(model, scene.image, range(min(setup.layers), model.num_layers))
        (ids,) = given.write(setup.answer, [NOTHING])
        answer = answer_of(ids, model.language.tokenizer)
        found = [(thing, answer.find(thing.name)) for thing in scene.objects]
        known = [(thing, said) for thing, said in found if said is not None]
        able = [
            (thing, said)
            for thing, said in known
            if (thing.coverage >= setup.coverage).any() and [other for _, other in known].count(said) == 1
        ]
        if not able:
            yield Told(number, given, answer, None, None, (), np.zeros(len(given.tokens), np.float32))
            continue
        thing, said = able[int(np.random.default_rng(max(number, 0)).integers(len(able)))]
        coverage = np.zeros(len(given.tokens), np.float32)
        for patch, token in token_of_patch(given.tokens).items():
            coverage[token] = thing.coverage[patch]
        others = tuple(other for _, other in known if other != said)
        yield Told(number, given, answer, thing, said, others, coverage)


def ablate_scenes(
    model: VisualModel,
    unembedding: Unembedding,
    lens: Lens,
    scenes: Sequence[LabelledImage],
    setup: CauseSetup,
    *,
    reference: Mapping[int, Any],
    means: Means | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> tuple[list[Row], int]:
    """Ablate groups of visual tokens on scenes.

    Args:
        model: the VLM, loaded whole.
        unembedding: its unembedding.
        lens: says which tokens are named.
        scenes: labelled images, made for the VLM's grid. Of each, the tokens of the one before are "another image's";
            of the first those of the second.
        setup: what is ablated.
        reference: the mean of visual tokens of other scenes by layer, `[hidden]` tensors.
        means: of a centred bank's queries.
        kept: where the rows of each scene are kept, so that a run continues; None: nowhere.
        progress: receives the number of scenes done.

    Returns:
        A row for each draw, and the number of scenes that have rows: whose answers name a thing with an object patch.
    """
    progress = progress or Silent()
    rows: list[Row] = []
    chosen = 0
    before: Mapping[int, Any] | None = None
    for told in told_scenes(model, [scenes[1 % len(scenes)], *scenes], setup, -1):
        own = told.prompted.tokens.states
        number = told.number
        if before is not None:
            found = None if kept is None else kept.load(number)
            if found is None:
                source = Source((before,), reference, own)
                neighbors = {
                    layer: _neighbors(lens, told, layer, means, setup.top_k) for layer in setup.layers
                }
                found = list(_rows(told, unembedding, neighbors, source, setup))
                if kept is not None:
                    kept.save(number, found)
            rows += found
            chosen += bool(found)
            progress.update(number + 1, len(scenes))
        before = own
    return rows, chosen


def _neighbors(lens: Lens, told: Told, layer: int, means: Means | None, top_k: int) -> list[list[Neighbor]]:
    states = told.prompted.tokens.states[layer]
    mean = None if means is None else means.at(layer)
    return lens.read(Queries(states, layer, "visual", mean), top_k)


def _groups(
    told: Told, neighbors: Sequence[Sequence[Neighbor]], setup: CauseSetup, chance: np.random.Generator
) -> dict[Group, list[list[int]]]:
    """Return the sets of tokens of each group; none of a group that has too few."""
    assert told.thing is not None
    names = set(showing(neighbors, told.thing.name))
    patches = np.flatnonzero(told.coverage >= setup.coverage).tolist()
    named, unnamed = [n for n in patches if n in names], [n for n in patches if n not in names]
    outside = np.flatnonzero(told.coverage < LEAST).tolist()
    apart = [n for n in outside if n not in names]
    equal = min(len(named), len(unnamed))
    some = random_sets(equal, named, setup.draws, chance)
    coverage = told.coverage.tolist()
    return {
        "thing": [np.flatnonzero(told.coverage >= LEAST).tolist()],
        "named": [named] if named else [],
        "random": random_sets(len(named), outside, setup.draws, chance),
        "near": near_sets(named, apart, best_scores(neighbors), setup.draws, chance),
        "named, as many": some,
        "not named": [drawn for own in some for drawn in near_sets(own, unnamed, coverage, 1, chance)],
    }


def _rows(
    told: Told,
    unembedding: Unembedding,
    neighbors: Mapping[int, list[list[Neighbor]]],
    source: Source,
    setup: CauseSetup,
) -> Iterator[Row]:
    """Ablate all groups of a scene at all layers in all ways."""
    if told.thing is None or told.said is None:
        return
    drawn: list[tuple[Way, int, Group, list[int]]] = []
    for layer in setup.layers:
        chance = np.random.default_rng([told.number, layer])
        groups = _groups(told, neighbors[layer], setup, chance)
        drawn += [
            (way, layer, group, tokens)
            for way in setup.ways
            for group, sets in groups.items()
            for tokens in sets
            if group != "thing" or way == setup.ways[0]  # for scale, which one way shows
        ]
    scores = Scores(told.prompted, unembedding, setup.batch)
    # Two groups may have the same tokens.
    unique = list(dict.fromkeys((way, layer, tuple(tokens)) for way, layer, _, tokens in drawn))
    made = [ablation(way, told.prompted, tokens, layer, source) for way, layer, tokens in unique]
    by_set = dict(zip(unique, scores.changes(told.answer.ids, made), strict=True))
    rest = [said for said in told.answer.words if said.end <= told.said.first or said.first >= told.said.end]
    for way, layer, group, tokens in drawn:
        changed, norms = by_set[way, layer, tuple(tokens)], told.prompted.tokens.norms(layer)
        yield Row(
            scene=told.number,
            way=way,
            layer=layer,
            group=group,
            count=len(tokens),
            word=total(changed, told.said),
            others=float(np.mean([total(changed, said) for said in rest])) if rest else 0.0,
            things=float(np.mean([total(changed, said) for said in told.others])) if told.others else None,
            coverage=float(told.coverage[tokens].mean()),
            norm=float(norms[tokens].mean()),
            place=float(np.mean(tokens)) / len(norms),
        )


@dataclass(frozen=True)
class Kept:
    """The rows of each scene, kept in files of a folder together with the settings that they depend on."""

    folder: Path
    settings: Mapping[str, Any]
    kind: type = Row

    def load(self, scene: int) -> list[Any] | None:
        """Return the rows of a scene; None if there are none of these settings."""
        import json

        try:
            data = json.loads((self.folder / f"{scene:04d}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if data.get("settings") != json.loads(json.dumps(self.settings)):
            return None
        return [self.kind(**row) for row in data["rows"]]

    def save(self, scene: int, rows: Sequence[Any]) -> None:
        """Keep the rows of a scene."""
        import json

        from latentbank.files import write_whole

        data = {"settings": self.settings, "rows": [asdict(row) for row in rows]}
        write_whole(self.folder / f"{scene:04d}.json", json.dumps(data).encode())


def per_scene(
    rows: Sequence[Row], way: str, layer: int | None, group: Group, what: str = "word"
) -> dict[int, float]:
    """Return by scene the mean over draws of one value of `Row`; with `layer` None over all layers, too."""
    found: dict[int, list[float]] = {}
    for row in rows:
        value = getattr(row, what)
        if (row.way, row.group) == (way, group) and layer in (None, row.layer) and value is not None:
            found.setdefault(row.scene, []).append(value)
    return {scene: float(np.mean(values)) for scene, values in found.items()}


def mean_states(
    model: VisualModel, scenes: Sequence[LabelledImage], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Return the mean hidden state of the visual tokens of scenes by layer, `[hidden]`, float32."""
    import torch

    sums: dict[int, Tensor] = {}
    count = 0
    for start in range(0, len(scenes), _IMAGES):
        for tokens in model.visual_tokens([scene.image for scene in scenes[start : start + _IMAGES]], layers):
            count += len(tokens)
            for layer, states in tokens.states.items():
                sums[layer] = sums.get(layer, torch.zeros(())) + states.double().sum(0).cpu()
    return {layer: (total_state / count).float() for layer, total_state in sums.items()}
