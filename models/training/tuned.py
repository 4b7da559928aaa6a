"""Training a tuned lens: for each layer an affine map after which the LLM's own unembedding gives its own answer.

The loss is the Kullback-Leibler divergence from the LLM's output distribution to the one that is read from a layer
(Belrose et al. 2023, arXiv 2303.08112). All weights begin at zero, so the lens begins as LogitLens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentbank.errors import ModelError
from latentbank.models.language.translators import Translators, card_of
from latentbank.models.training.checkpoint import Checkpoint
from latentbank.models.training.texts import Ids, batches, counted_tokens, ids_of, split
from latentbank.models.vision.answers import check_whole
from latentbank.progress import Progress, Silent
from latentbank.values import Layers, layers_of

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.language.unembedding import Unembedding

_MEASURED = 1000  # held-out tokens, padding included


@dataclass(frozen=True)
class TunedSettings:
    """How a tuned lens is trained.

    Attributes:
        passes: how often the corpus is read.
        tokens: tokens of one step, padding included.
        rate: highest learning rate of Adam; it falls to zero in a straight line.
        seed: of the order of the sentences.
    """

    passes: int = 1
    tokens: int = 128
    rate: float = 1e-3
    seed: int = 0


def train_tuned(
    language: LanguageModel,
    unembedding: Unembedding,
    sentences: Sequence[str],
    layers: Layers | None = None,
    settings: TunedSettings | None = None,
    *,
    corpus: str = "",
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Translators:
    """Train a tuned lens on sentences. The LLM itself does not change.

    Args:
        language: the LLM, loaded whole.
        unembedding: its own.
        sentences: text; every twentieth sentence is held out, to measure the divergence on.
        layers: the layers that get a map; None: all but the last, which needs none.
        settings: how it is trained.
        corpus: the corpus's name, for the card.
        checkpoint: where it is kept what was learned so far: a killed run, called again in the same way, continues from
            there, and gives the same weights as one that was not killed. None: nowhere.
        progress: receives the number of tokens done.

    Raises:
        CorpusError: there are too few sentences.
        ModelError: only part of the LLM is loaded, or the loss is not finite.
    """
    check_whole(language)
    with unembedding.prepacked():
        return _trained(language, unembedding, sentences, layers, settings, corpus, checkpoint, progress)


def _trained(
    language: LanguageModel,
    unembedding: Unembedding,
    sentences: Sequence[str],
    layers: Layers | None,
    settings: TunedSettings | None,
    corpus: str,
    checkpoint: Checkpoint | None,
    progress: Progress | None,
) -> Translators:
    settings, shown = settings or TunedSettings(), progress or Silent()
    chosen = chosen_layers(language, layers)
    training, held_out = split(ids_of(language, sentences))
    maps = {layer: _Map(language.hidden_size).to(language.device) for layer in chosen}
    before = _divergences(language, unembedding, maps, held_out, settings.tokens)
    total = settings.passes * sum(map(len, training))
    weights = [weight for each in maps.values() for weight in each.parameters()]
    optimizer = torch.optim.Adam(weights, lr=settings.rate)
    known = 0
    if checkpoint is not None:
        known, kept = checkpoint.begin(language, training, chosen, {"kind": "tuned", **asdict(settings)})
        _restore(maps, optimizer, kept)
    done = 0
    for step, group in enumerate(_groups(training, settings), 1):
        if step > known:
            for layer, loss in _losses(language, unembedding, maps, group):
                if not bool(loss.isfinite()):
                    raise ModelError(
                        f"The loss of layer {layer} is not finite; train with a lower rate.", argument="rate"
                    )
                loss.backward()
            for part in optimizer.param_groups:
                part["lr"] = settings.rate * (1 - done / total)
            optimizer.step()
            optimizer.zero_grad()
        done += sum(map(len, group))
        if step > known:
            if checkpoint is not None:
                checkpoint.save(step, lambda: _state(maps, optimizer))
            shown.update(done, total)
    after = _divergences(language, unembedding, maps, held_out, settings.tokens)
    card = card_of(
        language,
        corpus=corpus,
        sentences=len(training),
        held_out=len(held_out),
        settings=asdict(settings),
        divergence={str(layer): {"before": before[layer], "after": after[layer]} for layer in chosen},
    )
    return Translators(
        "tuned",
        {layer: each.weight.detach().cpu() for layer, each in maps.items()},
        {layer: each.bias.detach().cpu() for layer, each in maps.items()},
        card,
    )


def _groups(sentences: Sequence[Ids], settings: TunedSettings) -> Iterator[list[Ids]]:
    """Yield the sentences of each step, of all passes."""
    for number in range(settings.passes):
        yield from batches(sentences, settings.tokens, settings.seed + number)


def _state(maps: Mapping[int, _Map], optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Return all that the next step depends on, by name."""
    found = {
        f"map.{layer}.{name}": tensor
        for layer, each in maps.items()
        for name, tensor in each.state_dict().items()
    }
    for number, parts in optimizer.state_dict()["state"].items():
        found |= {f"adam.{number}.{name}": tensor for name, tensor in parts.items()}
    return found


