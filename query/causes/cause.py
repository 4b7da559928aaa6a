"""Ablating the visual tokens that a lens says show a word, beside as many others: what changes in the model's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from latentbank.errors import LayerNotFound, QueryError
from latentbank.models.language.intervening import NOTHING
from latentbank.models.vision.prompted import Prompted, prompted
from latentbank.models.vision.sources import Source as ImageGiven
from latentbank.models.vision.sources import opened
from latentbank.models.visual import unembedding_of
from latentbank.progress import Progress, Silent
from latentbank.query.causes.ablating import Source, Way, ablation, source_of, ways_of
from latentbank.query.causes.answers import Answer, Said, answer_of
from latentbank.query.causes.results import AnswerWord, Causes, Effect, Group, p_value_of, spread_of
from latentbank.query.causes.scores import Floats64, Scores
from latentbank.query.causes.sets import best_scores, near_sets, random_sets, showing
from latentbank.query.lenses.centring import QueryMean
from latentbank.query.reading.around import VISUAL_ALONE
from latentbank.query.reading.assembly import Choices
from latentbank.query.reading.visual import checked, python_warning
from latentbank.query.reading.visual_tokens import check_states
from latentbank.text import check_text, listed, public_name
from latentbank.values import Layers, whole

if TYPE_CHECKING:
    from latentbank.bank.points import Neighbor
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.lenses.base import Lens


@dataclass(frozen=True)
class Ablated:
    """One draw: the tokens of a group, ablated in one way from one layer on."""

    way: Way
    layer: int
    group: Group
    draw: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CauseOptions:
    """How visual tokens are ablated, and what is compared.

    Attributes:
        by: ways of ablating: "mean", "image", "attention" (`ablating.Way`).
        others: other images, whose tokens take the place of ablated ones. "image" needs them, "mean" without them takes
            the mean of the image's other tokens.
        tokens: numbers of the visual tokens to ablate, instead of those that show the word; None: those.
        top_k: neighbors of a token that are looked at.
        draws: how often random tokens, and tokens as near, are drawn.
        answer: the largest number of tokens of the model's answer.
        prompt: the text beside the image; None: the model's own.
        query_mean: for a centred bank, as for `read_images`.
        batch: copies of the sequence in one forward pass.
        seed: seed of the draws.
    """

    by: Sequence[str] = ("mean",)
    others: Sequence[ImageGiven] = ()
    tokens: Sequence[int] | None = None
    top_k: int = 5
    draws: int = 8
    answer: int = 32
    prompt: str | None = None
    query_mean: QueryMean | None = None
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers; raises QueryError if one is below 1."""
        for name in ("top_k", "draws", "answer", "batch"):
            object.__setattr__(self, name, whole(getattr(self, name), name, 1))

    def ways(self) -> list[Way]:
        """Return the ways of ablating.

        Raises:
            QueryError: there is no way of a name, or "image" has no other images.
        """
        ways = ways_of(self.by)
        if "image" in ways and not self.others:
            raise QueryError(
                "Name other images, whose tokens take the place of this one's.", argument="others"
            )
        return ways


