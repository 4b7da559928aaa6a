"""Writing contexts of a bank into visual tokens, or taking their direction out: does the model then say the word?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from latentbank.bank.vectors import ContextVector, context_vectors
from latentbank.bank.where import All, Filter, Where
from latentbank.errors import QueryError
from latentbank.models.language.intervening import Intervention
from latentbank.models.vision.prompted import prompted
from latentbank.models.vision.sources import Source as ImageGiven
from latentbank.models.vision.sources import opened
from latentbank.models.visual import unembedding_of
from latentbank.progress import Progress, Silent
from latentbank.query.causes.answers import answer_of
from latentbank.query.causes.cause import Spoken, check_layers, speak
from latentbank.query.causes.results import Spread, spread_of
from latentbank.query.causes.scores import Scores
from latentbank.query.evaluation.scoring import names
from latentbank.text import check_text, public_name
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from latentbank.bank.bank import Bank
    from latentbank.bank.points import Neighbor
    from latentbank.models.vision.prompted import Prompted
    from latentbank.models.vision.tokens import VisualModel

Act = Literal["write", "remove"]
"""What is done: "write" puts a context's direction in a token's place, as long as the token's hidden state; "remove"
takes the direction out of the token's hidden states from that layer on."""
Kind = Literal["word", "random"]
"""Whose contexts: those of the word, or any others."""


@dataclass(frozen=True)
class Written:
    """What writing contexts, or removing their directions, changed at one layer.

    Attributes:
        layer: the visual layer.
        bank_layer: the bank layer of the contexts.
        kind: whose contexts.
        contexts: the captions of the contexts, one for each draw.
        answers: what the model then writes.
        said: the share of these answers that say the word.
        word: the change of the word's log-probability, in nats.
    """

    layer: int
    bank_layer: int
    kind: Kind
    contexts: tuple[str, ...]
    answers: tuple[str, ...]
    said: float
    word: Spread


