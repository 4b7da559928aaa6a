"""Encode planned contexts: their hidden states, each prefix computed once and without padding.

Sentences come sorted by their tokens, so neighbors share prefixes. Several of them are packed into a row: the nodes
of a prefix tree, one for each distinct prefix, with `position_ids` = depth and an attention mask with which a token
attends to its ancestors. Models that do not accept such a mask get plain padded batches instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from latentbank.bank.points import Payload, as_uuid, prefix_ids
from latentbank.errors import ModelError
from latentbank.ingest.plan import PlannedSentence
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.packing import ancestors
from latentbank.models.language.transfers import HostCopy, to_device
from latentbank.values import whole

ROW = 128
"""Nodes in a row. With more, attention costs more, and fewer prefixes are repeated in the next row."""
LOOK_AHEAD = 32
"""Sentences among which the next one for a row is chosen."""
BATCH = {"cpu": 1024, "cuda": 16_384}
"""Tokens in one forward pass by device type: enough to keep the device busy."""
AHEAD = {"cuda": 1}
"""Forward passes that are started before the one before them is finished, by device type. A GPU then computes while the
hidden states of the last one are copied and its payloads made; elsewhere nothing runs at the same time."""

T = TypeVar("T")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Encoded:
    """Contexts of one forward pass.

    Attributes:
        ids: id of each context.
        payloads: payload of each context.
        states: by layer, float32 `[contexts, hidden]`.
        computed: tokens that the LLM ran on.
    """

    ids: list[str]
    payloads: list[Payload]
    states: dict[int, npt.NDArray[np.float32]]
    computed: int

    @property
    def counted(self) -> int:
        """How many contexts there are."""
        return len(self.ids)

    def payloads_at(self, layer: int) -> list[Payload]:
        """Return the payload of each context, the same at all layers."""
        del layer
        return self.payloads


@dataclass
class Row:
    """A prefix tree that is being filled: one node for each distinct prefix, parents before children.

    Attributes:
        tokens: token id of each node.
        parents: parent of each node; -1: a root.
        depths: depth of each node, its position in the sentence.
        planned: the sentences, each with the nodes of its planned tokens.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    planned: list[tuple[PlannedSentence, list[int]]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token) -> node

    def new_nodes(self, sentence: PlannedSentence) -> int:
        """Return how many nodes a sentence would add."""
        node = -1
        for depth, token in enumerate(sentence.token_ids):
            child = self._children.get((node, token))
            if child is None:
                return len(sentence.token_ids) - depth
            node = child
        return 0

    def add(self, sentence: PlannedSentence) -> None:
        """Add a sentence's prefixes."""
        node, path = -1, []
        for depth, token in enumerate(sentence.token_ids):
            child = self._children.setdefault((node, token), len(self.tokens))
            if child == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(depth)
            node = child
            path.append(node)
        self.planned.append((sentence, [path[i] for i in sentence.positions]))

    def attention(self) -> npt.NDArray[np.bool_]:
        """Return which nodes each node attends to, its ancestors and itself: bool `[nodes, nodes]`."""
        return ancestors(self.parents)


def fill_rows(sentences: Iterable[PlannedSentence], size: int = ROW) -> Iterator[Row]:
    """Pack sentences into rows of at most `size` nodes; a longer sentence gets a row of its own.

    If a sentence does not fit, one of the next few that does is taken first, so that rows are full and the LLM computes
    little padding.
    """
    source = iter(sentences)
    waiting: list[PlannedSentence] = []
    row = Row()
    while True:
        waiting.extend(islice(source, LOOK_AHEAD - len(waiting)))
        room = size - len(row.tokens)
        fits = (i for i, sentence in enumerate(waiting) if not row.tokens or row.new_nodes(sentence) <= room)
        chosen = next(fits, None)
        if chosen is not None:
            row.add(waiting.pop(chosen))
        elif row.tokens:
            yield row
            row = Row()
        else:
            return


