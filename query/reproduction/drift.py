"""How far tokens drift: the cosine of each token's hidden state at a layer to its own at layer 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from latentbank.models.vision.sources import ImageSource
from latentbank.query.reading.norms import SENTENCES, measure_norms
from latentbank.query.reading.visual_tokens import image_tokens
from latentbank.query.reproduction.measured import Measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.progress import Progress

_BATCH = 4  # images in one forward pass: all layers are kept


def drift(
    model: VisualModel, images: Sequence[ImageSource], name: str, progress: Progress
) -> Iterator[Measured]:
    """Yield the mean cosine to layer 0 at every layer, of visual tokens and of text.

    Text is a few plain sentences without an image; its special tokens and the first real token, the attention sink, do
    not count. (The authors measure text beside an image.)

    Args:
        model: the VLM.
        images: the images.
        name: the model's name in tables.
        progress: receives the number of images done.
    """
    layers = list(range(model.num_layers + 1))
    progress.stage("drift of tokens", "images")
    found: dict[str, _Means] = {"visual": _Means(), "text": _Means()}
    done = 0
    for part in image_tokens(model, images, layers, None, _BATCH, None):
        for image in part:
            found["visual"].add(image.tokens.states)
        done += len(part)
        progress.update(done, len(images))
    for states in _text_states(model.language, layers):
        found["text"].add(states)
    for kind, means in found.items():
        for layer in layers[1:]:
            yield Measured("drift", name, "", kind, layer, value=means.at(layer), of=means.count)


def norms(model: VisualModel, images: Sequence[ImageSource], name: str) -> Iterator[Measured]:
    """Yield median and largest norm at every layer, of visual tokens and of text."""
    measured = measure_norms(model, images, range(model.num_layers + 1), batch=_BATCH)
    for layer in measured.layers:
        for kind, spread in (("visual", layer.visual), ("text", layer.text)):
            for statistic, value in (("median", spread.median), ("largest", spread.largest)):
                yield Measured(
                    "norms", name, "", f"{kind}, {statistic}", layer.layer, value=value, of=spread.tokens
                )


class _Means:
    """The mean cosine to layer 0, collected token by token."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = defaultdict(float)
        self.count = 0

    def add(self, states: Mapping[int, torch.Tensor]) -> None:
        first = states[0].float()
        self.count += len(first)
        for layer, rows in states.items():
            cosines = torch.nn.functional.cosine_similarity(first, rows.float(), dim=-1)
            self._sums[layer] += float(cosines.sum())

    def at(self, layer: int) -> float:
        return self._sums[layer] / max(self.count, 1)


def _text_states(language: LanguageModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    special = set(language.tokenizer.all_special_ids)
    ids = [language.encode(sentence)[: language.max_length] for sentence in SENTENCES]
    for sentence, states in zip(ids, language.hidden_states(ids, layers), strict=True):
        places = [place for place, token in enumerate(sentence) if token not in special][1:]
        yield {layer: states[layer][places] for layer in layers}