@dataclass(frozen=True)
class Writings:
    """What writing contexts of a word into visual tokens changes in what a model says, beside any other contexts.

    Attributes:
        source: the image's name.
        model: the VLM's name.
        bank: the bank's name.
        word: the word.
        act: what was done.
        tokens: the numbers of the visual tokens.
        answer: what the model writes without a change.
        said: the word as that answer says it; "": it does not, so the word was scored as the next one after the prompt.
        log_probability: of the word without any change, in nats.
        written: what changed, by layer and kind.
    """

    source: str
    model: str
    bank: str
    word: str
    act: Act
    tokens: tuple[int, ...]
    answer: str
    said: str
    log_probability: float
    written: tuple[Written, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data (docs/json.md describes it)."""
        return asdict(self)


def write(
    model: VisualModel,
    image: ImageGiven,
    word: str,
    bank: Bank,
    layers: Layers,
    tokens: Sequence[int],
    *,
    act: Act = "write",
    bank_layer: int | None = None,
    draws: int = 8,
    answer: int = 32,
    prompt: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Writings:
    """Write contexts of a word into visual tokens, or remove their directions; then let the model write its answer.

    Args:
        model: the VLM, loaded whole.
        image: a path, a file's bytes, an open image, or pixels.
        word: a word that the bank has contexts of.
        bank: a bank of the VLM's own LLM, of plain cosine.
        layers: the visual layers.
        tokens: the numbers of the visual tokens.
        act: what is done.
        bank_layer: the bank layer of the contexts; None: the visual layer, or the bank's nearest one.
        draws: number of contexts of each kind.
        answer: the largest number of tokens of an answer.
        prompt: the text beside the image; None: the model's own.
        seed: seed of the random contexts.
        progress: receives the number of layers done.

    Raises:
        QueryError: the bank has no context of the word, or is centred, or there is no such token.
        LayerNotFound: the model or the bank does not have a layer.
        ModelError: only part of the model is loaded.
    """
    check_text(word, "word")
    if act not in get_args(Act):
        raise QueryError(f"act is {act!r}; it can be 'write' or 'remove'.")
    draws, chosen = whole(draws, "draws", 1), layers_of(layers)
    check_layers(model, chosen)
    bank.require_model(model.name, model.language.identity())
    progress = progress or Silent()
    ((name, picture),) = opened([image], None)
    told = prompted(model, picture, [0], prompt)
    positions = positions_of(told, tokens)
    scores = Scores(told, unembedding_of(model), 2 * draws)
    spoken = speak(scores, word, answer)
    written: list[Written] = []
    for done, layer in enumerate(chosen):
        progress.update(done, len(chosen))
        at = bank_layer if bank_layer is not None else nearest_layer(bank, layer)
        contexts: Mapping[Kind, list[ContextVector]] = {
            "word": contexts_of(bank, at, word, draws),
            "random": context_vectors(
                bank, at, limit=draws, wanted=lambda found: not names(found.word, word), start=seed
            ),
        }
        written += _layer(scores, spoken, word, layer, positions, contexts, act, answer)
    return Writings(
        source=name,
        model=public_name(model.name),
        bank=bank.name,
        word=word,
        act=act,
        tokens=tuple(tokens),
        answer=spoken.answer.text.strip(),
        said=spoken.said.text if spoken.in_answer else "",
        log_probability=spoken.log_probability,
        written=tuple(written),
    )


def _layer(
    scores: Scores,
    spoken: Spoken,
    word: str,
    layer: int,
    positions: tuple[int, ...],
    contexts: Mapping[Kind, Sequence[ContextVector]],
    act: Act,
    most: int,
) -> list[Written]:
    """Write or remove the contexts of each kind at one layer."""
    rows = [
        writing(positions, layer, context.vector, act) for found in contexts.values() for context in found
    ]
    changes = scores.changes((spoken.alone or spoken.answer).ids, rows)
    own = changes[:, spoken.said.first : spoken.said.end].sum(axis=1)
    tokenizer = scores.prompted.language.tokenizer
    answers = [answer_of(ids, tokenizer) for ids in scores.prompted.write(most, rows)]
    found, start = [], 0
    for kind, given in contexts.items():
        part = slice(start, start + len(given))
        start += len(given)
        spread = spread_of(own[part])
        assert spread is not None
        found.append(
            Written(
                layer,
                given[0].context.bank_layer,
                kind,
                tuple(one.context.marked() for one in given),
                tuple(answer.text.strip() for answer in answers[part]),
                sum(answer.find(word) is not None for answer in answers[part]) / len(given),
                spread,
            )
        )
    return found


def positions_of(told: Prompted, tokens: Sequence[int]) -> tuple[int, ...]:
    """Return the places in the sequence of visual tokens by number.

    Raises:
        QueryError: there is no token of such a number, or none is given.
    """
    places = told.tokens.positions
    assert places is not None
    for number in tokens:
        if not 0 <= number < len(places):
            raise QueryError(
                f"There is no visual token {number}; they have the numbers 0 to {len(places) - 1}.",
                argument="tokens",
            )
    if not tokens:
        raise QueryError("Name the visual tokens by number.", argument="tokens")
    return tuple(places[list(tokens)].tolist())


def nearest_layer(bank: Bank, layer: int) -> int:
    """Return the bank layer that is nearest to a visual layer."""
    return min(bank.layers, key=lambda own: (abs(own - layer), own))


def contexts_of(bank: Bank, layer: int, word: str, limit: int) -> list[ContextVector]:
    """Return contexts of a word, each of the word's last token: the others do not know the whole word yet.

    Raises:
        QueryError: the bank has none.
    """
    last = word.split()[-1] if word.split() else word
    where: Filter = Where(word=(last, last.lower(), last.capitalize()))
    if last != word.strip():
        where = All((where, Where(caption_contains=word)))

    def ends(found: Neighbor) -> bool:
        following = found.caption[found.end : found.end + 1]
        return not following.isalnum()

    contexts = context_vectors(bank, layer, where, limit, wanted=ends)
    if not contexts:
        raise QueryError(
            f"The bank '{bank.name}' has no context of '{word}'; choose a word that its corpora hold."
        )
    return contexts


def writing(
    positions: tuple[int, ...], layer: int, direction: npt.NDArray[np.float32], act: Act = "write"
) -> Intervention:
    """Return the intervention that writes a direction into tokens at a layer, or removes it from that layer on.

    Args:
        positions: the tokens' places in the sequence.
        layer: the visual layer.
        direction: `[hidden]`, of length 1.
        act: what is done.
    """
    unit = torch.from_numpy(direction)

    def put(_layer: int, old: Tensor) -> Tensor:
        written: Tensor = unit.to(old) * old.float().norm(dim=-1, keepdim=True).to(old)
        return written

    def take(_layer: int, old: Tensor) -> Tensor:
        own = unit.to(old)
        return old - (old @ own)[:, None] * own

    if act == "write":
        return Intervention(positions, layer, layer, put)
    return Intervention(positions, layer, None, take)