def encode(
    model: LanguageModel,
    corpus: str,
    sentences: Iterable[PlannedSentence],
    layers: Sequence[int],
    *,
    batch: int | None = None,
    packed: bool | None = None,
) -> Iterator[Encoded]:
    """Run the LLM on planned sentences and yield their contexts, one forward pass at a time.

    Args:
        model: the LLM.
        corpus: name of the corpus, part of every context's id.
        sentences: in the plan's order.
        layers: bank layers; the LLM stops after the deepest.
        batch: tokens in one forward pass; None: chosen by the device.
        packed: share prefixes (True) or pad (False); None: share them if the model can.

    Raises:
        ModelError: a hidden state is not finite, or zero; the message names layer, sentence and dtype.
    """
    default = BATCH.get(model.device.type, BATCH["cuda"])
    size = default if batch is None else whole(batch, "batch", 1)
    names = TokenNames(model)
    yield from ahead(
        _launched(model, sentences, layers, size, model.packs if packed is None else packed),
        AHEAD.get(model.device.type, 0),
        lambda started: _finish(model, corpus, started, names),
    )


def ahead(started: Iterable[T], most: int, finish: Callable[[T], Done]) -> Iterator[Done]:
    """Finish what was started, in its order, with at most `most` of them started and not finished."""
    waiting: deque[T] = deque()
    for item in started:
        waiting.append(item)
        if len(waiting) > most:
            yield finish(waiting.popleft())
    while waiting:
        yield finish(waiting.popleft())


@dataclass(frozen=True)
class _Started:
    """A forward pass that a GPU may still compute.

    Attributes:
        sentences: the planned sentences in it.
        states: by layer the hidden states of their planned tokens, on their way to the CPU.
        bad: by layer which of them cannot be stored, as 0 or 1.
        computed: tokens that the LLM runs on.
    """

    sentences: list[PlannedSentence]
    states: HostCopy
    bad: HostCopy
    computed: int


def _launched(
    model: LanguageModel,
    sentences: Iterable[PlannedSentence],
    layers: Sequence[int],
    size: int,
    packed: bool,
) -> Iterator[_Started]:
    if packed:
        for rows in _batches(fill_rows(sentences, min(ROW, size)), lambda row: len(row.tokens), size):
            yield _launch_rows(model, rows, layers)
    else:
        for group in _batches(sentences, lambda sentence: len(sentence.token_ids), size):
            yield _launch_padded(model, group, layers)


class TokenNames:
    """Texts of tokens by their id, as decoded, with their leading space; each is decoded once."""

    def __init__(self, model: LanguageModel) -> None:
        self._tokenizer = model.tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        name = self._known.get(token_id)
        if name is None:
            # Some decoders drop the space before the first token, so it shows at the second of two.
            once, twice = self._decode([token_id]), self._decode([token_id, token_id])
            name = twice.removeprefix(once) if len(twice) > 2 * len(once) else once
            self._known[token_id] = name
        return name

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))


def _batches(items: Iterable[T], length: Callable[[T], int], size: int) -> Iterator[list[T]]:
    """Group items so that each group, padded to its longest item, has at most `size` tokens, or only one item."""
    batch: list[T] = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if batch and longest * (len(batch) + 1) > size:
            yield batch
            batch, longest = [], length(item)
        batch.append(item)
    if batch:
        yield batch


