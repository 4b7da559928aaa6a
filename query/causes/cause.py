"""Ablating the visual tokens that a lens says show a word, beside as many others: what changes in the model's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from latentbank.errors import LayerNotFound, QueryError
from latentbank.models.language.intervening import NOTHING, Intervention
from latentbank.models.vision.prompted import prompted
from latentbank.models.visual import unembedding_of
from latentbank.progress import Progress, Silent
from latentbank.query.causes.ablating import Source, Way, ablation, source_of, ways_of
from latentbank.query.causes.answers import Answer, Said, answer_of
from latentbank.query.causes.results import AnswerWord, Causes, Effect, Group, p_value_of, spread_of
from latentbank.query.causes.scores import Floats64, Scores
from latentbank.query.causes.sets import best_scores, near_sets, random_sets, showing
from latentbank.query.lenses.centring import QueryMean
from latentbank.query.reading.assembly import Choices
from latentbank.query.reading.images import Source as ImageGiven
from latentbank.query.reading.images import opened
from latentbank.query.reading.visual import checked, python_warning
from latentbank.query.reading.visual_tokens import check_states
from latentbank.query.reading.around import VISUAL_ALONE
from latentbank.text import check_text, listed, public_name
from latentbank.values import Layers, whole

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.bank.points import Neighbor
    from latentbank.models.vision.prompted import Prompted
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.lenses.base import Lens

ANSWER = 32
"""The largest number of tokens of an answer, by default."""
DRAWS = 8
"""Draws of random tokens, by default."""
BATCH = 16
"""Copies of the sequence in one forward pass, by default."""


@dataclass(frozen=True)
class Ablated:
    """One draw: the tokens of a group, ablated in one way from one layer on."""

    way: Way
    layer: int
    group: Group
    draw: int
    tokens: tuple[int, ...]


def cause(
    model: VisualModel,
    image: ImageGiven,
    word: str,
    lens: Lens,
    layers: Layers,
    *,
    by: Sequence[str] = ("mean",),
    others: Sequence[ImageGiven] = (),
    tokens: Sequence[int] | None = None,
    top_k: int = 5,
    draws: int = DRAWS,
    answer: int = ANSWER,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    batch: int = BATCH,
    seed: int = 0,
    progress: Progress | None = None,
) -> Causes:
    """Ablate the visual tokens that show a word, and return what that changes in the model's own answer.

    The model first writes its answer. Then the answer is given to it again and again (teacher forcing) while tokens are
    ablated, and each word's log-probability is compared with that without a change. If the answer lacks the word, the
    word is scored as the next one after the prompt.

    Args:
        model: the VLM, loaded whole.
        image: a path, a file's bytes, an open image, or pixels.
        word: a word, or a name of several.
        lens: says which tokens show the word: those one of whose first `top_k` neighbors names it.
        layers: the layers at which the lens reads the tokens, and from which on they are ablated.
        by: ways of ablating: "mean", "image", "attention" (`ablating.Way`).
        others: other images, whose tokens take the place of ablated ones. "image" needs them, "mean" without them takes
            the mean of the image's other tokens.
        tokens: numbers of the visual tokens to ablate, instead of those that show the word.
        top_k: neighbors that are looked at.
        draws: how often random tokens, and tokens as near, are drawn.
        answer: the largest number of tokens of the answer.
        prompt: the text beside the image; None: the model's own.
        query_mean: for a centred bank, as for `read_images`.
        batch: copies of the sequence in one forward pass.
        seed: seed of the draws.
        progress: receives the number of forward rows done.

    Raises:
        QueryError: no token shows the word, there is no such way, or "image" has no other images.
        LayerNotFound: the model does not have a layer, or nothing comes after it.
        ModelError: only part of the model is loaded, or its attention cannot be cut.
        ImageError: an image cannot be read, or another one gives another number of tokens.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.causes.cause import cause
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     found = cause(vlm, "cat.jpg", "cat", lb.LatentLens(bank), layers=[0, 8])
        >>> named = found.effect("mean", 8, "showing").word
    """
    check_text(word, "word")
    ways = ways_of(by)
    chosen, query_mean = checked(model, [lens], layers, query_mean, VISUAL_ALONE)
    check_layers(model, chosen)
    if "image" in ways and not others:
        raise QueryError("Name other images, whose tokens take the place of this one's.", argument="others")
    progress = progress or Silent()
    (name, picture), = opened([image], None)
    told = prompted(model, picture, range(min(chosen), model.num_layers), prompt)
    check_states(told.tokens, name, model)
    choices = Choices([lens], top_k, prompt, query_mean, python_warning)
    neighbors = {layer: list(choices.neighbors(lens, layer, [told.tokens], "visual")) for layer in chosen}
    source = source_of(model, told, [pixels for _, pixels in opened(others, None)], prompt)
    scores = Scores(told, unembedding_of(model), whole(batch, "batch", 1))
    spoken = speak(scores, word, whole(answer, "answer", 1))
    sets = _Sets(neighbors, word, tokens, whole(draws, "draws", 1), len(others), seed)
    rows = [row for way in ways for layer in chosen for row in sets.rows(way, layer)]
    if not rows:
        raise QueryError(
            f"Of no visual token does one of the first {top_k} neighbors name '{word}' at layers {listed(chosen)}; "
            "choose another word, other layers, or the tokens themselves."
        )
    word_changes, changes, nothing = run(scores, spoken, rows, ways, source, progress)
    return Causes(
        source=name,
        model=public_name(model.name),
        lens=lens.name,
        bank=lens.bank.name if lens.bank is not None else "",
        word=word,
        answer=spoken.answer.text.strip(),
        said=spoken.said.text if spoken.in_answer else "",
        log_probability=spoken.log_probability,
        words=spoken.words,
        showing={layer: tuple(sets.showing(layer)) for layer in chosen},
        visual_tokens=len(told.tokens),
        effects=tuple(_effects(rows, sets, ways, chosen, word_changes, changes, spoken)),
        nothing=nothing,
        others=len(others),
    )


def check_layers(model: VisualModel, layers: Sequence[int]) -> None:
    """Check that something comes after each layer that depends on visual tokens.

    Raises:
        LayerNotFound: a layer is the last one, or the model does not have it.
    """
    for layer in layers:
        if not 0 <= layer < model.num_layers:
            raise LayerNotFound(
                f"No block of {model.name} reads layer {layer}; choose layers from 0 to {model.num_layers - 1}."
            )


@dataclass(frozen=True, eq=False)
class Spoken:
    """What is scored: the model's answer, and the word in it or after the prompt.

    Attributes:
        answer: the model's answer.
        said: the word; its tokens are those of the answer, or of `alone`.
        alone: the word as an answer of its own; None: the answer says it.
        log_probability: the word's, without any change.
        words: the words of the answer with their log-probabilities.
    """

    answer: Answer
    said: Said
    alone: Answer | None
    log_probability: float
    words: tuple[AnswerWord, ...]

    @property
    def in_answer(self) -> bool:
        """Whether the model's answer says the word."""
        return self.alone is None

    def other_words(self) -> list[Said]:
        """Return the words of the answer but the one that is asked about."""
        if self.alone is not None:
            return list(self.answer.words)
        return [said for said in self.answer.words if said.end <= self.said.first or said.first >= self.said.end]


