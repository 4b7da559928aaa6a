"""The encoder: hidden states of planned contexts, each prefix computed once and no padding between them.

Sentences come sorted by their tokens, so neighbors share prefixes. Several of them make a row: the nodes
of a prefix tree, one for each distinct prefix, with `position_ids` = depth and an attention mask in which
a token sees its ancestors. Models that cannot take such a mask get plain padded batches instead.
"""

from __future__ import annotations

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

# Nodes in a row: attention costs grow with it, repeated prefixes at row ends shrink.
ROW = 128
# Sentences among which the next one for a row is looked for.
LOOK_AHEAD = 32
# Tokens in one forward pass, by device type: enough to keep the device busy.
BATCH = {"cpu": 1024, "cuda": 16_384}


T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """Contexts of one forward pass: `states` maps each layer to float32 `[contexts, hidden]`.

    `computed` is how many tokens the LLM ran on for them.
    """

    ids: list[str]
    payloads: list[Payload]
    states: dict[int, npt.NDArray[np.float32]]
    computed: int


@dataclass
class Row:
    """A prefix tree being filled: one node a distinct prefix, parents before children.

    `planned` holds the sentences with the nodes of their planned tokens.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # -1: a root
    depths: list[int] = field(default_factory=list)
    planned: list[tuple[PlannedSentence, list[int]]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token) -> node

    def new_nodes(self, sentence: PlannedSentence) -> int:
        """Count the nodes that a sentence would add."""
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

    def sees(self) -> npt.NDArray[np.bool_]:
        """Tell for each node which nodes are its ancestors or itself: bool `[nodes, nodes]`."""
        return ancestors(self.parents)


def fill_rows(sentences: Iterable[PlannedSentence], size: int = ROW) -> Iterator[Row]:
    """Pack sentences into rows of at most `size` nodes; a longer sentence gets a row of its own.

    A sentence that does not fit lets one of the next few, which does, go first: rows that are full to
    the last node leave nothing for the LLM to compute in vain.
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
    """Run the LLM on planned sentences and give their contexts, one forward pass at a time.

    Args:
        model: the LLM.
        corpus: name of the corpus, part of every context's id.
        sentences: in the plan's order.
        layers: bank layers; the LLM stops after the deepest.
        batch: tokens in one forward pass; chosen by the device when None.
        packed: share prefixes (True), pad (False), or what the model can do (None).

    Raises:
        ModelError: a hidden state is not finite, or zero; the message names layer, sentence and dtype.
    """
    size = batch or BATCH.get(model.device.type, BATCH["cuda"])
    names = TokenNames(model)
    if model.packs if packed is None else packed:
        for rows in _batches(fill_rows(sentences, min(ROW, size)), lambda row: len(row.tokens), size):
            yield _encode_rows(model, corpus, rows, layers, names)
    else:
        for group in _batches(sentences, lambda sentence: len(sentence.token_ids), size):
            yield _encode_padded(model, corpus, group, layers, names)


class TokenNames:
    """Tokens as decoded, with their leading space, each looked up once."""

    def __init__(self, model: LanguageModel) -> None:
        self._tokenizer = model.tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        name = self._known.get(token_id)
        if name is None:
            # Some decoders drop the space before the first token, so the second of two tells.
            once, twice = self._decode([token_id]), self._decode([token_id, token_id])
            name = twice.removeprefix(once) if len(twice) > 2 * len(once) else once
            self._known[token_id] = name
        return name

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))


def _batches(items: Iterable[T], length: Callable[[T], int], size: int) -> Iterator[list[T]]:
    """Group items that fit, padded to the longest of them, into `size` tokens; at least one item each."""
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


def _encode_rows(
    model: LanguageModel, corpus: str, rows: list[Row], layers: Sequence[int], names: TokenNames
) -> Encoded:
    width = max(len(row.tokens) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    depths = np.zeros((len(rows), width), dtype=np.int64)
    sees = np.zeros((len(rows), width, width), dtype=bool)
    sees[:, np.arange(width), np.arange(width)] = True  # a filler sees itself: softmax needs one key
    where_row: list[int] = []
    where_node: list[int] = []
    sentences: list[PlannedSentence] = []
    for i, row in enumerate(rows):
        n = len(row.tokens)
        ids[i, :n], depths[i, :n], sees[i, :n, :n] = row.tokens, row.depths, row.sees()
        for sentence, nodes in row.planned:
            sentences.append(sentence)
            where_row += [i] * len(nodes)
            where_node += nodes
    states = model.packed_hidden_states(
        torch.from_numpy(ids), torch.from_numpy(depths), torch.from_numpy(sees), layers
    )
    picked = {
        layer: state[
            torch.tensor(where_row, device=state.device), torch.tensor(where_node, device=state.device)
        ]
        for layer, state in states.items()
    }
    return _finish(model, corpus, sentences, picked, sum(len(row.tokens) for row in rows), names)


def _encode_padded(
    model: LanguageModel,
    corpus: str,
    sentences: list[PlannedSentence],
    layers: Sequence[int],
    names: TokenNames,
) -> Encoded:
    states = model.hidden_states([sentence.token_ids for sentence in sentences], layers)
    picked = {
        layer: torch.cat(
            [state[layer][sentence.positions] for state, sentence in zip(states, sentences, strict=True)]
        )
        for layer in layers
    }
    return _finish(model, corpus, sentences, picked, sum(len(s.token_ids) for s in sentences), names)


def _finish(
    model: LanguageModel,
    corpus: str,
    sentences: list[PlannedSentence],
    picked: dict[int, torch.Tensor],
    computed: int,
    names: TokenNames,
) -> Encoded:
    owners = [sentence for sentence in sentences for _ in sentence.positions]
    states = {}
    for layer, state in picked.items():
        bad = _unusable(state)
        if bad.any():
            raise _refusal(model, layer, [owners[i] for i in bad.nonzero().flatten().tolist()])
        states[layer] = state.float().cpu().numpy()
    contexts = [pair for sentence in sentences for pair in _contexts(corpus, sentence, names)]
    return Encoded([id_ for id_, _ in contexts], [payload for _, payload in contexts], states, computed)


def _unusable(states: torch.Tensor) -> torch.Tensor:
    """Tell for each hidden state of `[n, hidden]` whether it has no direction: not finite, or zero."""
    return ~states.isfinite().all(dim=-1) | (states == 0).all(dim=-1)


def _refusal(model: LanguageModel, layer: int, suspects: list[PlannedSentence]) -> ModelError:
    """Say which sentence gives hidden states that cannot be stored.

    In a row, what is not finite in one sentence spoils the others (zero attention times infinity is not
    a number), so each is run alone.
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
        + ("run with --dtype bfloat16 or float32." if half else "leave that layer or sentence out.")
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
    """Give the ids of a sentence's planned contexts, in the order of `positions`."""
    keys = list(prefix_ids(corpus, sentence.token_ids))
    return [as_uuid(keys[position]) for position in sentence.positions]