def _restore(maps: Mapping[int, _Map], optimizer: torch.optim.Adam, kept: Mapping[str, Tensor]) -> None:
    """Set what `_state` returned; nothing is set if there is nothing."""
    if not kept:
        return
    adam: dict[int, dict[str, Tensor]] = {}
    for name, tensor in kept.items():
        of, number, part = name.split(".")
        if of == "adam":
            adam.setdefault(int(number), {})[part] = tensor.cpu() if part == "step" else tensor
    for layer, each in maps.items():
        each.load_state_dict({name: kept[f"map.{layer}.{name}"] for name in each.state_dict()})
    optimizer.load_state_dict({**optimizer.state_dict(), "state": adam})


def chosen_layers(language: LanguageModel, layers: Layers | None) -> list[int]:
    """Return the layers that get a map, ascending; None: all but the last.

    Raises:
        LayerNotFound: the LLM does not have a layer, or it is the last one.
    """
    from latentbank.errors import LayerNotFound

    if layers is None:
        return list(range(language.num_layers))
    chosen = sorted(layers_of(layers))
    for layer in chosen:
        if not 0 <= layer < language.num_layers:
            raise LayerNotFound(
                f"Layer {layer} of {language.name} gets no map: those before the last get one, 0 to "
                f"{language.num_layers - 1}.",
                argument="layers",
            )
    return chosen


class _Map(nn.Module):
    """x + W x + b, beginning as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.linear(x, self.weight, self.bias)


def _losses(
    language: LanguageModel, unembedding: Unembedding, maps: Mapping[int, _Map], group: Sequence[Ids]
) -> Any:
    """Yield each layer with its mean divergence over the counted tokens of some sentences, a scalar."""
    last = language.num_layers
    found = language.hidden_states(group, [*maps, last])
    counted = counted_tokens(language, group)

    def rows(layer: int) -> Tensor:
        parts = [
            states[layer][counted[row, : len(ids)].to(language.device)]
            for row, (ids, states) in enumerate(zip(group, found, strict=True))
        ]
        return torch.cat(parts).clone().float()

    with torch.no_grad():
        target = unembedding.logits(rows(last)).float().log_softmax(-1).clone()
        chances = target.exp()
    for layer, each in maps.items():
        guess = unembedding.logits(each(rows(layer)), gradient=torch.is_grad_enabled()).float()
        yield layer, (chances * (target - guess.log_softmax(-1))).sum(-1).mean()


def _divergences(
    language: LanguageModel,
    unembedding: Unembedding,
    maps: Mapping[int, _Map],
    sentences: Sequence[Ids],
    tokens: int,
) -> dict[int, float]:
    """Return each layer's mean divergence on held-out sentences, in nats; of `_MEASURED` tokens at most."""
    sums = dict.fromkeys(maps, 0.0)
    count = 0
    with torch.no_grad():
        for group in itertools.islice(batches(sentences, tokens), max(1, _MEASURED // tokens)):
            weight = int(counted_tokens(language, group).sum())
            count += weight
            for layer, loss in _losses(language, unembedding, maps, group):
                sums[layer] += weight * float(loss)
    return {layer: total / count for layer, total in sums.items()}