def speak(scores: Scores, word: str, most: int, answer: Answer | None = None) -> Spoken:
    """Let the model write its answer, unless it is given, and find the word in it or put it after the prompt."""
    tokenizer = scores.prompted.language.tokenizer
    if answer is None:
        (ids,) = scores.prompted.write(most, [NOTHING])
        answer = answer_of(ids, tokenizer)
    plain = scores.plain(answer.ids)[0] if answer.ids else np.empty(0)
    words = tuple(AnswerWord(said.text, total(plain, said)) for said in answer.words)
    said = answer.find(word)
    if said is not None:
        return Spoken(answer, said, None, total(plain, said), words)
    best: Spoken | None = None
    for spelled in (word, f" {word}"):  # as it begins a line, or after a space: whichever the model finds likelier
        ids = tokenizer(spelled, add_special_tokens=False)["input_ids"]
        alone = answer_of(ids, tokenizer)
        whole_word = Said(word, 0, len(ids))
        found = float(scores.plain(alone.ids)[0].sum())
        if best is None or found > best.log_probability:
            best = Spoken(answer, whole_word, alone, found, words)
    assert best is not None
    return best


def total(values: Floats64, said: Said) -> float:
    """Return the sum over a word's tokens of values `[answer]`."""
    return float(values[said.first : said.end].sum())