def cause(
    model: VisualModel,
    image: ImageGiven,
    word: str,
    lens: Lens,
    layers: Layers,
    options: CauseOptions | None = None,
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
        lens: says which tokens show the word: those one of whose first neighbors names it.
        layers: the layers at which the lens reads the tokens, and from which on they are ablated.
        options: how; None: by the mean of the image's other tokens.
        progress: receives the number of rows that were run.

    Raises:
        QueryError: no token shows the word, or options do not go together.
        LayerNotFound: the model does not have a layer, or no block reads it.
        ModelError: only part of the model is loaded, or its attention cannot be cut.
        ImageError: an image cannot be read, or another one gives another number of tokens.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.causes.cause import CauseOptions, cause
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> how = CauseOptions(by=["mean", "attention"])
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     found = cause(vlm, "cat.jpg", "cat", lb.LatentLens(bank), [0, 8], how)
        >>> change = found.effect("mean", 8, "showing").word
    """
    options, progress = options or CauseOptions(), progress or Silent()
    check_text(word, "word")
    ways = options.ways()
    chosen, query_mean = checked(model, [lens], layers, options.query_mean, VISUAL_ALONE)
    check_layers(model, chosen)
    ((name, picture),) = opened([image], None)
    others = [pixels for _, pixels in opened(options.others, None)]
    told = prompted(model, picture, range(min(chosen), model.num_layers), options.prompt)
    check_states(told.tokens, name, model)
    choices = Choices([lens], options.top_k, options.prompt, query_mean, python_warning)
    neighbors = _read(choices, told, chosen, progress)
    sets = _Sets(neighbors, word, options)
    rows = [row for way in ways for layer in chosen for row in sets.rows(way, layer)]
    if not rows:
        raise QueryError(
            f"No visual token has '{word}' among its first {options.top_k} neighbors at layers {listed(chosen)}; "
            "choose another word, other layers, or the tokens themselves."
        )
    source = source_of(model, told, others, options.prompt)
    scores = Scores(told, unembedding_of(model), options.batch)
    spoken = speak(scores, word, options.answer)
    progress.stage("ablating", "rows")
    ran = run(scores, spoken, rows, source, progress)
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
        effects=tuple(_effects(rows, ran, spoken, {layer: len(sets.showing(layer)) for layer in chosen})),
        nothing=ran.nothing,
        others=len(others),
    )


def _read(
    choices: Choices, told: Prompted, layers: Sequence[int], progress: Progress
) -> dict[int, list[list[Neighbor]]]:
    """Return the neighbors of each visual token at each layer."""
    progress.stage("reading", "layers")
    found = {}
    for done, layer in enumerate(layers):
        progress.update(done, len(layers))
        (answers,) = choices.answers(choices.lenses[0], [layer], [told.tokens], "visual")
        found[layer] = [list(neighbors) for neighbors, _ in answers]
    return found


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
        return [
            said for said in self.answer.words if said.end <= self.said.first or said.first >= self.said.end
        ]


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
    for spelled in (
        word,
        f" {word}",
    ):  # as it begins a line, or after a space: whichever the model finds likelier
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
    options: CauseOptions

    def showing(self, layer: int) -> list[int]:
        """Return the tokens that show the word at a layer, or those that were given.

        Raises:
            QueryError: there is no token of such a number.
        """
        count = len(self.neighbors[layer])
        if self.options.tokens is None:
            return showing(self.neighbors[layer], self.word)
        for number in self.options.tokens:
            if not 0 <= number < count:
                raise QueryError(
                    f"There is no visual token {number}; they have the numbers 0 to {count - 1}.",
                    argument="tokens",
                )
        return sorted(set(self.options.tokens))

    def rows(self, way: Way, layer: int) -> list[Ablated]:
        """Return the draws of all groups; none if no token shows the word. They are the same for each way."""
        own, draws = self.showing(layer), self.options.draws
        if not own:
            return []
        found = self.neighbors[layer]
        chance = np.random.default_rng([self.options.seed, layer])
        rest = sorted(set(range(len(found))) - set(own) - set(showing(found, self.word)))
        times = min(draws, len(self.options.others)) if way == "image" else 1
        drawn: list[tuple[Group, list[list[int]]]] = [
            ("showing", [own] * times),
            ("random", random_sets(len(own), rest, draws, chance)),
            ("near", near_sets(own, rest, best_scores(found), draws, chance)),
        ]
        return [
            Ablated(way, layer, group, draw, tuple(tokens))
            for group, sets in drawn
            for draw, tokens in enumerate(sets)
        ]


@dataclass(frozen=True, eq=False)
class Ran:
    """What ablations changed, in nats.

    Attributes:
        word: the change of the word's log-probability, `[rows]`.
        answer: those of the answer's tokens, `[rows, answer]`.
        nothing: the largest change that an ablation of nothing made.
    """

    word: Floats64
    answer: Floats64
    nothing: float


def run(scores: Scores, spoken: Spoken, rows: Sequence[Ablated], source: Source, progress: Progress) -> Ran:
    """Run all draws, and an ablation of nothing in each of their ways."""
    told = scores.prompted
    made = [ablation(row.way, told, row.tokens, row.layer, source, row.draw) for row in rows]
    made += [ablation(way, told, (), 0, source) for way in dict.fromkeys(row.way for row in rows)]
    answers = [answer for answer in (spoken.answer, spoken.alone) if answer is not None and answer.ids]
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress.update(done, len(made) * len(answers))

    reported = replace(scores, done=report)
    found = {answer.ids: reported.changes(answer.ids, made) for answer in answers}
    nothing = max(float(abs(changes[len(rows) :]).max()) for changes in found.values())
    own = found[(spoken.alone or spoken.answer).ids][: len(rows)]
    answer = found.get(spoken.answer.ids, np.empty((len(made), 0)))[: len(rows)]
    return Ran(own[:, spoken.said.first : spoken.said.end].sum(axis=1), answer, nothing)


def _effects(
    rows: Sequence[Ablated], ran: Ran, spoken: Spoken, counts: Mapping[int, int]
) -> Iterator[Effect]:
    """Yield what each group of tokens changed; `counts` are the numbers of tokens by layer."""
    groups: tuple[Group, ...] = get_args(Group)
    others = spoken.other_words()
    for way in dict.fromkeys(row.way for row in rows):
        for layer, count in counts.items():
            drawn = {
                group: [
                    n for n, row in enumerate(rows) if (row.way, row.layer, row.group) == (way, layer, group)
                ]
                for group in groups
            }
            for group, own in drawn.items():
                each = [[total(ran.answer[n], said) for n in own] for said in spoken.answer.words]
                apart = [[total(ran.answer[n], said) for n in own] for said in others]
                p_value = None
                if group == "showing" and own:
                    p_value = p_value_of(float(ran.word[own].mean()), ran.word[drawn["random"]].tolist())
                yield Effect(
                    way,
                    layer,
                    group,
                    count,
                    len(own),
                    spread_of(ran.word[own]),
                    spread_of(np.mean(apart, axis=0) if apart else []),
                    tuple(float(np.mean(changes)) for changes in each if own),
                    p_value,
                )
