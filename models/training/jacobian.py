"""Computing a Jacobian lens: how the last block's output changes with a layer's hidden state, on average over text.

The estimator is that of Gurnee et al. 2026 ("Verbalizable Representations Form a Global Workspace in Language Models"):
J = the mean over sentences of the mean over positions p of the sum over positions q >= p of d h_last[q] / d h_layer[p].
A backward pass gives one row of J for a sentence, at all layers. Each sentence gets a few rows, drawn so that all rows
are drawn equally often: every row is a mean over a random part of the sentences, which is unbiased.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentbank.models.language.collecting import collecting
from latentbank.models.language.layout import find_blocks
from latentbank.models.language.translators import Translators, card_of
from latentbank.models.training.checkpoint import Checkpoint
from latentbank.models.training.texts import Ids, batches, counted_tokens, ids_of
from latentbank.models.training.tuned import chosen_layers
from latentbank.models.vision.answers import check_whole
from latentbank.progress import Progress, Silent
from latentbank.values import Layers, whole

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel


@dataclass(frozen=True)
class JacobianSettings:
    """How a Jacobian lens is computed.

    Attributes:
        rows: rows of the Jacobian that are computed of each sentence; with the width of a hidden state, all: then it is
            exact.
        tokens: tokens of one forward pass, padding included.
        seed: of the rows and the order of the sentences.
    """

    rows: int = 8
    tokens: int = 256
    seed: int = 0


def compute_jacobian(
    language: LanguageModel,
    sentences: Sequence[str],
    layers: Layers | None = None,
    settings: JacobianSettings | None = None,
    *,
    corpus: str = "",
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Translators:
    """Compute a Jacobian lens on sentences.

    Args:
        language: the LLM, loaded whole.
        sentences: text.
        layers: the layers that get a matrix; None: all but the last, which needs none.
        settings: how it is computed.
        corpus: the corpus's name, for the card.
        checkpoint: where the sums of all sentences so far are kept: a killed run, called again in the same way,
            continues from there. None: nowhere.
        progress: receives the number of sentences done.

    Raises:
        CorpusError: there are too few sentences.
        ModelError: only part of the LLM is loaded.
        QueryError: fewer than one row of each sentence is asked for.
    """
    check_whole(language)
    settings, shown = settings or JacobianSettings(), progress or Silent()
    width = language.hidden_size
    chosen = chosen_layers(language, layers)
    every = ids_of(language, sentences)
    each = min(whole(settings.rows, "rows", 1), width)
    deck = _Deck(width, each, settings.seed)
    sums = {layer: torch.zeros(width, width, device=language.device) for layer in chosen}
    counts = torch.zeros(width, device=language.device)
    known = 0
    if checkpoint is not None:
        known, kept = checkpoint.begin(language, every, chosen, {"kind": "jacobian", **asdict(settings)})
        if kept:
            counts, sums = kept["counts"], {layer: kept[f"sum.{layer}"] for layer in chosen}

    def state() -> dict[str, Tensor]:
        return {"counts": counts, **{f"sum.{layer}": total for layer, total in sums.items()}}

    done = 0
    for step, group in enumerate(batches(every, settings.tokens, settings.seed), 1):
        drawn = torch.tensor([deck.draw() for _ in group], device=language.device)  # [sentences, rows]
        done += len(group)
        if step <= known:
            continue
        for number, gradients in enumerate(_gradients(language, group, chosen, drawn)):
            counts.index_add_(0, drawn[:, number], torch.ones(len(group), device=language.device))
            for layer, rows in gradients.items():
                sums[layer].index_add_(0, drawn[:, number], rows)
        if checkpoint is not None:
            checkpoint.save(step, state)
        shown.update(done, len(every))
    seen = counts.clamp(min=1)[:, None]
    card = card_of(
        language,
        corpus=corpus,
        sentences=len(every),
        sentences_of_a_row=float(counts.min()),
        settings=asdict(settings),
    )
    return Translators("jacobian", {layer: (total / seen).cpu() for layer, total in sums.items()}, {}, card)


class _Deck:
    """Rows in random order, all of them equally often; those of one draw differ."""

    def __init__(self, width: int, each: int, seed: int) -> None:
        self._width, self._each = width, each
        self._random = random.Random(seed)
        self._rest: list[int] = []

    def draw(self) -> list[int]:
        """Return the rows of one sentence."""
        drawn: list[int] = []
        while len(drawn) < self._each:
            if not self._rest:
                self._rest = self._random.sample(range(self._width), self._width)
            place = next((at for at, row in enumerate(self._rest) if row not in drawn), None)
            if place is None:  # cannot be: a full deck has more rows than a draw
                raise AssertionError("a full deck has every row")
            drawn.append(self._rest.pop(place))
        return drawn


def _gradients(language: LanguageModel, group: Sequence[Ids], layers: Sequence[int], drawn: Tensor) -> Any:
    """Yield for each column of `drawn` [sentences, rows] the sentences' own rows of the Jacobians, by layer.

    A row is [sentences, hidden]: the mean over the counted positions of the gradient of the sum of one dimension of the
    last block's output over these positions.
    """
    counted = counted_tokens(language, group).to(language.device)
    share = counted / counted.sum(1, keepdim=True)
    states = _with_graph(language, group, layers)
    last = states[language.num_layers]
    inputs = [states[layer] for layer in layers]
    for number in range(drawn.shape[1]):
        along = torch.zeros_like(last)
        along.scatter_(
            2,
            drawn[:, number, None, None].expand(-1, last.shape[1], 1),
            counted[:, :, None].to(last.dtype),
        )
        final = number == drawn.shape[1] - 1
        found = torch.autograd.grad(last, inputs, along, retain_graph=not final)
        yield {
            layer: torch.einsum("spd,sp->sd", gradient.float(), share)
            for layer, gradient in zip(layers, found, strict=True)
        }


def _with_graph(language: LanguageModel, group: Sequence[Ids], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the hidden states of padded sentences by layer, the last one's too, with the graph between them."""
    longest = max(map(len, group))
    ids = torch.zeros(len(group), longest, dtype=torch.long)
    for row, sentence in enumerate(group):
        ids[row, : len(sentence)] = torch.tensor(sentence)
    blocks = find_blocks(language.decoder)

    def leaf(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    with language.lock, torch.enable_grad():
        handle = blocks[layers[0]].register_forward_pre_hook(leaf, with_kwargs=True)
        try:
            with collecting(blocks, [*layers, language.num_layers]) as states:
                # Padding on the right needs no mask: no token attends to later ones.
                language.decoder(input_ids=ids.to(language.device), use_cache=False)
        finally:
            handle.remove()
    return states