@dataclass(frozen=True)
class _Sets:
    """The tokens that are ablated at each layer."""

    neighbors: dict[int, list[list[Neighbor]]]
    word: str
    tokens: Sequence[int] | None
    draws: int
    images: int
    seed: int

    def showing(self, layer: int) -> list[int]:
        """Return the tokens that show the word at a layer, or those that were given.

        Raises:
            QueryError: there is no token of such a number.
        """
        count = len(self.neighbors[layer])
        if self.tokens is None:
            return showing(self.neighbors[layer], self.word)
        for number in self.tokens:
            if not 0 <= number < count:
                raise QueryError(f"There is no visual token {number}; they have the numbers 0 to {count - 1}.")
        return sorted(set(self.tokens))

    def rows(self, way: Way, layer: int) -> list[Ablated]:
        """Return the draws of all groups; none if no token shows the word. They are the same for each way."""
        own = self.showing(layer)
        if not own:
            return []
        found = self.neighbors[layer]
        chance = np.random.default_rng([self.seed, layer])
        rest = sorted(set(range(len(found))) - set(own) - set(showing(found, self.word)))
        times = min(self.draws, self.images) if way == "image" else 1
        drawn: list[tuple[Group, list[list[int]]]] = [
            ("showing", [own] * times),
            ("random", random_sets(len(own), rest, self.draws, chance)),
            ("near", near_sets(own, rest, best_scores(found), self.draws, chance)),
        ]
        return [
            Ablated(way, layer, group, draw, tuple(tokens))
            for group, sets in drawn
            for draw, tokens in enumerate(sets)
        ]


def run(
    scores: Scores,
    spoken: Spoken,
    rows: Sequence[Ablated],
    ways: Sequence[Way],
    source: Source,
    progress: Progress,
) -> tuple[Floats64, Floats64, float]:
    """Run all draws, and for each way an ablation of nothing.

    Returns:
        The change of the word's log-probability `[rows]`, those of the answer's tokens `[rows, answer]`, and the
        largest change that nothing made.
    """
    made: list[Intervention] = [
        ablation(row.way, scores.prompted, row.tokens, row.layer, source, row.draw) for row in rows
    ]
    made += [ablation(way, scores.prompted, (), 0, source).of_nothing() for way in ways]
    answers = [answer for answer in (spoken.answer, spoken.alone) if answer is not None and answer.ids]
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress.update(done, len(made) * len(answers))

    reported = replace(scores, done=report)
    found = {answer.ids: reported.changes(answer.ids, made) for answer in answers}
    nothing = max(float(abs(changes[len(rows) :]).max()) for changes in found.values())
    whole_answer = found.get(spoken.answer.ids, np.empty((len(made), 0)))[: len(rows)]
    own = found[(spoken.alone or spoken.answer).ids][: len(rows)]
    return own[:, spoken.said.first : spoken.said.end].sum(axis=1), whole_answer, nothing


def _effects(
    rows: Sequence[Ablated],
    sets: _Sets,
    ways: Sequence[Way],
    layers: Sequence[int],
    word: Floats64,
    changes: Floats64,
    spoken: Spoken,
) -> list[Effect]:
    others = spoken.other_words()
    found = []
    groups: tuple[Group, ...] = ("showing", "random", "near")
    for way in ways:
        for layer in layers:
            drawn = {
                group: [n for n, row in enumerate(rows) if (row.way, row.layer, row.group) == (way, layer, group)]
                for group in groups
            }
            for group, own in drawn.items():
                means = [np.mean([total(changes[n], said) for said in others]) for n in own] if others else []
                p_value = None
                if group == "showing" and own:
                    p_value = p_value_of(float(word[own].mean()), word[drawn["random"]].tolist())
                by_word = [
                    float(np.mean([total(changes[n], said) for n in own])) for said in spoken.answer.words if own
                ]
                found.append(
                    Effect(
                        way,
                        layer,
                        group,
                        len(sets.showing(layer)),
                        len(own),
                        spread_of(word[own]),
                        spread_of(means),
                        tuple(by_word),
                        p_value,
                    )
                )
    return found
