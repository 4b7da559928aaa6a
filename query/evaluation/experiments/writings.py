"""Whether a model says what is written into its visual tokens: contexts of another thing's name in a thing's place.

In each scene of which the model's answer names a thing, contexts of the bank are written into all tokens of that thing:
one of another thing's name, and as a control a random one. And the other way: the direction of a context of the thing's
own name is taken out of its tokens, and as a control that of a random context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentbank.bank.vectors import ContextVector, context_vectors
from latentbank.errors import QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.causes.answers import Said, answer_of
from latentbank.query.causes.cause import total
from latentbank.query.causes.scores import Scores
from latentbank.query.causes.writing import Act, Kind, contexts_of, nearest_layer, positions_of, writing
from latentbank.query.evaluation.experiments.causes import CauseSetup, Kept, Told, told_scenes
from latentbank.query.evaluation.scoring import LEAST, names

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.evaluation.labelled import LabelledImage


@dataclass(frozen=True)
class WrittenRow:
    """What one context did in one scene.

    Attributes:
        scene: the scene's number.
        act: whether it was written, or its direction removed.
        layer: the visual layer.
        bank_layer: the context's bank layer.
        kind: whether it is a context of the word or a random one.
        said: whether the model then says the word: the other thing's name if it was written, the thing's own name if
            the direction was removed.
        kept: whether the model still says the name of the thing in whose tokens it was written.
        word: the change of the word's log-probability, in nats, at the place where the model's own answer names the
            thing.
    """

    scene: int
    act: Act
    layer: int
    bank_layer: int
    kind: Kind
    said: bool
    kept: bool
    word: float


@dataclass(frozen=True)
class _Plan:
    """One row to come."""

    act: Act
    layer: int
    kind: Kind
    context: ContextVector


def write_scenes(
    model: VisualModel,
    unembedding: Unembedding,
    bank: Bank,
    scenes: Sequence[LabelledImage],
    setup: CauseSetup,
    *,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> list[WrittenRow]:
    """Write contexts into visual tokens on scenes, and remove directions of contexts.

    Contexts come from the bank layer that is nearest to the visual layer; what is written also from the one nearest to
    half of the LLM's depth, where visual tokens find their neighbors.

    Args:
        model: the VLM, loaded whole.
        unembedding: its unembedding.
        bank: a bank of its LLM, of plain cosine.
        scenes: labelled images, made for its grid.
        setup: the layers, and how answers are written.
        kept: where the rows of each scene are kept, so that a run continues; None: nowhere.
        progress: receives the number of scenes done.

    Raises:
        QueryError: the bank is centred.
    """
    progress = progress or Silent()
    things = sorted({thing.name for scene in scenes for thing in scene.objects})
    rows: list[WrittenRow] = []
    for told in told_scenes(model, scenes, setup):
        found = None if kept is None else kept.load(told.number)
        if found is None:
            found = list(_rows(model, told, unembedding, bank, scenes[told.number], things, setup))
            if kept is not None:
                kept.save(told.number, found)
        rows += found
        progress.update(told.number + 1, len(scenes))
    return rows


def _rows(
    model: VisualModel,
    told: Told,
    unembedding: Unembedding,
    bank: Bank,
    scene: LabelledImage,
    things: Sequence[str],
    setup: CauseSetup,
) -> Iterator[WrittenRow]:
    if told.thing is None or told.said is None:
        return
    chance = np.random.default_rng([told.number, 1])
    shown = [thing.name for thing in scene.objects]
    others = [name for name in things if not any(names(own.split()[-1], name) for own in shown)]
    new = _with_contexts(bank, chance.permutation(np.array(others)).tolist())
    plans = list(_plans(bank, told.thing.name, new, setup.layers, model.num_layers, told.number))
    positions = positions_of(told.prompted, np.flatnonzero(told.coverage >= LEAST).tolist())
    made = [writing(positions, plan.layer, plan.context.vector, plan.act) for plan in plans]
    tokenizer = model.language.tokenizer
    answers = [answer_of(ids, tokenizer) for ids in told.prompted.write(setup.answer, made)]
    scores = Scores(told.prompted, unembedding, setup.batch)
    # The other thing's name in the place of the thing's own.
    before = told.answer.ids[: told.said.first]
    put = tokenizer(f" {new}" if before else new, add_special_tokens=False)["input_ids"]
    swapped = Said(new, len(before), len(before) + len(put))
    for act, ids, said, word in (
        ("write", [*before, *put], swapped, new),
        ("remove", told.answer.ids, told.said, told.thing.name),
    ):
        own = [number for number, plan in enumerate(plans) if plan.act == act]
        changes = scores.changes(ids, [made[number] for number in own])
        for number, changed in zip(own, changes, strict=True):
            plan, answer = plans[number], answers[number]
            yield WrittenRow(
                told.number,
                plan.act,
                plan.layer,
                plan.context.context.bank_layer,
                plan.kind,
                answer.find(word) is not None,
                answer.find(told.thing.name) is not None,
                total(changed, said),
            )


def _with_contexts(bank: Bank, things: Sequence[str]) -> str:
    """Return the first name that the bank has contexts of.

    Raises:
        QueryError: it has none of any.
    """
    for name in things:
        try:
            contexts_of(bank, bank.layers[0], name, 1)
        except QueryError:
            if bank.metric == "centred":
                raise
            continue
        return name
    raise QueryError(
        f"The bank '{bank.name}' has no context of any thing of the scenes; fill it with such sentences."
    )


def _plans(bank: Bank, own: str, new: str, layers: Sequence[int], depth: int, seed: int) -> Iterator[_Plan]:
    for layer in layers:
        near, middle = nearest_layer(bank, layer), nearest_layer(bank, depth // 2)
        for at in dict.fromkeys([near, middle]):
            yield _Plan("write", layer, "word", contexts_of(bank, at, new, 1)[0])
            yield _Plan("write", layer, "random", _random(bank, at, new, seed))
        try:
            named = contexts_of(bank, near, own, 1)[0]
        except QueryError:
            continue  # the model knows a name that the corpora lack
        yield _Plan("remove", layer, "word", named)
        yield _Plan("remove", layer, "random", _random(bank, near, own, seed))


def _random(bank: Bank, layer: int, word: str, seed: int) -> ContextVector:
    (found,) = context_vectors(bank, layer, wanted=lambda one: not names(one.word, word), start=seed)
    return found