def _launch_rows(model: LanguageModel, rows: list[Row], layers: Sequence[int]) -> _Started:
    width = max(len(row.tokens) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    depths = np.zeros((len(rows), width), dtype=np.int64)
    attention = np.zeros((len(rows), width, width), dtype=bool)
    attention[:, np.arange(width), np.arange(width)] = True  # padding attends to itself: softmax needs a key
    where_row: list[int] = []
    where_node: list[int] = []
    sentences: list[PlannedSentence] = []
    for i, row in enumerate(rows):
        n = len(row.tokens)
        ids[i, :n], depths[i, :n], attention[i, :n, :n] = row.tokens, row.depths, row.attention()
        for sentence, nodes in row.planned:
            sentences.append(sentence)
            where_row += [i] * len(nodes)
            where_node += nodes
    states = model.packed_hidden_states(
        torch.from_numpy(ids), torch.from_numpy(depths), torch.from_numpy(attention), layers
    )
    at = to_device(torch.tensor([where_row, where_node], dtype=torch.long), model.device)
    picked = {layer: state[at[0], at[1]] for layer, state in states.items()}
    return _start(sentences, picked, sum(len(row.tokens) for row in rows))


def _launch_padded(model: LanguageModel, sentences: list[PlannedSentence], layers: Sequence[int]) -> _Started:
    states = model.hidden_states([sentence.token_ids for sentence in sentences], layers)
    picked = {
        layer: torch.cat(
            [state[layer][sentence.positions] for state, sentence in zip(states, sentences, strict=True)]
        )
        for layer in layers
    }
    return _start(sentences, picked, sum(len(s.token_ids) for s in sentences))


def _start(sentences: list[PlannedSentence], picked: dict[int, torch.Tensor], computed: int) -> _Started:
    bad = HostCopy({layer: _unusable(state) for layer, state in picked.items()})
    return _Started(sentences, HostCopy(picked), bad, computed)


def _finish(model: LanguageModel, corpus: str, started: _Started, names: TokenNames) -> Encoded:
    contexts = [pair for sentence in started.sentences for pair in _contexts(corpus, sentence, names)]
    for layer, bad in started.bad.arrays().items():
        if bad.any():
            owners = [sentence for sentence in started.sentences for _ in sentence.positions]
            raise _unusable_error(model, layer, [owners[i] for i in bad.nonzero()[0].tolist()])
    return Encoded(
        [id_ for id_, _ in contexts],
        [payload for _, payload in contexts],
        started.states.arrays(),
        started.computed,
    )


def _unusable(states: torch.Tensor) -> torch.Tensor:
    """Return which hidden states of `[n, hidden]` cannot be stored, being not finite or zero: bool `[n]`."""
    largest = states.abs().amax(dim=-1)  # NaN if one is NaN; twenty times as fast as asking each number
    return ~(largest.isfinite() & (largest > 0))


def _unusable_error(model: LanguageModel, layer: int, suspects: list[PlannedSentence]) -> ModelError:
    """Return the error that names the sentence whose hidden states cannot be stored.

    In a row, values of one sentence that are not finite make those of the others NaN (zero attention times infinity),
    so each sentence is run alone.
    """
    for sentence in suspects:
        state = model.hidden_states([sentence.token_ids], [layer])[0][layer][sentence.positions]
        if _unusable(state).any():
            break
    what = "zero, without a direction," if state.isfinite().all() else "not finite"
    half = model.dtype == torch.float16
    return ModelError(
        f"{model.name} gives a hidden state that is {what} at layer {layer}, sentence {sentence.sentence} "
        f"('{sentence.caption[:60]}'), in {str(model.dtype).removeprefix('torch.')}; "
        + ("load the LLM in bfloat16 or float32." if half else "leave that layer or sentence out."),
        argument="dtype" if half else None,
    )


def _contexts(corpus: str, sentence: PlannedSentence, names: TokenNames) -> Iterator[tuple[str, Payload]]:
    ids = context_ids(corpus, sentence)
    spans = zip(ids, sentence.positions, sentence.starts, sentence.ends, sentence.words, strict=True)
    for id_, position, start, end, word in spans:
        token_id = sentence.token_ids[position]
        yield (
            id_,
            Payload(
                corpus=corpus,
                sentence=sentence.sentence,
                position=position,
                token_id=token_id,
                token=names[token_id],
                word=word,
                caption=sentence.caption,
                start=start,
                end=end,
            ),
        )


def context_ids(corpus: str, sentence: PlannedSentence) -> list[str]:
    """Return the ids of a sentence's planned contexts, in the order of `positions`."""
    keys = list(prefix_ids(corpus, sentence.token_ids))
    return [as_uuid(keys[position]) for position in sentence.positions]
