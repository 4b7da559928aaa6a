"""A vector for each noun: what one visual token must be for the LLM to write that noun in a caption.

The vectors are trained with the loss of every projector here, the cross-entropy of the caption's tokens after one
visual token and a newline, but on their own, without encoder and projector. That takes a few thousand short sequences,
where a projector has to see each noun in many images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from latentbank.models.composite.captions import caption_loss
from latentbank.models.composite.layout import Frame, caption_ids, layout_of
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress

_RIDGE = 10.0  # in mean squares of the centred embeddings
_BATCH = 48
_NOISE = (
    0.3  # deviation of the noise on a vector in training, in deviations of the vectors that it starts among
)


def first_vectors(language: LanguageModel, nouns: Sequence[str], things: Mapping[str, Tensor]) -> Tensor:
    """Return what the vectors of nouns start from, float32 `[nouns, hidden]`.

    A ridge regression from embeddings of things' names to the visual tokens that a projector gives for these things
    says what it would give for other nouns. That explains little (about 0.1 of the variance of things left out), but
    puts the vectors where visual tokens lie.

    Args:
        language: has the embeddings.
        nouns: to start for.
        things: the mean visual token of each thing by its name, `[hidden]`.
    """

    def embedded(name: str) -> Tensor:
        return language.embedding[torch.tensor(caption_ids(language.tokenizer, f" {name}"))].float().mean(0)

    names = sorted(things)
    inputs, outputs = (
        torch.stack([embedded(name) for name in names]),
        torch.stack([things[name] for name in names]),
    )
    middle, mean = inputs.mean(0), outputs.mean(0)
    kernel = (inputs - middle) @ (inputs - middle).T
    ridge = _RIDGE * kernel.diag().mean() * torch.eye(len(kernel))
    weights = torch.linalg.solve(kernel + ridge, outputs - mean)
    return torch.stack([mean + ((embedded(noun) - middle) @ (inputs - middle).T) @ weights for noun in nouns])


def noun_vectors(
    language: LanguageModel,
    captions: Sequence[str],
    first: Tensor,
    *,
    passes: int,
    rate: float,
    seed: int = 0,
    progress: Progress,
) -> Tensor:
    """Return the vector of each caption, float32 `[captions, hidden]`.

    Args:
        language: the LLM, with all its layers.
        captions: one for each noun, such as "a cat".
        first: what the vectors start from, `[captions, hidden]`.
        passes: how often each caption is trained on.
        rate: the highest learning rate, in deviations of `first`.
        seed: of the order and the noise.
        progress: gets the number of steps.
    """
    layout = layout_of(language.tokenizer)
    frame, head = Frame(language, layout), caption_loss(language)
    start, places = layout.ids(1)
    targets = [[*caption_ids(language.tokenizer, caption), layout.end] for caption in captions]
    scale = float(first.std())
    vectors = first.clone().float()
    moments, squares = torch.zeros_like(vectors), torch.zeros_like(vectors)
    order = np.random.default_rng(seed)
    chance = torch.Generator().manual_seed(seed)
    size = -(-len(captions) // _BATCH)
    for step in range(passes * size):
        if step % size == 0:
            shuffled = order.permutation(len(captions))
            turn = step // size + 1
        rows = shuffled[step % size * _BATCH : (step % size + 1) * _BATCH]
        own = vectors[rows].requires_grad_(True)
        noisy = own + _NOISE * scale * torch.randn(own.shape, generator=chance)
        longest = max(len(targets[row]) for row in rows)
        ids = torch.full((len(rows), len(start) + longest - 1), layout.end)
        predicting, wanted = [], []
        for place, row in enumerate(rows):
            ids[place, : len(start) + len(targets[row]) - 1] = torch.tensor([*start, *targets[row][:-1]])
            predicting += [(place, len(start) - 1 + at) for at in range(len(targets[row]))]
            wanted += targets[row]
        inputs = frame.embed(ids)
        inputs = inputs.index_put(
            (torch.arange(len(rows)), torch.full((len(rows),), places[0])), frame.entering(noisy)
        )
        states = language.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
        at = torch.tensor(predicting)
        loss = head(states[at[:, 0], at[:, 1]], torch.tensor(wanted))
        (gradient,) = torch.autograd.grad(loss, own)
        # Adam, a row each: only the vectors of this step move.
        moments[rows] = 0.8 * moments[rows] + 0.2 * gradient
        squares[rows] = 0.95 * squares[rows] + 0.05 * gradient**2
        move = moments[rows] / (1 - 0.8**turn) / ((squares[rows] / (1 - 0.95**turn)).sqrt() + 1e-8)
        falling = 1 - 0.9 * step / (passes * size)
        vectors[rows] -= rate * scale * falling * move
        progress.update(step + 1, passes * size)
    return vectors
